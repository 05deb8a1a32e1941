"""Trainings that follow one another in a process, and ones that are stopped and go on: as one alone, unbroken."""

import numpy as np
import pytest
import torch
from fine_tuning import CONFIGS as FINE_TUNING
from fine_tuning import SMALL_RUN, write_labelled
from in_process import saved, train_here
from made_up import write_label_file
from running import SMALL, logged

EPOCHS = ["++dataset.validate_interval=1", "++checkpoint.save_interval_updates=0"]
UNVALIDATED = ["++dataset.disable_validation=true"]
# a learning rate of 0: nothing gets better, and what is random of validation does not matter
STANDSTILL = ["optimization.lr=[0]"]
PLATEAU = ["lr_scheduler._name=reduce_lr_on_plateau", "++lr_scheduler.lr_patience=1", "++lr_scheduler.lr_shrink=0.5"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_labelled(tmp_path_factory.mktemp("data"))
    values = np.load(folder / "labels" / "y.npy")
    values[:, 2] = 1
    write_label_file(folder / "one_class", values, ["a", "b", "c"])
    return folder


def pretrain(data, out, *overrides):
    return train_here(data, out, *SMALL, *EPOCHS, *overrides)


def finetune(data, out, *overrides, labels="labels", config="tiny"):
    labels = [f"task.label_file={data / labels}", "model.model_path=null", "++model.no_pretrained_weights=true"]
    model = [option for option in SMALL if option.startswith("++model.") and "final_dim" not in option]
    model = [option for option in model if "latent" not in option and "negatives" not in option]
    options = [*SMALL_RUN, *model, *labels, *EPOCHS, *overrides]
    return train_here(data, out, *options, config=config, configs=FINE_TUNING)


def score(folder):
    """Update of the best checkpoint, and its score."""
    state = saved(folder, "checkpoint_best.pt")
    return state["optimizer_history"][-1]["num_updates"], state["extra_state"]["best"]


def updates(folder):
    return saved(folder)["optimizer_history"][-1]["num_updates"]


def same(first, second):
    """Whether two runs ended with the same weights, optimizer and state."""
    one, other = saved(first), saved(second)
    assert one["model"].keys() == other["model"].keys()
    assert one["extra_state"]["run"] == other["extra_state"]["run"]
    assert one["extra_state"].get("best") == other["extra_state"].get("best")
    for state in (one, other):  # which nothing depends on
        state["optimizer_history"][-1]["lr_scheduler_state"].pop("last_epoch", None)
    assert one["optimizer_history"][-1] == other["optimizer_history"][-1]
    groups = [state["last_optimizer_state"]["param_groups"][0]["lr"] for state in (one, other)]
    assert groups[0] == groups[1]
    return all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


@pytest.mark.parametrize(
    "metric, highest",
    [
        ("cmsc_accuracy", True),
        pytest.param("loss", False, marks=pytest.mark.slow),
        pytest.param("loss_3", False, marks=pytest.mark.slow),
    ],
)
def test_the_best_checkpoint_of_a_pretraining(data, tmp_path, metric, highest, caplog):
    """By whatever metric, without a word on its direction."""
    caplog.set_level("INFO")
    pretrain(data, tmp_path, f"++checkpoint.best_checkpoint_metric={metric}", "++optimization.max_epoch=3")
    found = logged(caplog.text, f"valid_{metric}")
    assert len(found) == 3 and score(tmp_path)[1] == pytest.approx(max(found) if highest else min(found), abs=1e-3)
    assert saved(tmp_path)["cfg"]["checkpoint"]["maximize_best_checkpoint_metric"] is highest


@pytest.mark.parametrize(
    "override, said",
    [
        ("++checkpoint.best_checkpoint_metric=auprc", "best_checkpoint_metric=auprc is not logged here; use loss"),
        ("++checkpoint.best_checkpoint_metric=temp", "best_checkpoint_metric=temp does not measure how good"),
        ("++checkpoint.maximize_best_checkpoint_metric=true", "loss is better when it is lower"),
    ],
)
def test_a_metric_that_cannot_choose_in_pretraining(data, tmp_path, override, said):
    with pytest.raises(SystemExit, match=said):
        pretrain(data, tmp_path, override)
    assert not list(tmp_path.glob("*.pt"))


def test_a_label_with_one_class_cannot_choose(data, tmp_path):
    chosen = ["++criterion.per_label=true", "checkpoint.best_checkpoint_metric=auroc_c"]
    with pytest.raises(SystemExit, match="valid.tsv: auroc_c, which chooses the best checkpoint, is undefined"):
        finetune(data, tmp_path, *chosen, labels="one_class")
    assert not list(tmp_path.glob("*.pt"))


def test_a_constant_value_cannot_choose_in_regression(data, tmp_path):
    chosen = ["++criterion.per_label=true", "checkpoint.best_checkpoint_metric=r2_c"]
    with pytest.raises(SystemExit, match="valid.tsv: r2_c, which chooses the best checkpoint, is undefined"):
        finetune(data, tmp_path, *chosen, labels="one_class", config="age")


def test_trainings_of_one_process_know_nothing_of_each_other(data, tmp_path):
    """As those of a sweep; the first is one that nothing can beat, and that is near the end of its patience."""
    alone = ["++checkpoint.patience=3", "++optimization.max_epoch=4"]
    finetune(data, tmp_path / "alone", *alone)
    log = [f"++common.log_file={tmp_path / 'first.log'}", f"++common.tensorboard_logdir={tmp_path / 'board'}"]
    unbeaten = ["checkpoint.best_checkpoint_metric=accuracy", "++checkpoint.patience=3", *log]
    pretrain(data, tmp_path / "first", *unbeaten, *STANDSTILL, "++optimization.max_epoch=3")
    lines = (tmp_path / "first.log").read_text()
    finetune(data, tmp_path / "second", *alone)
    assert score(tmp_path / "alone") == score(tmp_path / "second")
    assert same(tmp_path / "alone", tmp_path / "second")
    assert (tmp_path / "first.log").read_text() == lines


def test_patience_and_plateau_go_on(data, tmp_path):
    """Stopped at the end of an epoch, and in the middle of one."""
    options = ["++checkpoint.patience=6", *PLATEAU, "optimization.lr=[1e-9]", "++checkpoint.save_interval_updates=3"]
    finetune(data, tmp_path / "unbroken", *options)
    # validated after 3 and 4 of the four updates of an epoch, ...: six times after the first nothing is better
    assert updates(tmp_path / "unbroken") == 15
    for stop in (8, 9):
        finetune(data, tmp_path / f"{stop}", *options, f"++optimization.max_update={stop}")
        assert updates(tmp_path / f"{stop}") == stop
        finetune(data, tmp_path / f"{stop}", *options)
        assert same(tmp_path / "unbroken", tmp_path / f"{stop}"), stop


def test_larger_batches_from_the_middle_of_an_epoch_on(data, tmp_path, caplog):
    """fairseq counts batches: of larger ones an epoch may have fewer than were done."""
    options = ["++dataset.batch_size=1", "++optimization.max_update=12", *UNVALIDATED]
    finetune(data, tmp_path, *options)
    assert saved(tmp_path)["extra_state"]["train_iterator"]["iterations_in_epoch"] == 12  # of 16
    caplog.set_level("INFO")
    finetune(data, tmp_path, *UNVALIDATED, "++dataset.batch_size=4", "++optimization.max_epoch=1")
    assert "epoch 1 continues after 3 of 4 batches" in caplog.text
    assert updates(tmp_path) == 13
    assert saved(tmp_path)["extra_state"]["train_iterator"]["epoch"] == 2


def test_the_last_checkpoint_is_cut(data, tmp_path, caplog):
    """The same command continues from the newest whole one, as if that had been the last."""
    options = ["++checkpoint.save_interval_updates=3", *UNVALIDATED, "++optimization.max_epoch=2"]
    finetune(data, tmp_path / "unbroken", *options)
    finetune(data, tmp_path / "cut", *options, "++optimization.max_update=7")
    last = tmp_path / "cut" / "checkpoint_last.pt"
    last.write_bytes(last.read_bytes()[:5000])
    names = sorted(path.name for path in last.parent.glob("*.pt"))
    assert names == ["checkpoint_1_3.pt", "checkpoint_2_6.pt", "checkpoint_last.pt"]
    caplog.set_level("INFO")
    finetune(data, tmp_path / "cut", *options)
    assert caplog.text.count("continues from") == 1
    assert f"Loaded checkpoint {tmp_path / 'cut' / 'checkpoint_2_6.pt'}" in caplog.text
    assert same(tmp_path / "unbroken", tmp_path / "cut")


def test_a_checkpoint_that_is_not_there(data, tmp_path):
    with pytest.raises(SystemExit, match="nowhere.pt: no such checkpoint; correct checkpoint.restore_file"):
        pretrain(data, tmp_path, f"checkpoint.restore_file={tmp_path / 'nowhere.pt'}")
    assert not list(tmp_path.glob("*.pt"))


def test_a_finished_training_stays_as_it_is(data, tmp_path, caplog):
    """Started again, it ends at once; with more updates it continues."""
    pretrain(data, tmp_path, *UNVALIDATED, "++optimization.max_update=2")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as ended:
        pretrain(data, tmp_path, *UNVALIDATED, "++optimization.max_update=2")
    assert ended.value.code == 0
    assert (
        "this training is finished, with 2 updates; to continue it, set optimization.max_update to more" in caplog.text
    )
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")} == before
    pretrain(data, tmp_path, *UNVALIDATED, "++optimization.max_update=3")
    assert updates(tmp_path) == 3


def test_another_criterion_is_one_line(data, tmp_path):
    pretrain(data, tmp_path, *UNVALIDATED, "++optimization.max_update=1")
    others = ["model._name=ecg_wav2vec2", "criterion._name=wav2vec", "++optimization.max_update=2"]
    with pytest.raises(SystemExit) as ended:
        pretrain(data, tmp_path, *UNVALIDATED, *others)
    told = str(ended.value)
    assert told.startswith("error: ") and "was trained with criterion " in told and "checkpoint.reset_optimizer" in told
