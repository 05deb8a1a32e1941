"""Run jobs in processes that end with their parent, on this machine or on an existing cluster."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Sequence, Tuple

from fairseq_signals_ext.common.errors import UserError

BACKENDS = ("processes", "dask", "ray")
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_END = 5


def end_with(parent: int) -> None:
    """End this process as soon as its parent has ended, even if the parent was killed.

    A killed process cannot end its children, so they would continue without use.

    Args:
        parent: process number of the parent (`os.getpid()` there).
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def joblib_settings() -> Dict[str, Any]:
    """Return the arguments of `joblib.Parallel` for processes that end with this one and leave no files."""
    return {"backend": "loky", "initializer": end_with, "initargs": (os.getpid(),), "max_nbytes": None}


def run(command: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[Any]":
    """Run a command like `subprocess.run`, but end it when this process ends."""
    return subprocess.run([sys.executable, "-m", __name__, str(os.getpid()), *command], **options)


def run_jobs(
    function: Callable[..., int],
    jobs: Sequence[Tuple[Any, ...]],
    backend: str,
    processes: int,
    advance: Callable[[int], Any],
    threads: Optional[int] = None,
) -> None:
    """Call `function` with the arguments of each job.

    Args:
        function: returns the size of a job; in this process it gets `advance` to report progress itself.
        jobs: arguments, which must be picklable.
        backend: one of `BACKENDS`.
        processes: of this machine, or simultaneous jobs of the cluster; -1: all.
        advance: called with the finished amount.
        threads: of libraries in a process of this machine; None: number of cores per process.

    Raises:
        UserError: a cluster's package or its address is missing.
    """
    from joblib import Parallel, delayed, parallel_config

    if backend == "processes" and (processes == 1 or len(jobs) <= 1):
        for job in jobs:
            function(*job, advance)
        return
    own = {**joblib_settings(), "inner_max_num_threads": threads}
    with _cluster(backend), parallel_config(**own) if backend == "processes" else contextlib.nullcontext():
        # ray's backend returns its results only at the end
        return_as = "list" if backend == "ray" else "generator_unordered"
        parallel = Parallel(n_jobs=processes, return_as=return_as, batch_size=1)
        try:
            for done in parallel(delayed(function)(*job) for job in jobs):
                advance(done)
        except BrokenExecutor as error:  # joblib's subclasses give no reason
            raise UserError(
                "a worker process was killed, probably because memory was full; continue with fewer --jobs and --resume"
            ) from error


def _supervise(parent: int, command: List[str]) -> int:
    """Run a command as long as the parent exists; return its exit status as in a shell."""
    # Ctrl-C in a terminal also reaches the command, so wait for its end
    signal.signal(signal.SIGINT, lambda *_: None)
    with subprocess.Popen(command) as process:
        while os.getppid() == parent:
            try:
                status = process.wait(_SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                continue
            return status if status >= 0 else 128 - status
        process.terminate()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
    return 1


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def _cluster(backend: str) -> ContextManager[Any]:
    if backend == "dask":
        return _dask()
    return _ray() if backend == "ray" else contextlib.nullcontext()


@contextlib.contextmanager
def _dask() -> Iterator[None]:
    import dask
    from distributed import Client
    from joblib import parallel_config

    address = dask.config.get("scheduler-address", None)
    if not address:
        raise UserError("backend dask: no cluster is named; set DASK_SCHEDULER_ADDRESS to that of your scheduler")
    try:
        client = Client(address, timeout="30s")
    except OSError as error:
        raise UserError(f"backend dask: {address} does not answer ({error}); check DASK_SCHEDULER_ADDRESS") from error
    with client, parallel_config(backend="dask"):
        yield


@contextlib.contextmanager
def _ray() -> Iterator[None]:
    import ray
    from joblib import parallel_config
    from ray.util.joblib import register_ray

    if not ray.is_initialized():
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
        except ConnectionError as error:
            raise UserError("backend ray: no cluster was found; start one, or set RAY_ADDRESS to its own") from error
    register_ray()
    with parallel_config(backend="ray"):
        yield


if __name__ == "__main__":
    sys.exit(_supervise(int(sys.argv[1]), sys.argv[2:]))
