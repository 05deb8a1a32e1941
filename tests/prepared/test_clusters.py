"""Where the work is done changes nothing of the result."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up import stored_recording

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
from fairseq_signals_ext.sources import Item, Source


def made_up_recording(folder, item):
    if item.name == "5":
        raise UserError("broken on purpose")
    return stored_recording(np.random.default_rng(int(item.name)).integers(-9, 9, (12, 50)).astype(np.int16))


SOURCE = Source("made-up", Path("nowhere"), [Item(str(number)) for number in range(20)], made_up_recording)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(out, backend, jobs=2):
    prepare(SOURCE, out, options=RunOptions(shard_size=3, jobs=jobs, backend=backend, progress=False))
    return contents(out)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return run(tmp_path_factory.mktemp("local") / "out", "processes", jobs=1)


@pytest.mark.parametrize("threads", [1, 4])
def test_dask(tmp_path, expected, threads):
    distributed = pytest.importorskip("distributed")
    import dask

    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=threads, processes=False, dashboard_address=None)
    # as DASK_SCHEDULER_ADDRESS does
    with cluster, dask.config.set({"scheduler-address": cluster.scheduler_address}):
        assert run(tmp_path / "out", "dask") == expected


def test_dask_without_a_cluster(tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(UserError, match="backend dask: no cluster is named; set DASK_SCHEDULER_ADDRESS"):
        run(tmp_path / "out", "dask")


def test_ray(tmp_path, expected):
    """Ray is large and not part of the development set-up: `pip install ray` to run this."""
    pytest.importorskip("ray")
    code = (
        "import ray; ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
        "from pathlib import Path; import test_clusters; test_clusters.run(Path(%r), 'ray')"
    )
    path = ":".join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code % str(tmp_path / "out")],
        env={"PYTHONPATH": f"{__file__.rsplit('/', 1)[0]}:{path}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert contents(tmp_path / "out") == expected
