"""Batches of worker processes arrive as they were made, also where the main process keeps them."""

import gc
import os
import pickle

import numpy as np
import pytest
import torch
from made_up import write_shards
from test_ecg_dataset import batch_of, open_dataset

from fairseq_signals_ext.data.batch_order import SharedBatches


class Numbers(torch.utils.data.Dataset):
    """Batch k is full of k."""

    def __init__(self, slots, size=40_000):
        self.shared = SharedBatches(slots, size)

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return self.shared.send(torch.full((100, 100), float(index)))


def loader_of(dataset, **options):
    return torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2, **options)


@pytest.mark.parametrize("slots", [1, 5, 80])
def test_batches_that_are_kept_stay_as_they_are(slots):
    loader = loader_of(Numbers(slots), persistent_workers=True)
    for _ in range(2):
        kept = list(loader)
        gc.collect()
        assert [set(batch.unique().tolist()) for batch in kept] == [{float(number)} for number in range(40)]
        assert all(batch.shape == (100, 100) and batch.dtype == torch.float32 for batch in kept)


def test_slots_are_used_again_when_nothing_refers_to_them():
    dataset = Numbers(10)  # three kept, two in use, four asked for in advance
    parts = []
    for number, batch in enumerate(loader_of(dataset)):
        parts.append(batch[:1, :1] if number < 3 else batch[:1, :1].clone())
        if number >= 3:
            assert dataset.shared._memory.find(np.float32(number).tobytes()) >= 0
    del batch
    assert dataset.shared._taken.sum() == 3
    assert [part.item() for part in parts] == list(range(40))
    del parts
    assert dataset.shared._taken.sum() == 0


def test_a_forked_process_frees_no_slot_of_its_parent():
    shared = SharedBatches(2, 400)
    tensor = pickle.loads(pickle.dumps(shared.send(torch.ones(10, 10))))
    child = os.fork()
    if child == 0:
        del tensor
        os._exit(0)
    os.waitpid(child, 0)
    assert shared._taken.tolist() == [1, 0] and torch.equal(tensor, torch.ones(10, 10))


def test_tensors_larger_than_a_slot_are_sent_as_usual():
    sent = SharedBatches(2, 400).send(torch.ones(2000))
    assert torch.is_tensor(sent)


def test_workers_that_are_not_forked_have_none():
    assert pickle.loads(pickle.dumps(SharedBatches(2, 400))) is None


def test_shared_batches_equal_collated_ones(tmp_path):
    write_shards(tmp_path, [5000] * 11)
    dataset = open_dataset(tmp_path, pairs="fixed")
    dataset.share_batches(2)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=2)
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=batches, collate_fn=dataset.collater, num_workers=2)
    for batch, indices in zip(loader, batches):
        expected = batch_of(dataset, indices)
        assert torch.equal(batch["net_input"]["source"], expected["net_input"]["source"])
        assert not batch["net_input"]["source"].is_shared()  # torch's own shared memory
        assert torch.equal(batch["id"], expected["id"])
