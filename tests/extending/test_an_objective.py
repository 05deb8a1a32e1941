"""An objective from outside the package, in a folder of its own, trained by fairseq's command."""

import os
import subprocess
import sys

import pytest
import torch
from made_up import write_shards
from omegaconf import OmegaConf
from running import BIN, CONFIGS, SMALL, error_line, logged, run, train, train_command, weights

from fairseq_signals_ext import cli
from fairseq_signals_ext.common.plugins import TRAINING
from fairseq_signals_ext.evaluation.training_curve import read_log

OBJECTIVE = '''
"""Which of two adjacent segments comes first? (as in arXiv 1603.08561, of frames of a video)"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics

import fairseq_signals_ext

fairseq_signals_ext.register()

from fairseq_signals_ext.criterions.objective import Better, Objective, register_objective
from fairseq_signals_ext.evaluation.training_curve import CurvePage


@dataclass
class SegmentOrderConfig(FairseqDataclass):
    order_weight: float = field(default=1.0, metadata={"help": "weight of the loss"})


@register_objective("segment_order", dataclass=SegmentOrderConfig)
class SegmentOrder(Objective, FairseqCriterion):
    NEEDS
    needs_head = True
    curve = CurvePage("Order", "loss (nats)", {"loss_order": "order"}, {"in_order": "in order"}, "share", top=1.0)

    def __init__(self, task, order_weight):
        super().__init__(task)
        self.order_weight = order_weight

    def add_head(self, model):
        model.add_head("order", torch.nn.Linear(model.cfg.encoder_embed_dim, 1))

    def logged(self, model):
        return {"loss": Better.LOWER, "in_order": Better.HIGHER}

    def forward(self, model, sample, reduce=True):
        features = model(**sample["net_input"])["features"].mean(1)
        logits, last = model.heads["order"](features)[:, 0], (sample["segment"] > 0).float()
        loss = self.order_weight * F.binary_cross_entropy_with_logits(logits, last, reduction="sum")
        right = ((logits > 0) == (last > 0)).sum()
        log = {"loss": loss.item(), "right": right.item(), "sample_size": len(last), "ntokens": len(last)}
        return loss, len(last), {**log, "nsentences": len(last)}

    @staticmethod
    def reduce_metrics(logs):
        size = sum(log["sample_size"] for log in logs)
        for key in ("loss", "loss_order"):
            metrics.log_scalar(key, sum(log["loss"] for log in logs) / size, size)
        metrics.log_scalar("in_order", sum(log["right"] for log in logs) / size, size)

    @staticmethod
    def logging_outputs_can_be_summed():
        return False
'''
TWO_UPDATES = [*SMALL, "++common.log_interval=1", "++optimization.max_update=2", "++dataset.validate_interval=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "valid"):
        write_shards(folder, [5000, 7600] * 4, split=split)
    return folder


def options_of(folder, name, needs):
    """The user's folder, of a name that no other module has, with the config `order`, and options of a training."""
    user_dir = folder / name
    user_dir.mkdir()
    (user_dir / "__init__.py").write_text(OBJECTIVE.replace("NEEDS", needs).replace("segment_order", name))
    config = OmegaConf.load(CONFIGS / "tiny.yaml")
    config.criterion = {"_name": name, "order_weight": 2.0}
    (user_dir / "order.yaml").write_text(f"# @package _global_\n{OmegaConf.to_yaml(config)}")
    return user_dir, [
        f"common.user_dir={user_dir}",
        "checkpoint.best_checkpoint_metric=in_order",
        *TWO_UPDATES,
    ]


def order(user_dir):
    """Where the config is."""
    return {"config": "order", "configs": user_dir}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    user_dir, options = options_of(folder, "segment_order", "needs_pairs = True")
    return user_dir, folder / "run", train(data, folder / "run", *options, **order(user_dir)), options


def test_it_trains_on_what_it_declares(data, trained):
    _, out, log, _ = trained
    assert len(logged(log, "loss_order")) == 2 and "pairs of adjacent segments" in log
    assert "in_order is better when it is higher" in log
    assert (out / "checkpoints" / "checkpoint_best.pt").is_file()
    assert weights(out / "checkpoints" / "checkpoint_last.pt")["heads.order.weight"].shape == (1, 32)


def test_its_parts_of_the_loss_are_drawn(trained, tmp_path):
    _, out, _, _ = trained
    assert read_log(out).page.parts == {"loss_order": "order"}
    done = run([str(BIN / "fairseq-signals-ext"), "curve", str(out), "--out", str(tmp_path / "curve.svg")])
    assert done.returncode == 0 and (tmp_path / "curve.svg").is_file()


def test_it_continues_with_its_head(data, trained):
    user_dir, out, _, options = trained
    before = weights(out / "checkpoints" / "checkpoint_last.pt")["heads.order.weight"]
    train(data, out, *options, "++optimization.max_update=3", "++optimization.lr=[1e-12]", **order(user_dir))
    after = weights(out / "checkpoints" / "checkpoint_last.pt")["heads.order.weight"]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9)


def test_without_the_folder_its_checkpoint_is_refused_and_with_it_the_encoder_is_used(data, trained, tmp_path):
    user_dir, out, _, _ = trained
    last = out / "checkpoints" / "checkpoint_last.pt"
    command = [str(BIN / "fairseq-signals-ext"), "embed", str(last), str(data / "valid.tsv"), "--device", "cpu"]
    assert "its criterion is 'segment_order', which is not for ECGs here" in error_line(
        run([*command, "--out", str(tmp_path / "refused")])
    )
    done = run([*command, "--out", str(tmp_path / "embedded"), "--user-dir", str(user_dir)])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "embedded" / "embeddings.npy").is_file()


def test_what_it_needs_is_seen_to(data, trained):
    user_dir, out, _, options = trained
    done = run(train_command(data, out.parent / "single", *options, "++task.pairs=none", **order(user_dir)))
    assert "segment_order needs pairs of segments: set task.pairs to fixed or random" in error_line(done)


def test_whole_recordings(data, tmp_path):
    """Of 10 and of 15.2 s, two and three segments."""
    user_dir, options = options_of(tmp_path, "segment_of_all", "needs_recordings = True")
    log = train(data, tmp_path / "run", *options, "++dataset.batch_size=8", **order(user_dir))
    assert "8 recordings in segments of 5 s from 8 recordings" in log
    assert logged(log, "valid_loss")


def test_a_folder_that_cannot_be_imported(tmp_path):
    with pytest.raises(SystemExit, match="error: --user-dir .*nowhere: cannot be imported"):
        cli.main(["predict", "a.pt", "a.npy", "--out", "out", "--user-dir", str(tmp_path / "nowhere")])
    (tmp_path / "broken_objective").mkdir()
    (tmp_path / "broken_objective" / "__init__.py").write_text("1 / 0")
    with pytest.raises(SystemExit, match="error: --user-dir .*broken_objective: cannot be imported .*division by zero"):
        cli.main(["predict", "a.pt", "a.npy", "--out", "out", "--user-dir", str(tmp_path / "broken_objective")])
    sys.path.remove(str(tmp_path))


def test_an_installed_package_needs_no_option(tmp_path):
    """Its entry point names the module; one that fails is told and left out."""
    (tmp_path / "installed_order.py").write_text(OBJECTIVE.replace("NEEDS", "needs_pairs = True"))
    (tmp_path / "broken_order.py").write_text("1 / 0")
    for name in ("installed_order", "broken_order"):
        facts = tmp_path / f"{name}-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[{TRAINING}]\norder = {name}\n")
    program = (
        "import fairseq_signals_ext as e; e.register(); from fairseq_signals_ext.checkpoints.allowed import NAMES;"
        "print('segment_order' in NAMES['criterion'])"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.split()[-1] == "True", done.stderr
    assert "broken_order: fairseq_signals_ext.training: 'order' cannot be imported (ZeroDivisionError" in done.stderr
