"""A validation set's predictions over several ranks, at the size of a large hospital's data."""

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sklearn.metrics import roc_auc_score

from fairseq_signals_ext.evaluation.metrics import auroc
from fairseq_signals_ext.tasks._ensembles import PredictionCollector

RECORDINGS, LABELS, BATCH = 100_000, 17, 1_000
NAMES = tuple(f"label {number}" for number in range(LABELS))


def everything():
    """Segments, two a recording, with scores that say something of the labels."""
    generator = torch.Generator().manual_seed(0)
    idx = torch.arange(RECORDINGS)
    label = (torch.rand(RECORDINGS, LABELS, generator=generator) < 0.1).double()
    label[torch.rand(RECORDINGS, LABELS, generator=generator) < 0.05] = float("nan")
    scores = torch.sigmoid(label.nan_to_num() + torch.randn(RECORDINGS, LABELS, generator=generator)).double()
    return {"id": idx, "idx": idx, "patient_id": idx // 3, "label": label}, scores


def collect(batches):
    sample, scores = everything()
    collector = PredictionCollector()
    for batch in batches:
        rows = slice(batch * BATCH, (batch + 1) * BATCH)
        collector.add({key: value[rows] for key, value in sample.items()}, scores[rows])
    return collector


def one_of_two(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    # as fairseq deals out batches; the shorter rank is given an earlier batch again
    batches = list(range(rank, RECORDINGS // BATCH, 2))
    predictions = collect(batches if rank == 0 else [*batches[:-1], batches[0]] + [batches[-1]] * 2)
    predictions = predictions.gather(NAMES)
    np.savez(
        f"{folder}/{rank}.npz", **{key: getattr(predictions, key) for key in ("scores", "targets", "idx", "patient")}
    )
    dist.destroy_process_group()


def test_two_ranks_give_one_rank_s_predictions(tmp_path):
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    expected = collect(range(RECORDINGS // BATCH)).gather(NAMES)
    for rank in (0, 1):
        found = np.load(tmp_path / f"{rank}.npz")
        for key in found.files:
            np.testing.assert_array_equal(found[key], getattr(expected, key), err_msg=key)
    known = ~np.isnan(expected.targets[:, 3])
    area = roc_auc_score(expected.targets[known, 3], expected.scores[known, 3])
    assert auroc(expected.scores, expected.targets)[3] == area
