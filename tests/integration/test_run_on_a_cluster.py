"""What a dask cluster does of `predict`, `embed` and `evaluate` equals one run, byte for byte."""

import os
import subprocess
import sys

import numpy as np
import pytest
from made_up import write_label_file, write_shards
from made_up_checkpoints import saved_checkpoint

pytestmark = pytest.mark.slow

PARTS, RECORDINGS = 3, 140  # whose groups of 64 are one for each part
LABELS = ["A", "B", "C"]


@pytest.fixture(scope="module")
def cluster():
    """The environment of a command that finds a cluster; its workers and one run use the same number of threads."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as there:
        yield {**os.environ, "OMP_NUM_THREADS": "1", "DASK_SCHEDULER_ADDRESS": there.scheduler_address}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved_checkpoint(tmp_path_factory.mktemp("model") / "a.pt")


def content(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def same_on(cluster, folder, *arguments):
    """Run a command alone and on the cluster, with a folder of a relative name; gives what both left."""
    for out, more in (("whole", ()), ("parts", ("--backend", "dask", "--jobs", PARTS))):
        command = [sys.executable, "-m", "fairseq_signals_ext", *map(str, (*arguments, *more)), "--out", out]
        done = subprocess.run(command, cwd=folder, env=cluster, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    whole = content(folder / "whole")
    assert content(folder / "parts") == whole
    return whole


@pytest.mark.parametrize(("command", "leaves"), [("predict", "predictions.csv"), ("embed", "embeddings.npy")])
def test_files(cluster, checkpoint, ecg_data, tmp_path, command, leaves):
    records = sorted((ecg_data / "code15_wfdb").glob("*.hea"))[:20]
    assert leaves in same_on(cluster, tmp_path, command, checkpoint, *records * (RECORDINGS // 20), "--device", "cpu")


def test_a_subset(cluster, checkpoint, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_shards(data, [1000 + 500 * (row % 4) for row in range(RECORDINGS)], split="test")
    values = np.random.default_rng(0).integers(0, 2, (RECORDINGS, len(LABELS))).astype(float)
    write_label_file(data / "labels", values, LABELS)
    given = ("--data", data, "--subset", "test", "--labels", data / "labels", "--resamples", 10, "--device", "cpu")
    assert "metrics.json" in same_on(cluster, tmp_path, "evaluate", checkpoint, *given)
