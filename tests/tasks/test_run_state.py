"""What fairseq keeps of a training in its modules: forgotten between trainings, and kept over an interruption."""

import logging
import types

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.logging import progress_bar
from made_up import open_dataset, write_shards
from made_up_checkpoints import made_up_checkpoint
from omegaconf import OmegaConf

from fairseq_signals_ext.tasks._run_state import Run
from fairseq_signals_ext.tasks._starting import StartingPoint
from fairseq_signals_ext.tasks.ecg_pretraining import EcgPretrainingTask

LABELS = b"labels"


@pytest.fixture(scope="module", autouse=True)
def fairseq_train():
    """The module of the running command."""
    import fairseq_cli.train

    return fairseq_cli.train


def options(folder, metric="auprc", maximize=True, subset="valid", keep=0, **others):
    checkpoint = {
        "best_checkpoint_metric": metric,
        "maximize_best_checkpoint_metric": maximize,
        "keep_best_checkpoints": keep,
        "save_dir": str(folder),
        "no_save": False,
        "reset_lr_scheduler": False,
        **others,
    }
    return OmegaConf.create(
        {"checkpoint": checkpoint, "dataset": {"valid_subset": subset}, "common": {"log_file": None}}
    )


def scheduler():
    """fairseq's `reduce_lr_on_plateau` without its optimizer."""
    from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import ReduceLROnPlateauLRSchedule

    made = ReduceLROnPlateauLRSchedule.__new__(ReduceLROnPlateauLRSchedule)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    made.lr_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3, mode="max")
    return made


class Trainer:
    """fairseq's, after it has loaded a checkpoint."""

    def __init__(self, config):
        self.cfg, self.steps = config, []
        self.lr_scheduler = scheduler()
        self.lr_scheduler.lr_scheduler.best = 0.9

    def lr_step(self, epoch, score):
        self.steps.append((epoch, score))


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Two validation sets."""
    folders = [tmp_path_factory.mktemp(f"data{seed}") for seed in range(2)]
    for seed, folder in enumerate(folders):
        write_shards(folder, [5000] * 4, split="valid", seed=seed)
    return [open_dataset(folder, "valid", pairs="none") for folder in folders]


def begin(config, dataset=None, labels=LABELS, continues=True, stored=None):
    run = Run()
    checkpoint = types.SimpleNamespace(config=stored if stored is not None else config)
    run.begin(config, StartingPoint(checkpoint, continues))
    if dataset is not None:
        run.validates(dataset, labels)
    return run


def interrupted(fairseq_train, config, dataset):
    """`extra_state` of a run that has waited two epochs for something better than 0.9."""
    run = begin(config, dataset)
    checkpoint_utils.save_checkpoint.best = 0.9
    fairseq_train.should_stop_early.best, fairseq_train.should_stop_early.num_runs = np.float64(0.9), 2
    state = run.state()
    return {"run": state, "best": 0.9, "val_loss": 0.5, "train_iterator": {"epoch": 4, "iterations_in_epoch": 0}}


def load(run, trainer, extra_state):
    """As fairseq does it."""
    checkpoint_utils.save_checkpoint.best = extra_state["best"]
    run.continue_from(trainer, extra_state, extra_state["train_iterator"]["epoch"])
    return getattr(checkpoint_utils.save_checkpoint, "best", None)


def patience(fairseq_train):
    stop = fairseq_train.should_stop_early
    return getattr(stop, "best", None), getattr(stop, "num_runs", None)


def test_a_training_begins_with_nothing(fairseq_train, tmp_path):
    checkpoint_utils.save_checkpoint.best = 0.1
    fairseq_train.should_stop_early.best, fairseq_train.should_stop_early.num_runs = 0.1, 7
    closed = []
    progress_bar._tensorboard_writers["train"] = types.SimpleNamespace(close=lambda: closed.append(1))
    logs = [logging.getLogger(name) for name in ("fairseq_cli.train", "fairseq.logging.progress_bar")]
    for log in logs:
        log.addHandler(logging.FileHandler(tmp_path / "earlier.log"))
    own = logging.FileHandler(tmp_path / "own.log")
    logs[0].addHandler(own)
    (tmp_path / ".checkpoint_last.pt.1-abc.tmp").touch()  # of one that was killed
    config = options(tmp_path)
    config.common.log_file = str(tmp_path / "own.log")
    Run().begin(config, None)
    assert not hasattr(checkpoint_utils.save_checkpoint, "best") and patience(fairseq_train) == (None, None)
    assert closed == [1] and not progress_bar._tensorboard_writers
    assert [h for log in logs for h in log.handlers if isinstance(h, logging.FileHandler)] == [own]
    assert [path.name for path in tmp_path.glob(".*.tmp")] == []
    logs[0].removeHandler(own)
    own.close()


def test_an_interruption_changes_nothing(fairseq_train, datasets, tmp_path):
    config = options(tmp_path)
    extra_state = interrupted(fairseq_train, config, datasets[0])
    # as a checkpoint holds it
    torch.save(extra_state, tmp_path / "a.pt")
    extra_state = torch.load(tmp_path / "a.pt", weights_only=True)
    run, trainer = begin(config, datasets[0]), Trainer(config)
    assert patience(fairseq_train) == (None, None)
    assert load(run, trainer, extra_state) == 0.9
    assert patience(fairseq_train) == (0.9, 2)
    assert trainer.steps == [(4, 0.5)]  # of the epoch that was over when the checkpoint was written
    extra_state["train_iterator"]["iterations_in_epoch"] = 3
    trainer = Trainer(config)
    load(run, trainer, extra_state)
    assert trainer.steps == []


@pytest.mark.parametrize(
    "changes, data, labels, said",
    [
        ({"metric": "auroc"}, 0, LABELS, "checkpoint.best_checkpoint_metric"),
        ({"maximize": False}, 0, LABELS, "maximize_best_checkpoint_metric"),
        ({}, 1, LABELS, "the validation recordings or their labels"),
        ({}, 0, b"others", "the validation recordings or their labels"),
        ({"subset": "other"}, 1, LABELS, "the validation recordings or their labels"),
        ({"subset": "other,valid"}, 0, LABELS, None),  # the same by another name
        ({"subset": "valid,test"}, 0, LABELS, None),
    ],
)
def test_another_choice_forgets_the_best(fairseq_train, datasets, tmp_path, changes, data, labels, said, caplog):
    extra_state = interrupted(fairseq_train, options(tmp_path), datasets[0])
    config = options(tmp_path, keep=2, **changes)
    kept = tmp_path / f"checkpoint.best_{config.checkpoint.best_checkpoint_metric}_0.9000.pt"
    kept.touch()
    run, trainer = begin(config, datasets[data], labels), Trainer(config)
    trainer.lr_scheduler.lr_scheduler.num_bad_epochs = 2
    best = load(run, trainer, extra_state)
    plateau = trainer.lr_scheduler.lr_scheduler
    if said is None:
        assert best == 0.9 and patience(fairseq_train) == (0.9, 2) and plateau.best == 0.9 and kept.exists()
        return
    assert said in caplog.text
    assert best is None and patience(fairseq_train) == (None, None) and trainer.steps == []
    assert (plateau.best, plateau.num_bad_epochs) == (-np.inf, 0)
    assert not kept.exists() and kept.with_name(f"earlier_{kept.name}").exists()


def test_a_run_between_that_validates_nothing(fairseq_train, datasets, tmp_path):
    """It hands on what the best score was of."""
    config = options(tmp_path)
    extra_state = interrupted(fairseq_train, config, datasets[0])
    between = begin(config)
    assert load(between, Trainer(config), extra_state) == 0.9
    extra_state = {**extra_state, "run": between.state()}
    assert load(begin(config, datasets[1]), Trainer(config), extra_state) is None


@pytest.mark.parametrize("metric, best", [("auprc", 0.9), ("loss", None)])
def test_a_checkpoint_of_before(fairseq_train, datasets, tmp_path, metric, best):
    """It says nothing of its data, and nothing of patience but the best score."""
    extra_state = interrupted(fairseq_train, options(tmp_path), datasets[0])
    del extra_state["run"]
    config = options(tmp_path, metric=metric)
    run = begin(config, datasets[1], stored=OmegaConf.to_container(options(tmp_path)))
    assert load(run, Trainer(config), extra_state) == best
    assert patience(fairseq_train) == ((0.9, 0) if best else (None, None))


def test_the_checkpoint_is_let_go_of(tmp_path):
    """A training may run for weeks, and its checkpoints be replaced: what is mapped would stay on the disk."""
    run, checkpoint = Run(), made_up_checkpoint()
    run.begin(options(tmp_path), StartingPoint(checkpoint, True))
    run.is_built()
    assert run.start.checkpoint.config == checkpoint.config and run.start.continues
    assert run.start.checkpoint.state.keys() == {"cfg"}
    Run().is_built()


def test_another_model_s_patience_is_none_of_ours(fairseq_train, datasets, tmp_path):
    extra_state = interrupted(fairseq_train, options(tmp_path), datasets[0])
    run = begin(options(tmp_path), datasets[0], continues=False)
    run.continue_from(Trainer(options(tmp_path)), extra_state, 4)
    assert patience(fairseq_train) == (None, None)


def test_the_plateau_s_count_is_kept():
    Run().begin(None, None)
    one, other = scheduler(), scheduler()
    for score in (0.5, 0.4, 0.3):
        one.lr_scheduler.step(score)
    other.load_state_dict(one.state_dict())
    assert (other.lr_scheduler.best, other.lr_scheduler.num_bad_epochs) == (0.5, 2)
    other.load_state_dict({"best": 0.7, "last_epoch": 3})  # of stock fairseq
    assert (other.lr_scheduler.best, other.lr_scheduler.num_bad_epochs) == (0.7, 0)


@pytest.mark.parametrize("value, kept", [(float("nan"), None), (0.5, 0.5), (np.float64("nan"), None)])
def test_a_score_without_a_value_is_none(tmp_path, value, kept, caplog):
    """NaN would be the best score for ever: nothing is above or below it."""
    task = EcgPretrainingTask.__new__(EcgPretrainingTask)
    task.run = Run()
    task.run.begin(options(tmp_path), None)
    stats = {"auprc": value, "auroc": float("nan")}
    task.post_validate(None, stats, None)
    assert stats["auprc"] == kept and np.isnan(stats["auroc"])
    assert ("auprc has no value" in caplog.text) == (kept is None)
