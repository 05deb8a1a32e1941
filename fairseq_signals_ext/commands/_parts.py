"""Run a command's work: in one run, as one part of a run, or in parts on several devices or a cluster."""

import argparse
import copy
import logging
import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Callable, Iterator, List, Mapping, Optional, Sequence, Tuple, Type

from fairseq_signals_ext.commands._finished import finished_status, may_be_finished, note_finished
from fairseq_signals_ext.commands._run_arguments import is_done_elsewhere
from fairseq_signals_ext.commands._run_settings import worker_processes
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import only_one
from fairseq_signals_ext.common.processes import BACKENDS, run_jobs
from fairseq_signals_ext.common.progress import Progress
from fairseq_signals_ext.inference.parts import Merged, Part, merge_if_last, note_done
from fairseq_signals_ext.inference.results import UNFINISHED, Kept, Results, check_results
from fairseq_signals_ext.inference.running import cores

WHOLE = Part(1, 1)


class Job(ABC):
    """The work of a command for many recordings.

    Args:
        options: of the command; this class uses `out`, `resume`, `overwrite` and the options of `add_parts`.

    Attributes:
        name: of the command.
        has_record: a finished run leaves a record, so that --resume finds that nothing is left to do.
    """

    name: str
    has_record = True

    @abstractmethod
    def __init__(self, options: argparse.Namespace):
        """Open the recordings and the models."""

    @staticmethod
    @abstractmethod
    def files(options: argparse.Namespace) -> Sequence[str]:
        """Names of the files that a finished run may leave in `out`."""

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """All settings that change the rows, as plain values."""

    @abstractmethod
    def inputs(self, part: Part) -> int:
        """The number of recordings in a part."""

    @abstractmethod
    def fill(self, results: Results, part: Part) -> Iterator[None]:
        """Add recordings that are not yet in the results of a part; yields once per recording."""

    @abstractmethod
    def finish(self, results: Kept) -> int:
        """Write the files for the user and print a summary; returns the exit status."""


def run_job(kind: Type[Job], options: argparse.Namespace) -> int:
    """Do a command's work in the way that its options give; returns the exit status.

    Raises:
        UserError: options do not fit together; also errors of the job.
    """
    # before fairseq is imported, because it would enable all logging
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if kind.has_record and may_be_finished(options):
        status = finished_status(options, _on_cpu(kind, options).settings())
        if status is not None:
            return status
    if options.part is not None:
        return _run_part(kind, options)
    if is_done_elsewhere(options):
        with only_one(options.out):
            return _run_divided(kind, options)
    with only_one(options.out):
        check_results(options.out, kind.files(options), options.resume, options.overwrite)
        job = kind(options)
        with _results(job, options, WHOLE, None) as results:
            _fill(job, results, WHOLE)
        return _finish(job, options, results)


def _on_cpu(kind: Type[Job], options: argparse.Namespace) -> Job:
    """The job on the CPU, for steps in which no model runs."""
    here = copy.copy(options)
    here.device = "cpu"
    return kind(here)


def _finish(job: Job, options: argparse.Namespace, results: Kept) -> int:
    status = job.finish(results)
    if job.has_record:
        note_finished(options, job.settings())
    return status


def _run_part(kind: Type[Job], options: argparse.Namespace) -> int:
    part = Part.of(options.part)
    if is_done_elsewhere(options):
        raise UserError(f"--part {options.part}: runs on one device; leave --backend out, and name one --device")
    if options.overwrite:
        raise UserError(f"--overwrite: a part would replace the others; remove {options.out} before the first part")
    job = _do_part(kind, options, part)
    status = merge_if_last(options.out, part, kind.files(options), lambda results: _finish(job, options, results))
    if status is None:
        print(f"{options.out}: part {part} is done")
    return status or 0


def _do_part(kind: Type[Job], options: argparse.Namespace, part: Part) -> Job:
    with only_one(options.out / UNFINISHED / part.folder, beside=True):
        check_results(options.out, kind.files(options), options.resume, options.overwrite, part.folder)
        job = kind(options)
        with _results(job, options, part, part.folder) as results:
            _fill(job, results, part)
        note_done(options.out, part, results, job.inputs(part))
    return job


def _run_divided(kind: Type[Job], options: argparse.Namespace) -> int:
    """Run the parts in processes or on a cluster, and merge them."""
    files, devices = kind.files(options), options.device.split(",")
    on_cluster = options.backend != BACKENDS[0]
    if on_cluster:
        _check_for_cluster(options, devices)
    total = options.jobs if on_cluster else len(devices)
    begun = (options.out / UNFINISHED).exists() and not options.resume
    check_results(options.out, files, options.resume, options.overwrite, Part(1, total).folder)
    if begun:
        shutil.rmtree(options.out / UNFINISHED)
    readers = 0 if on_cluster else worker_processes(options) // total
    jobs: List[Tuple[Any, ...]] = []
    for number, part in enumerate(Part(1, total).all):
        changed = {"device": devices[number % len(devices)], "jobs": readers, "resume": options.resume}
        of_part = argparse.Namespace(**{**vars(options), **changed, "out": Path(options.out).resolve()})
        jobs.append((kind, of_part, part))
    with Progress(kind.name, total, "part") as bar:
        # as many threads as in one run, because the number of threads changes the order of sums
        run_jobs(_do_part_elsewhere, jobs, options.backend, total, bar.update, threads=_usual_threads())
    return _finish(_on_cpu(kind, options), options, Merged(options.out, files, total))


def _usual_threads() -> int:
    """Threads that libraries use by default."""
    return int(os.environ.get("OMP_NUM_THREADS") or cores())


def _check_for_cluster(options: argparse.Namespace, devices: Sequence[str]) -> None:
    if len(devices) > 1 or options.jobs < 1:
        raise UserError(f"--backend {options.backend}: give one --device, and the number of parts with --jobs")
    # `out` can be relative, because the workers get its absolute path
    given = (value for name, value in vars(options).items() if name != "out")
    for value in given:
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, (str, Path)) and Path(path).exists() and not Path(path).is_absolute():
                raise UserError(f"{path}: give its absolute path, as the workers of a cluster run in other folders")


def _do_part_elsewhere(
    kind: Type[Job], options: argparse.Namespace, part: Part, advance: Optional[Callable[[int], Any]] = None
) -> int:
    """Run a part as a job of `run_jobs`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    _do_part(kind, options, part)
    if advance is not None:
        advance(1)
    return 1


def _results(job: Job, options: argparse.Namespace, part: Part, folder: Optional[str]) -> Results:
    files, restart = job.files(options), (options.resume, options.overwrite)
    return Results(options.out, files, job.settings(), *restart, folder, job.inputs(part))


def _fill(job: Job, results: Results, part: Part) -> None:
    total = job.inputs(part)
    with Progress(job.name, total, "recording", results.done) as bar:
        for _ in job.fill(results, part):
            bar.update()
