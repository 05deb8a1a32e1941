"""Windows through fairseq's own iterator and command: batches keep to them, on all ranks and after an interruption."""

import json
import sys

import pytest
import torch
from made_up import write_shards
from running import SMALL, run, train_command

from fairseq_signals_ext.data.batch_order import SharedBatches

# half of 256 recordings of 500 samples (12 kB), which are cut into blocks of two
RECORDINGS, WINDOW = 256, 130 * 12_000 / 1e9
SHORT = ["++task.segment_seconds=0.5", f"++task.shuffle_window_gb={WINDOW}"]

# the real command, with a note of each batch
RECORDER = """
import json, sys
import fairseq_signals_ext
from fairseq_cli import hydra_train
from fairseq_signals_ext.data.ecg_dataset import EcgDataset
collater = EcgDataset.collater
def noting(self, items):
    with open(sys.argv[0] + ".batches", "a") as file:
        file.write(json.dumps([self.epoch, [item.number for item in items]]) + "\\n")
    return collater(self, items)
EcgDataset.collater = noting
fairseq_signals_ext.register()
hydra_train.cli_main()
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [500] * RECORDINGS, shard_size=32)
    return folder


def check_windows(batches):
    """An epoch of batches of 16 has every recording once, and both of a block in the same half."""
    assert sorted(item for batch in batches for item in batch) == list(range(RECORDINGS))
    half = {item: number // (len(batches) // 2) for number, batch in enumerate(batches) for item in batch}
    assert all(half[item] == half[item + 1] for item in range(0, RECORDINGS, 2))
    assert any(abs(first - second) > 32 for batch in batches for first, second in zip(batch, batch[1:]))


def test_batches_of_the_real_command_keep_to_the_windows(shards, tmp_path):
    script = tmp_path / "record.py"
    script.write_text(RECORDER)
    options = ["++dataset.batch_size=16", "++optimization.max_epoch=2", "++optimization.max_update=0"]
    options += ["++dataset.disable_validation=true", "++checkpoint.no_save=true"]
    command = train_command(shards, tmp_path / "out", *SMALL, *SHORT, *options)
    done = run([sys.executable, str(script), *command[1:]])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    noted = [json.loads(line) for line in (tmp_path / "record.py.batches").read_text().splitlines()]
    epochs = []
    for number in (1, 2):
        batches = [batch for epoch, batch in noted if epoch == number]
        # fairseq collates the first batch once more, for ranks that have none
        epochs.append([batch for at, batch in enumerate(batches) if batch not in batches[:at]])
        check_windows(epochs[-1])
    assert epochs[0] != epochs[1]


def iterator_of(shards, window=WINDOW, rebuild_batches=True, **ranks):
    """The task's own iterator over the training set."""
    from fairseq_signals_ext.tasks._options import EcgPretrainingConfig
    from fairseq_signals_ext.tasks.ecg_pretraining import EcgPretrainingTask

    config = EcgPretrainingConfig(
        data=str(shards),
        segment_seconds=0.5,
        shuffle_window_gb=window,
        rebuild_batches=rebuild_batches,
        pairs="fixed",
        seed=1,
        train_subset="train",
    )
    task = EcgPretrainingTask(config)
    task.load_dataset("train")
    return task.get_batch_iterator(task.dataset("train"), max_sentences=16, seed=1, **ranks)


def batches_of(epoch):
    return [batch["id"][::2].tolist() for batch in epoch]


@pytest.mark.parametrize("shuffle, workers", [(True, 0), (False, 0), (True, 2)])  # False: in dataset.curriculum
def test_each_epoch_has_another_order_that_keeps_to_windows(registered, shards, shuffle, workers):
    iterator = iterator_of(shards, num_workers=workers)
    epochs = [batches_of(iterator.next_epoch_itr(shuffle=shuffle)) for _ in range(3)]
    for batches in epochs:
        check_windows(batches)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_batches_of_workers_come_through_shared_slots(registered, shards, monkeypatch):
    received = []
    receive = SharedBatches.receive
    monkeypatch.setattr(SharedBatches, "receive", lambda *place: received.append(place) or receive(*place))
    iterator = iterator_of(shards, num_workers=2)
    for epoch in (1, 2):
        assert len(batches_of(iterator.next_epoch_itr())) * epoch == len(received) == 16 * epoch


def test_without_a_window_batches_mix_all(registered, shards):
    batches = batches_of(iterator_of(shards, window=None).next_epoch_itr())
    with pytest.raises(AssertionError):
        check_windows(batches)


def test_windows_need_batches_that_are_composed_anew(registered, shards):
    with pytest.raises(SystemExit, match="error: task.shuffle_window_gb is for .*: set task.rebuild_batches=true"):
        iterator_of(shards, rebuild_batches=False)


def test_ranks_share_the_window(registered, shards):
    whole = batches_of(iterator_of(shards).next_epoch_itr())
    ranks = [batches_of(iterator_of(shards, num_shards=2, shard_id=rank).next_epoch_itr()) for rank in (0, 1)]
    assert [batch for both in zip(*ranks) for batch in both] == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_continues_with_the_same_batches(registered, shards, workers):
    iterator = iterator_of(shards)
    batches_of(iterator.next_epoch_itr())
    epoch = iterator.next_epoch_itr()
    for _ in range(5):
        next(epoch)
    state = iterator.state_dict()
    rest = list(epoch)
    resumed = iterator_of(shards, num_workers=workers, epoch=state["epoch"])
    resumed.load_state_dict(state)
    found = list(resumed.next_epoch_itr())
    assert len(found) == len(rest) == 11
    for first, second in zip(found, rest):
        assert torch.equal(first["id"], second["id"]) and first["most_segments"] == second["most_segments"] == 32
        assert torch.equal(first["net_input"]["source"], second["net_input"]["source"])
    following = batches_of(resumed.next_epoch_itr())
    assert following == batches_of(iterator.next_epoch_itr())
    check_windows(following)
