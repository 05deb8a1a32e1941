"""Several models as one: `evaluate --ensemble` and `fairseq-validate` measure what `predict --ensemble` says."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from fine_tuning import CONFIGS, SMALL_RUN, validate_command
from in_process import train_here
from made_up import write_label_file, write_shards
from running import SMALL, error_line, logged, run
from sklearn.metrics import roc_auc_score

from fairseq_signals_ext.cli import main

SMALL_MODEL = [option for option in SMALL if option.startswith("++model.enc") or "conv" in option]
KINDS = {
    "sigmoid": [],
    "softmax": ["++criterion._name=softmax"],
    "regression": [],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "valid"):
        write_shards(folder, [5000, 7600] * 6, split=split)
    rng = np.random.default_rng(1)
    write_label_file(folder / "sigmoid", rng.integers(0, 2, (12, 3)).astype(float))
    write_label_file(folder / "softmax", np.eye(3)[np.arange(12) % 3])
    write_label_file(folder / "regression", rng.normal(60, 10, (12, 2)))
    return folder


def train(data, out, kind, seed, *overrides):
    given = ["++model.no_pretrained_weights=true", "++model.model_path=null", f"common.seed={seed}"]
    given += ["++optimization.max_epoch=1", "optimization.lr=[0.01]", "checkpoint.best_checkpoint_metric=loss"]
    given += ["++checkpoint.maximize_best_checkpoint_metric=false", f"task.label_file={data / kind}"]
    options = [*given, *SMALL_MODEL, *SMALL_RUN, *KINDS[kind], *overrides]
    config = "age" if kind == "regression" else "tiny"
    return train_here(data, out, *options, config=config, configs=CONFIGS) / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory):
    """Makes two models of a kind, once."""
    made = {}

    def make(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = [train(data, folder / str(seed), kind, seed) for seed in (1, 2)]
        return made[kind]

    return make


def validated(paths, data, kind):
    """Scores of segments by what `fairseq-validate` loads and does."""
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    import fairseq_signals_ext

    fairseq_signals_ext.register()
    task = "ecg_regression" if kind == "regression" else "ecg_classification"
    (model,), cfg, task = load_model_ensemble_and_task([":".join(map(str, paths))], {"task": task})
    model.eval()
    criterion = task.build_criterion(cfg.criterion).eval()
    task.load_dataset("valid")
    for sample in task.get_batch_iterator(task.dataset("valid"), max_sentences=5).next_epoch_itr(shuffle=False):
        with torch.no_grad():
            task.valid_step(sample, model, criterion)
    return task.collected()


@pytest.mark.parametrize(
    "kind", ["sigmoid", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("softmax", "regression"))]
)
def test_all_commands_take_the_mean_of_scores(data, pair, tmp_path, kind):
    paths = pair(kind)
    of_each = [validated([path], data, kind) for path in paths]
    assert abs(of_each[0].scores - of_each[1].scores).max() > 1e-3
    together = validated(paths, data, kind)
    expected = np.mean([one.scores for one in of_each], axis=0)
    assert together.scores == pytest.approx(expected, abs=1e-5 * abs(expected).max())

    evaluate = ["evaluate", "--ensemble", *map(str, paths), "--data", str(data), "--subset", "valid"]
    options = ["--out", str(tmp_path / "evaluation"), "--resamples", "10", "--jobs", "0"]
    assert main([*evaluate, *options]) == 0
    found = pd.read_parquet(tmp_path / "evaluation" / "predictions.parquet").sort_values("idx")
    predict = ["predict", str(paths[0]), str(data / "valid.tsv"), "--ensemble", str(paths[1])]
    assert main([*predict, "--out", str(tmp_path / "predictions")]) == 0
    said = pd.read_csv(tmp_path / "predictions" / "predictions.csv")
    columns = [name for name in said if name.startswith(("probability_", "prediction_"))]
    assert found[columns].to_numpy() == pytest.approx(said[columns].to_numpy(), rel=1e-4)
    facts = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert all(str(path) in facts["checkpoint"] for path in paths)
    if kind == "sigmoid":
        y = np.load(data / kind / "y.npy")
        expected = [roc_auc_score(y[:, label], said[columns[label]]) for label in range(3)]
        assert facts["recordings"]["macro"]["auroc"] == pytest.approx(np.mean(expected))


@pytest.mark.slow
def test_models_of_other_labels_or_inputs_are_no_ensemble(data, pair, tmp_path):
    other = train(data, tmp_path / "other", "regression", 1)
    with pytest.raises(SystemExit, match="cannot be in an ensemble with .*regression"):
        validated([pair("sigmoid")[0], other], data, "sigmoid")
    write_label_file(data / "names", np.load(data / "sigmoid" / "y.npy"), ["a", "b", "c"])
    named = train(data, tmp_path / "named", "sigmoid", 1, f"task.label_file={data / 'names'}")
    with pytest.raises(SystemExit, match="only one has label 'a'"):
        validated([pair("sigmoid")[0], named], data, "sigmoid")
    whole = train(data, tmp_path / "whole", "sigmoid", 1, "++task.normalize=true")
    with pytest.raises(SystemExit, match="standardisation by lead there and segment here"):
        validated([pair("sigmoid")[0], whole], data, "sigmoid")


@pytest.mark.slow
def test_the_command_validates_an_ensemble(data, pair):
    paths = pair("sigmoid")
    done = run(validate_command(data, ":".join(map(str, paths)), "valid", "--label-file", data / "sigmoid"))
    assert done.returncode == 0, done.stderr[-2000:]
    together = validated(paths, data, "sigmoid")
    expected = [roc_auc_score(together.targets[:, label], together.scores[:, label]) for label in range(3)]
    assert logged(done.stdout, "valid_segment_auroc") == pytest.approx([np.mean(expected)])
    line = error_line(run(validate_command(data, f"{paths[0]}:nothing.pt", "valid")))
    assert "nothing.pt: no such checkpoint" in line
