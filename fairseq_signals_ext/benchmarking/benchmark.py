"""Run a whole benchmark: probes of all entrants on all tasks, then the table, which is made only from their files."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any, ContextManager, Dict, List, Mapping, Optional, Sequence

from fairseq_signals_ext.benchmarking import trainings
from fairseq_signals_ext.benchmarking.entrants import Entrant
from fairseq_signals_ext.benchmarking.protocols import BenchmarkSettings
from fairseq_signals_ext.benchmarking.results import Results, make_results
from fairseq_signals_ext.benchmarking.running import Prepared, plan, prepare_task, run_units
from fairseq_signals_ext.benchmarking.score_files import FOLDER
from fairseq_signals_ext.benchmarking.tables import FILES, write_results
from fairseq_signals_ext.benchmarking.targets import Measures
from fairseq_signals_ext.benchmarking.task_files import Task
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import BusyError, atomic, only_one, remove_unfinished
from fairseq_signals_ext.inference.parts import Part

_SETTINGS_FILE = "settings.json"


def prepare_tasks(
    data: Path, tasks: Sequence[Task], settings: BenchmarkSettings, measures: Optional[Measures] = None
) -> Dict[str, Prepared]:
    """Prepare the tasks on the recordings of a prepared folder, by name.

    Raises:
        UserError: a name appears twice, or see `prepare_task`.
    """
    names = [task.name for task in tasks]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"task {twice[0]!r}: is given twice; give each once, and files different names")
    return {task.name: prepare_task(data, task, settings, measures) for task in tasks}


def run_benchmark(
    out: Path,
    prepared: Mapping[str, Prepared],
    entrants: Sequence[Entrant],
    settings: BenchmarkSettings,
    part: Optional[Part] = None,
    jobs: int = 1,
    training: Optional[trainings.TrainingOptions] = None,
) -> Optional[Results]:
    """Do the missing runs, and write the table if all are done.

    Args:
        out: folder of the results; existing files in its `scores` are kept, see `begin`.
        part: one of several parts; None: all.
        jobs: number of processes.
        training: how whole models are trained, if there are any.

    Returns:
        None if other parts are not done.

    Raises:
        UserError: features do not fit the tasks, see `run_units`.
    """
    units = plan(entrants, prepared, settings)
    with _one_writer(out, part):
        if part is None:
            for folder in {unit.path(out).parent for unit in units}:
                remove_unfinished(folder)
        run_units(out, units, entrants, prepared, settings, part, jobs, training)
    if not all(unit.path(out).is_file() for unit in units):
        return None
    try:
        with only_one(out, names=FILES):
            results = make_results(out, units, entrants, prepared, settings)
            write_results(results, out)
            return results
    except BusyError:
        if part is None:
            raise
        return None  # another part makes the table


def _one_writer(out: Path, part: Optional[Part]) -> ContextManager[Any]:
    return only_one(out, names=FILES) if part is None else only_one(out / FOLDER / part.folder, beside=True)


def begin(out: Path, identity: Mapping[str, Any], resume: bool, overwrite: bool, part: Optional[Part] = None) -> None:
    """Check that the results folder is free or has runs of the same benchmark, and store its identity.

    Args:
        identity: everything that the results depend on, as plain values.

    Raises:
        UserError: there are results without `resume` or `overwrite` (a part may find results of other parts), or
            results of another benchmark.
    """
    path = out / FOLDER / _SETTINGS_FILE
    if overwrite:
        if part is not None:
            raise UserError(f"--overwrite: a part would replace the others; remove {out} before the first part")
        for folder in (FOLDER, trainings.FOLDER):
            shutil.rmtree(out / folder, ignore_errors=True)
        for name in FILES:
            with contextlib.suppress(FileNotFoundError):
                (out / name).unlink()
    text = json.dumps(identity, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_bytes(text.encode())
        return
    if not resume and part is None:
        raise UserError(f"{out}: has results already; continue with --resume, or replace them with --overwrite")
    different = _differing(path, identity)
    if different:
        raise UserError(f"{out}: belongs to another benchmark ({', '.join(different)} differ); give another --out")


def _differing(path: Path, identity: Mapping[str, Any]) -> List[str]:
    try:
        was = json.loads(path.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(identity))
        return sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: is damaged; replace all with --overwrite") from error
