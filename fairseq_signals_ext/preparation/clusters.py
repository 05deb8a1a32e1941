"""Where the work is done: processes of this machine, or a cluster that is there already (Dask, Ray)."""

import contextlib
import os
from concurrent.futures import BrokenExecutor
from typing import Any, Callable, ContextManager, Iterator, Optional, Sequence, Tuple

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.processes import joblib_settings

BACKENDS = ("processes", "dask", "ray")


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
        function: returns how much of the whole a job was; in this process it is given `advance` to tell that itself.
        jobs: arguments, which must be picklable.
        backend: one of `BACKENDS`.
        processes: of this machine, or of the cluster at a time; -1: as many as there are.
        advance: called with what is done.
        threads: that libraries may use in a process of this machine; None: as many as each has cores to itself.

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
        # ray's backend gives its results only at the end
        return_as = "list" if backend == "ray" else "generator_unordered"
        parallel = Parallel(n_jobs=processes, return_as=return_as, batch_size=1)
        try:
            for done in parallel(delayed(function)(*job) for job in jobs):
                advance(done)
        except BrokenExecutor as error:  # joblib's own kinds of it name no reason
            raise UserError(
                "a worker process was killed, most likely for want of memory; go on with fewer --jobs and --resume"
            ) from error


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
