"""Reading fairseq's log and drawing it."""

import json

import pytest

from fairseq_signals_ext.cli import main
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.training_curve import draw_curve, read_log


def line(kind, prefix="", **values):
    entry = {"epoch": 1, **{f"{prefix}{key}": str(value) for key, value in values.items()}}
    return f"[2026-11-24 10:00:00,000][{kind}][INFO] - {json.dumps(entry)}\n"


LOG = (
    "[2026-11-24 10:00:00,000][fairseq.trainer][INFO] - begin training epoch 1\n"
    + line("train_inner", loss=9.5, loss_0=6.0, loss_3=3.0, accuracy=0.02, cmsc_accuracy=0.1, num_updates=10)
    + line("train_inner", loss=8.0, loss_0=5.5, loss_3=2.0, accuracy=0.05, cmsc_accuracy=0.3, num_updates=20)
    + line("train", "train_", loss=8.7, num_updates=20)
    + line("valid", "valid_", loss=7.0, accuracy=0.08, cmsc_accuracy=0.5, num_updates=20)
    + "[2026-11-24 10:00:01,000][train_inner][INFO] - {broken\n"
)


def test_values(tmp_path):
    (tmp_path / "hydra_train.log").write_text(LOG)
    curves = read_log(tmp_path)
    assert curves.train["loss"] == {10: 9.5, 20: 8.0}
    assert curves.train["cmsc_accuracy"] == {10: 0.1, 20: 0.3}
    assert curves.valid["loss"] == {20: 7.0}


def test_a_resumed_run_replaces_repeated_updates(tmp_path):
    log = tmp_path / "any.log"
    log.write_text(LOG + line("train_inner", loss=8.1, num_updates=20) + line("train_inner", loss=7.5, num_updates=30))
    assert read_log(log).train["loss"] == {10: 9.5, 20: 8.1, 30: 7.5}


@pytest.mark.parametrize("name, start", [("loss.png", b"\x89PNG"), ("new/loss.svg", b"<?xml")])
def test_picture(tmp_path, name, start):
    (tmp_path / "hydra_train.log").write_text(LOG)
    draw_curve(read_log(tmp_path), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    "metrics, shown",
    [({"auroc": 0.8, "auprc": 0.4}, ("Fine-tuning", "AUROC", "AUPRC")), ({"mae": 9}, ("Regression", "absolute error"))],
)
def test_picture_of_fine_tuning(tmp_path, metrics, shown):
    """Text stays text in the SVG, so visible text can be searched."""
    import matplotlib

    log = line("train_inner", loss=2.0, num_updates=10) + line("valid", "valid_", loss=1.5, num_updates=10, **metrics)
    (tmp_path / "hydra_train.log").write_text(log)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_curve(read_log(tmp_path), tmp_path / "curve.svg")
    picture = (tmp_path / "curve.svg").read_text()
    assert all(text in picture for text in shown)


def test_a_log_with_a_line_per_epoch_only(tmp_path, capsys):
    """As with a common.log_interval of more than an epoch's updates: means of epochs are drawn, with a hint."""
    log = tmp_path / "hydra_train.log"
    log.write_text(
        line("train", "train_", loss=2.0, num_updates=4)
        + line("valid", "valid_", loss=1.5, num_updates=4)
        + line("train", "train_", loss=1.0, num_updates=8)
    )
    assert read_log(tmp_path).train["loss"] == {4: 2.0, 8: 1.0}
    assert main(["curve", str(tmp_path), "--out", str(tmp_path / "loss.png")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{log}: has only the mean of each epoch; for more points, train with a smaller common.log_interval",
        str(tmp_path / "loss.png"),
    ]
    log.write_text(LOG)
    assert not read_log(log).is_per_epoch and read_log(log).train["loss"] == {10: 9.5, 20: 8.0}


def test_wrong_input(tmp_path):
    with pytest.raises(UserError, match="hydra_train.log: no such log"):
        read_log(tmp_path)
    (tmp_path / "hydra_train.log").write_text("nothing\n")
    with pytest.raises(UserError, match="log_format=json"):
        read_log(tmp_path)
    (tmp_path / "hydra_train.log").write_text(LOG)
    with pytest.raises(UserError, match="loss.nosuch"):
        draw_curve(read_log(tmp_path), tmp_path / "loss.nosuch")
