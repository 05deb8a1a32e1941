"""Compare checkpoints by probes trained on their frozen features.

examples:
  fairseq-signals-ext benchmark ours.pt mimic_iv_ecg_physionet_pretrained.pt \\
      --names ours ecg-fm --data data --tasks ptbxl-super,ptbxl-all,age,sex \\
      --out benchmark
  fairseq-signals-ext benchmark ours.pt --data data --tasks ptbxl-super \\
      --protocol iclr2026 --probes last,attention --out as-published
  fairseq-signals-ext benchmark ours.pt --data data --tasks my_task.yaml \\
      --fractions 1 10 100 --out few-labels

Every table has controls: random weights of each architecture, measures made by
hand, and, where there are several sources, the name of the source alone.

protocols (never compare values of one with those of the other):
  strict    5 folds by patient, 3 times; penalty and layer are chosen inside the
            training folds; intervals from resamples of patients and seeds
  iclr2026  as the benchmark of that name: its split, training and intervals

--modes probe,fine-tune,scratch trains whole models, too, by fairseq's own
command, on the same recordings and folds: rows of the table beside the probes.

probes: last, layer, last-std, layer-std, attention; see the documentation.

Writes to OUT:
  table.md, table.tex  the primary metric with intervals, the best in bold
  results.csv          all metrics, of labels and their macro average
  differences.csv      paired differences of all models
  benchmark.html       the tables with pictures: differences, labels, layers
  results.json         all of it, with checksums, seeds and versions
  scores/              scores of each probe, from which all tables are made
  features/            features of each model

--resume continues an interrupted run. With --part 2/8 a part of the features,
then of the probes is done; run the parts again with --resume once all features
are there. The part that ends last makes the table.
"""

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from fairseq_signals_ext.commands._run_arguments import add_device, add_restart
from fairseq_signals_ext.common.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.usage = "%(prog)s CKPT [CKPT ...] --data DIR\n           --tasks TASK[,TASK...] --out DIR [options]"
    parser.add_argument("checkpoints", metavar="CKPT", nargs="+", help="checkpoint or folder of an export")
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="prepared folder")
    parser.add_argument("--tasks", metavar="TASKS", required=True, help="names or YAML files, with commas between")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    parser.add_argument("--names", metavar="NAME", nargs="+", help="of the checkpoints (default: from their paths)")
    _add_protocol(parser.add_argument_group("protocol"))
    group = parser.add_argument_group("run")
    group.add_argument("--batch-size", metavar="N", type=int, default=32, help="segments per batch (default 32)")
    group.add_argument(
        "--jobs", metavar="N", type=int, default=1, help="processes that train probes (-1: one per core; default 1)"
    )
    add_device(group)
    group.add_argument("--part", metavar="N/OF", help="run one part only, such as 3/16")
    add_restart(group)


def _add_protocol(group: Any) -> None:
    group.add_argument("--protocol", metavar="NAME", default="strict", help="strict (default) or iclr2026")
    group.add_argument("--probes", metavar="PROBES", default="last,layer", help="with commas between (last,layer)")
    group.add_argument(
        "--modes",
        metavar="MODES",
        default="probe",
        help="with commas between: probe (default), fine-tune and scratch, which train whole models on the same folds",
    )
    group.add_argument(
        "--training-config",
        metavar="NAME",
        default="classification",
        help="of configs fine_tuning, for these (default classification)",
    )
    group.add_argument(
        "--override", metavar="KEY=VALUE", nargs="+", default=[], help="options of hydra for these, such as the epochs"
    )
    group.add_argument(
        "--fractions", metavar="PERCENT", nargs="+", type=float, default=[100], help="of the training patients"
    )
    group.add_argument("--folds", metavar="COLUMN", help="of the table, with the folds for strict")
    group.add_argument("--fold-seeds", metavar="N", nargs="+", type=int, default=[1, 2, 3], help="(default 1 2 3)")
    group.add_argument(
        "--min-test-positives",
        metavar="N",
        type=int,
        default=1,
        help="leave out labels with fewer positives among those tested (default 1); a task's own min_positives, "
        "10 in those of this package, counts all positives",
    )
    group.add_argument(
        "--drop-unlabelled", action="store_true", help="leave out recordings without any label of a task"
    )
    group.add_argument("--resamples", metavar="N", type=int, default=2000, help="for intervals (default 2000)")
    group.add_argument("--seed", metavar="N", type=int, default=1, help="of resamples and random weights (default 1)")


def run(options: argparse.Namespace) -> int:
    """Compute features, run probes, write and print the table; returns the exit status.

    Raises:
        UserError: options, models, data or tasks do not go together, or there are results already.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", module=r"torch\.(nn\.utils\.weight_norm|utils\.data)")
    from fairseq_signals_ext.benchmarking.benchmark import begin, prepare_tasks, run_benchmark
    from fairseq_signals_ext.benchmarking.computing import Computing, compute, measures_of
    from fairseq_signals_ext.benchmarking.tables import as_text
    from fairseq_signals_ext.benchmarking.task_files import read_task
    from fairseq_signals_ext.benchmarking.trainings import TrainingOptions
    from fairseq_signals_ext.inference.parts import Part
    from fairseq_signals_ext.pages.benchmark_page import write_benchmark_page

    settings, part = _settings(options), None if options.part is None else Part.of(options.part)
    tasks, names = [read_task(name.strip()) for name in options.tasks.split(",")], _names(options)
    if not any(target.measure for task in tasks for target in task.targets):
        prepare_tasks(options.data, tasks, settings)  # finds errors in tasks before models run
    begin(options.out, _identity(options, settings, names), options.resume, options.overwrite, part)
    how = Computing(options.data, options.out, _extraction(options, part), "attention" in settings.probes)
    entrants = compute(how, options.checkpoints, names)
    if entrants is None:
        print(f"{options.out}: part {part} of the features is done; run it again with --resume when all are")
        return 0
    measures = next(entrant.features for entrant in entrants if entrant.kind == "measures")
    prepared = prepare_tasks(options.data, tasks, settings, lambda idx: measures_of(measures, idx))
    training = TrainingOptions(options.data, options.training_config, tuple(options.override))
    results = run_benchmark(options.out, prepared, entrants, settings, part, options.jobs, training)
    if results is None:
        print(f"{options.out}: part {part} is done")
        return 0
    page = write_benchmark_page(results, options.out)
    print(as_text(results))
    print(f"\n{options.out / 'table.md'}\n{page}")
    return 0


def _settings(options: argparse.Namespace) -> Any:
    from fairseq_signals_ext.benchmarking.protocols import BenchmarkSettings

    settings = BenchmarkSettings(
        protocol=options.protocol,
        probes=_probes(options),
        percents=tuple(options.fractions),
        fold_seeds=tuple(options.fold_seeds),
        folds_column=options.folds,
        min_test_positives=options.min_test_positives,
        drop_unlabelled=options.drop_unlabelled,
        resamples=options.resamples,
        seed=options.seed,
    )
    settings.check()
    return settings


def _probes(options: argparse.Namespace) -> Tuple[str, ...]:
    """Probes, and modes in which whole models are trained."""
    from fairseq_signals_ext.benchmarking.trainings import MODES

    modes = [one.strip() for one in options.modes.split(",")]
    unknown = [one for one in modes if one not in ("probe", *MODES)]
    if unknown:
        raise UserError(f"--modes {unknown[0]}: no such mode; use probe, {', '.join(MODES)}")
    probes = [one.strip() for one in options.probes.split(",")] if "probe" in modes else []
    return tuple(dict.fromkeys([*probes, *(one for one in modes if one != "probe")]))


def _names(options: argparse.Namespace) -> List[str]:
    from fairseq_signals_ext.common.files import safe_name
    from fairseq_signals_ext.evaluation.comparison import names_of

    names: List[str] = options.names or names_of([Path(one) for one in options.checkpoints])
    if len(names) != len(options.checkpoints) or len(set(map(safe_name, names))) < len(names):
        raise UserError(f"--names {' '.join(names)}: give one per checkpoint, each another")
    return names


def _extraction(options: argparse.Namespace, part: Optional[Any]) -> Any:
    from fairseq_signals_ext.benchmarking.extraction import ExtractionOptions
    from fairseq_signals_ext.inference.running import RunOptions

    how = RunOptions(options.batch_size)
    given: Dict[str, Any] = {"seed": options.seed, "how": how, "part": part, "overwrite": options.overwrite}
    return ExtractionOptions(**given) if options.device == "auto" else ExtractionOptions(device=options.device, **given)


def _identity(options: argparse.Namespace, settings: Any, names: List[str]) -> Dict[str, Any]:
    """All settings that change the results except the data, as the files contain their checksums."""
    from fairseq_signals_ext.data.checksums import checksum
    from fairseq_signals_ext.inference.loading import files_of

    models = {name: [checksum(path) for path in files_of(source)] for name, source in zip(names, options.checkpoints)}
    training = {"config": options.training_config, "overrides": options.override}
    return {"settings": settings.as_json(), "models": models, "tasks": options.tasks, "training": training}
