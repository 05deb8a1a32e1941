"""A kind of task from outside the package: labels that are counts, by Poisson regression, through the real commands."""

import json

import numpy as np
import pandas as pd
import pytest
from fine_tuning import CONFIGS, SMALL_RUN, write_labelled, write_pretrained
from made_up import write_label_file
from omegaconf import OmegaConf
from running import BIN, error_line, logged, run, train, weights

COUNTING = '''
"""Numbers of events, such as extrasystoles of a recording: a Poisson distribution whose rate's logarithm is learned."""

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from fairseq.dataclass import FairseqDataclass

import fairseq_signals_ext

fairseq_signals_ext.register()

from fairseq_signals_ext.criterions.classification import LabelCriterion
from fairseq_signals_ext.criterions.objective import Better, register_objective
from fairseq_signals_ext.evaluation.predictions import to_recordings
from fairseq_signals_ext.evaluation.kinds import Numbers, register_kind
from fairseq_signals_ext.evaluation.regression import label_metrics
from fairseq_signals_ext.tasks.ecg_classification import EcgClassificationConfig, EcgClassificationTask
from fairseq_signals_ext.tasks.ecg_pretraining import register_ecg_task


@dataclass(frozen=True)
class Counts(Numbers):
    def scores(self, outputs, activation):
        return np.exp(outputs)

    def tensor_scores(self, outputs, activation):
        return outputs.exp()

    def mean_of(self, outputs, activation):
        return outputs.exp().mean(0).log()


COUNTS = register_kind(Counts("counts", output_name="log_rates", score_name="count", display_name="count"))


@dataclass
class EcgCountingConfig(EcgClassificationConfig):
    pass


@register_ecg_task("ecg_counting", dataclass=EcgCountingConfig)
class EcgCountingTask(EcgClassificationTask):
    kind = COUNTS.name


@dataclass
class PoissonConfig(FairseqDataclass):
    pass


@register_objective("poisson", dataclass=PoissonConfig)
class Poisson(LabelCriterion):
    kind = COUNTS.name

    def __init__(self, cfg, task):
        super().__init__(task)

    def losses(self, outputs, targets):
        return F.poisson_nll_loss(outputs, targets, reduction="none")

    def scores(self, outputs):
        return outputs.exp()

    def metric_names(self):
        return {"mae": Better.LOWER}

    def validation_metrics(self, segments):
        return {"mae": float(label_metrics(to_recordings(segments))["mae"].mean())}
'''
NAMES = ["beats", "pauses"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of data, the user's folder, that of a training of two updates, and its log."""
    folder = tmp_path_factory.mktemp("counting")
    data = write_labelled(folder / "data")
    counts = np.random.default_rng(0).poisson((12, 3), (16, 2)).astype(float)
    counts[2, 0] = np.nan
    write_label_file(data / "labels", counts, NAMES)
    user_dir = folder / "counting_of_events"
    user_dir.mkdir()
    (user_dir / "__init__.py").write_text(COUNTING)
    write_pretrained(data, folder / "pretraining")
    return data, user_dir, folder, count(data, user_dir, folder, "poisson")


def count(data, user_dir, folder, criterion):
    """Train two updates; the log."""
    config = OmegaConf.load(CONFIGS / "tiny.yaml")
    config.task._name, config.criterion = "ecg_counting", {"_name": criterion}
    config.checkpoint = {"best_checkpoint_metric": "mae", "no_epoch_checkpoints": True}
    (user_dir / f"{criterion}_config.yaml").write_text(f"# @package _global_\n{OmegaConf.to_yaml(config)}")
    pretrained = folder / "pretraining" / "checkpoints" / "checkpoint_last.pt"
    return train(
        *(data, folder / criterion, f"task.label_file={data / 'labels'}", f"model.model_path={pretrained}"),
        *(*SMALL_RUN, f"common.user_dir={user_dir}", "++optimization.max_update=2", "++dataset.validate_interval=1"),
        config=f"{criterion}_config",
        configs=user_dir,
    )


def command(trained, *arguments):
    """Ours, with the user's folder."""
    _, user_dir, _, _ = trained
    return run([str(BIN / "fairseq-signals-ext"), *map(str, arguments), "--user-dir", str(user_dir)])


def checkpoint(trained):
    return trained[2] / "poisson" / "checkpoints" / "checkpoint_best.pt"


def test_it_trains_and_validates(trained):
    assert logged(trained[3], "valid_mae") and checkpoint(trained).is_file()
    assert weights(checkpoint(trained))["proj.weight"].shape[0] == 2


def test_predict_names_its_scores(trained, tmp_path):
    data = trained[0]
    done = command(
        trained, "predict", checkpoint(trained), data / "test.tsv", "--out", tmp_path / "p", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "p" / "predictions.csv")
    assert [name for name in table if name.startswith(("count_", "probab", "predic"))] == [
        "count_beats",
        "count_pauses",
    ]
    assert (table[["count_beats", "count_pauses"]] > 0).all(axis=None)
    assert not [name for name in table if name.startswith("positive_")]


def test_evaluate_measures_what_predict_says(trained, tmp_path):
    data = trained[0]
    of_one = (
        "--data",
        data,
        "--subset",
        "test",
        "--out",
        tmp_path / "e",
        "--resamples",
        20,
        "--device",
        "cpu",
        "--jobs",
        0,
    )
    done = command(trained, "evaluate", checkpoint(trained), *of_one)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert facts["kind"] == "counts" and (tmp_path / "e" / "scatter.png").is_file()
    found = pd.read_parquet(tmp_path / "e" / "predictions.parquet")
    errors = (found["count_beats"] - found["target_beats"]).abs().mean()
    assert facts["recordings"]["labels"]["beats"]["mae"] == pytest.approx(errors)
    files = (data / "test.tsv", "--out", tmp_path / "p", "--device", "cpu")
    assert command(trained, "predict", checkpoint(trained), *files).returncode == 0
    predicted = pd.read_csv(tmp_path / "p" / "predictions.csv")
    np.testing.assert_allclose(predicted["count_beats"], found["count_beats"], rtol=1e-5)


@pytest.mark.slow
def test_an_export_runs_with_its_scores(trained, tmp_path):
    done = command(trained, "export", checkpoint(trained), "--to", "onnx", "--out", tmp_path / "export")
    assert done.returncode == 0, done.stderr
    files = (trained[0] / "test.tsv", "--device", "cpu")
    for source, out in ((checkpoint(trained), "a"), (tmp_path / "export", "b")):
        assert command(trained, "predict", source, *files, "--out", tmp_path / out).returncode == 0
    one, other = (pd.read_csv(tmp_path / out / "predictions.csv")["count_pauses"] for out in "ab")
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_without_the_folder_it_is_refused(trained, tmp_path):
    files = [str(checkpoint(trained)), str(trained[0] / "test.tsv"), "--out", str(tmp_path / "p")]
    done = run([str(BIN / "fairseq-signals-ext"), "predict", *files])
    assert "its task is 'ecg_counting', which is not for ECGs here" in error_line(done)


def test_a_criterion_of_another_kind_is_refused(trained):
    data, user_dir, folder, _ = trained
    with pytest.raises(AssertionError, match="criterion regression does not fit task ecg_counting; use poisson"):
        count(data, user_dir, folder, "regression")
