"""What a training starts from, in fairseq's order of options, and what it refuses."""

from types import SimpleNamespace

import pytest
from made_up_checkpoints import saved_checkpoint

from fairseq_signals_ext.checkpoints.reading import read_checkpoint
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.inference.network import build_model
from fairseq_signals_ext.tasks._starting import check_fits, starting_point


@pytest.fixture()
def options(tmp_path):
    """fairseq's options, all at their defaults."""
    names = {"save_dir": str(tmp_path / "run"), "restore_file": "checkpoint_last.pt", "reset_optimizer": False}
    (tmp_path / "run").mkdir()
    return SimpleNamespace(**names, continue_once=None, finetune_from_model=None)


def test_nothing(options):
    assert starting_point(options) is None
    options.restore_file = "nowhere.pt"  # fairseq starts anew as well
    assert starting_point(options) is None


def test_order(options, tmp_path):
    for option in ("finetune_from_model", "continue_once"):
        setattr(options, option, str(saved_checkpoint(tmp_path / f"{option}.pt")))
        start = starting_point(options)
        assert start.checkpoint.path.stem == option
        assert start.goes_on == (option == "continue_once")
    saved_checkpoint(tmp_path / "run" / "checkpoint_last.pt")
    assert starting_point(options).checkpoint.path == tmp_path / "run" / "checkpoint_last.pt"
    assert starting_point(options).goes_on
    options.restore_file = str(tmp_path / "continue_once.pt")
    assert starting_point(options).checkpoint.path.stem == "continue_once"


@pytest.mark.parametrize("option", ["finetune_from_model", "continue_once"])
def test_missing(options, option):
    setattr(options, option, "nowhere.pt")
    with pytest.raises(UserError, match=f"nowhere.pt: no such checkpoint; mend checkpoint.{option}"):
        starting_point(options)


def test_what_computes_otherwise_does_not_fit(tmp_path, registered):
    here = build_model(read_checkpoint(saved_checkpoint(tmp_path / "here.pt", "pretraining")))
    check_fits(read_checkpoint(tmp_path / "here.pt"), here)
    for option, value in {"encoder_attention_heads": 4, "activation_fn": "relu", "conv_pos_groups": 4}.items():
        there = read_checkpoint(saved_checkpoint(tmp_path / "there.pt", "pretraining", **{option: value}))
        if option == "conv_pos_groups":
            check_fits(there, here)  # the same
            continue
        with pytest.raises(UserError, match=f"there.pt: is of another model .*: {option} is {value} there and"):
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
    with pytest.raises(UserError, match="checkpoint_last.pt: is of another model .*; to start from its encoder only"):
        check_fits(pretraining, classifier)
