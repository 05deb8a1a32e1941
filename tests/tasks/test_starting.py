"""What a training starts from, in fairseq's order of options, and what it refuses."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from made_up_checkpoints import made_up_checkpoint, saved_checkpoint
from omegaconf import OmegaConf

from fairseq_signals_ext.checkpoints.reading import read_checkpoint
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.network import build_model
from fairseq_signals_ext.tasks._starting import check_fits, newest_whole, starting_point


@pytest.fixture()
def options(tmp_path):
    """fairseq's options, all at their defaults."""
    names = {"save_dir": str(tmp_path / "run"), "restore_file": "checkpoint_last.pt", "reset_optimizer": False}
    (tmp_path / "run").mkdir()
    return SimpleNamespace(**names, continue_once=None, finetune_from_model=None)


def test_nothing(options):
    assert starting_point(options) is None


def test_order(options, tmp_path):
    for option in ("finetune_from_model", "continue_once"):
        setattr(options, option, str(saved_checkpoint(tmp_path / f"{option}.pt")))
        start = starting_point(options)
        assert start.checkpoint.path.stem == option
        assert start.continues == (option == "continue_once")
    saved_checkpoint(tmp_path / "run" / "checkpoint_last.pt")
    assert starting_point(options).checkpoint.path == tmp_path / "run" / "checkpoint_last.pt"
    assert starting_point(options).continues
    options.restore_file = str(tmp_path / "continue_once.pt")
    assert starting_point(options).checkpoint.path.stem == "continue_once"


@pytest.mark.parametrize("option", ["finetune_from_model", "continue_once", "restore_file"])
def test_missing(options, option):
    setattr(options, option, "nowhere.pt")
    with pytest.raises(UserError, match=f"nowhere.pt: no such checkpoint; correct checkpoint.{option}"):
        starting_point(options)


def test_what_computes_otherwise_does_not_fit(tmp_path, registered):
    here = build_model(read_checkpoint(saved_checkpoint(tmp_path / "here.pt", "pretraining")))
    check_fits(read_checkpoint(tmp_path / "here.pt"), here)
    for option, value in {"encoder_attention_heads": 4, "activation_fn": "relu", "conv_pos_groups": 4}.items():
        there = read_checkpoint(saved_checkpoint(tmp_path / "there.pt", "pretraining", **{option: value}))
        if option == "conv_pos_groups":
            check_fits(there, here)  # the same
            continue
        with pytest.raises(UserError, match=f"there.pt: belongs to another model .*: {option} is {value} there and"):
            check_fits(there, here)


def test_strides_of_convolutions(tmp_path, registered):
    here = build_model(read_checkpoint(saved_checkpoint(tmp_path / "here.pt", "pretraining")))
    same, other = "[(16,2,2)] + [(16,2,2)]*3", "[(16, 2, 2)] * 3 + [(16, 2, 1)]"
    check_fits(read_checkpoint(saved_checkpoint(tmp_path / "a.pt", "pretraining", conv_feature_layers=same)), here)
    there = read_checkpoint(saved_checkpoint(tmp_path / "b.pt", "pretraining", conv_feature_layers=other))
    with pytest.raises(UserError, match="conv_feature_layers is .* there and"):
        check_fits(there, here)


def test_pretraining_is_no_run_of_a_classifier(tmp_path, registered):
    classifier = build_model(read_checkpoint(saved_checkpoint(tmp_path / "classifier.pt")))
    pretraining = read_checkpoint(saved_checkpoint(tmp_path / "checkpoint_last.pt", "pretraining"))
    with pytest.raises(
        UserError, match="checkpoint_last.pt: belongs to another model .*; to start from its encoder only"
    ):
        check_fits(pretraining, classifier)


def write(path, epoch, updates):
    state = dict(made_up_checkpoint("pretraining").state)
    state["optimizer_history"] = [{"num_updates": updates}]
    state["extra_state"] = {"train_iterator": {"epoch": epoch}}
    torch.save(state, path)
    return path


def cut(path, kept=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])


@pytest.fixture()
def run(tmp_path):
    """The options of a training whose folder has some checkpoints, and that folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    defaults = {"save_dir": str(folder), "restore_file": "checkpoint_last.pt", "finetune_from_model": None}
    more = {"continue_once": None, "reset_optimizer": False}
    checkpoint = {**defaults, **more, "no_last_checkpoints": False, "checkpoint_suffix": ""}
    options = OmegaConf.create({"task": {**defaults, **more}, "checkpoint": checkpoint})
    for name, epoch, updates in (("1_4", 1, 4), ("1_10", 1, 10), ("_best", 1, 4), ("_last", 1, 12)):
        write(folder / f"checkpoint_{name.lstrip('_')}.pt", epoch, updates)
    return options, folder


@pytest.mark.parametrize("kept", [0, 0.0001, 0.3, 0.999])
def test_a_cut_checkpoint_is_replaced_by_the_newest_whole_one(run, kept, caplog):
    options, folder = run
    assert starting_point(options.task).checkpoint.path.name == "checkpoint_last.pt"
    assert not caplog.text
    cut(folder / "checkpoint_last.pt", kept)
    start = starting_point(options.task)
    assert (start.checkpoint.path.name, start.continues) == ("checkpoint_1_10.pt", True)
    # fairseq will load it, too
    assert options.checkpoint.restore_file == options.task.restore_file == str(folder / "checkpoint_1_10.pt")
    assert caplog.text.count("checkpoint_last.pt: ") == caplog.text.count("continues from") == 1
    assert starting_point(options.task).checkpoint.path.name == "checkpoint_1_10.pt"
    assert caplog.text.count("continues from") == 1


def test_the_newest_may_be_damaged_as_well(run):
    options, folder = run
    for name in ("last", "1_10"):
        cut(folder / f"checkpoint_{name}.pt")
    assert starting_point(options.task).checkpoint.path.name == "checkpoint_1_4.pt"


def test_order_of_checkpoints(run):
    options, folder = run
    for name, epoch, updates in (("_2_30", 2, 30), ("2", 3, 40), ("_10_100", 10, 100), ("9", 10, 99)):
        write(folder / f"checkpoint{name}.pt", epoch, updates)
    expected = ["_10_100", "9", "2", "_2_30", "_1_10"]
    found = []
    for name in expected:
        found.append(newest_whole(folder, with_best=True).name)
        (folder / f"checkpoint{name}.pt").unlink()
    assert found == [f"checkpoint{name}.pt" for name in expected]


def test_zeros_after_a_loss_of_power(run):
    options, folder = run
    last = folder / "checkpoint_last.pt"
    last.write_bytes(bytes(last.stat().st_size))
    assert starting_point(options.task).checkpoint.path.name == "checkpoint_1_10.pt"


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_the_best_checkpoint_may_be_all_that_is_left(run, damage):
    """But if there is no last one, nothing says that it is of this run."""
    options, folder = run
    for name in ("1_4", "1_10"):
        (folder / f"checkpoint_{name}.pt").unlink()
    damage(folder / "checkpoint_last.pt")
    start = starting_point(options.task)
    assert start is None if damage is Path.unlink else start.checkpoint.path.name == "checkpoint_best.pt"


def test_a_best_checkpoint_that_is_newer(run):
    options, folder = run
    write(folder / "checkpoint.best_loss_1.2340.pt", 1, 11)
    cut(folder / "checkpoint_last.pt")
    assert starting_point(options.task).checkpoint.path.name == "checkpoint.best_loss_1.2340.pt"


def test_a_last_checkpoint_that_was_never_copied(run):
    options, folder = run
    (folder / "checkpoint_last.pt").unlink()
    options.task.finetune_from_model = options.checkpoint.finetune_from_model = "other.pt"
    assert starting_point(options.task).checkpoint.path.name == "checkpoint_1_10.pt"
    assert options.checkpoint.finetune_from_model is None  # fairseq refuses both


def test_a_run_without_last_checkpoints_starts_anew(run):
    options, folder = run
    (folder / "checkpoint_last.pt").unlink()
    options.checkpoint.no_last_checkpoints = True
    assert starting_point(options.task) is None


def test_nothing_whole(run):
    options, folder = run
    for path in folder.iterdir():
        cut(path)
    with pytest.raises(UserError, match="checkpoint_last.pt: is damaged or cut short"):
        starting_point(options.task)


def test_a_file_that_was_named_is_not_replaced(run):
    options, folder = run
    cut(folder / "checkpoint_1_4.pt")
    options.task.restore_file = str(folder / "checkpoint_1_4.pt")
    with pytest.raises(UserError, match="checkpoint_1_4.pt: is damaged or cut short"):
        starting_point(options.task)


def test_parts_of_a_checkpoint_are_left_to_fairseq(run, tmp_path):
    options, folder = run
    (tmp_path / "there-shard0.pt").touch()
    options.task.restore_file = str(tmp_path / "there.pt")
    assert starting_point(options.task) is None
    options.checkpoint.checkpoint_suffix = "-of-mine"
    saved_checkpoint(tmp_path / "other-of-mine.pt")
    options.task.restore_file = str(tmp_path / "other.pt")
    assert starting_point(options.task).checkpoint.path.name == "other-of-mine.pt"
