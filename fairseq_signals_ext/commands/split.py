"""`split`: a prepared folder -> manifests for training, validation and testing."""

import argparse
from pathlib import Path
from typing import Iterator

from fairseq_signals_ext.common.files import check_folder_name, only_one
from fairseq_signals_ext.common.values import counted
from fairseq_signals_ext.prepared.quality import FLAGS
from fairseq_signals_ext.prepared.split import SplitSummary, split_recordings
from fairseq_signals_ext.prepared.split_filtering import Filters, parse_condition
from fairseq_signals_ext.prepared.split_settings import SplitSettings

_EXAMPLES = """\
examples:
  fairseq-signals-ext split data --name main --by patient \\
      --fractions 0.8 0.1 0.1
  fairseq-signals-ext split data --name future --by patient-time \\
      --cuts 2019-01-01 2020-01-01 --crossing drop
  fairseq-signals-ext split data --name folds --by column \\
      --column strat_fold --train 1-8 --valid 9 --test 10
  fairseq-signals-ext split data --name few --stratify data/labels/scp \\
      --subsets 1 5 10 25 50
  fairseq-signals-ext split data --name cv --kfold 5
  fairseq-signals-ext split data --name adults --where 'age >= 18' \\
      --without-flags nan flat --needs-leads I,II,V1

Writes DIR/splits/NAME/{train,valid,test}.tsv, and split.json with the settings
and counts; with --kfold fold-0/{train,valid}.tsv and so on; with --subsets also
train_1.tsv, train_5.tsv, ... A manifest of more than --manifest-lines
recordings is written in pieces, train-00000-of-000NN.tsv.

Recordings with the same content are never in two subsets. With --by time and
--by column, copies of a recording in a later subset are left out of the earlier
ones. Some sources, such as MIMIC-IV, shift dates by a different amount for each
patient: these order the recordings of one patient, but not those of several, so
--by time has no meaning there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments, and examples, to a parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Split a prepared folder into manifests for training, validation and testing."
    parser.epilog = _EXAMPLES
    parser.add_argument("folder", metavar="DIR", type=Path, help="prepared folder")
    parser.add_argument("--name", metavar="NAME", required=True, help="name of the split")
    parser.add_argument("--overwrite", action="store_true", help="replace the split of this name")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="random seed (default 1)")
    _add_strategies(parser.add_argument_group("how to split"))
    _add_results(parser.add_argument_group("output"))
    _add_filters(parser.add_argument_group("which recordings to use (those left out are counted by reason)"))


def _add_strategies(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--by",
        metavar="STRATEGY",
        help="random (by recording), patient (the default if patients are known), time (train before valid before "
        "test), patient-time (as time, and no patient in two subsets) or column",
    )
    group.add_argument(
        "--fractions",
        metavar="F",
        type=float,
        nargs="+",
        help="shares of train, valid and test (default 0.8 0.1 0.1), of recordings or with --stratify of patients",
    )
    group.add_argument(
        "--cuts", metavar="TIME", nargs="+", default=[], help="dates on which valid and test begin, as 2019-12-31"
    )
    group.add_argument(
        "--crossing",
        metavar="HOW",
        help="later: a patient with recordings on both sides of a cut goes to the last subset (default); "
        "drop: the patient's recordings after the cut are left out",
    )
    group.add_argument("--column", metavar="COLUMN", default="", help="column of recordings.parquet")
    for name in ("train", "valid", "test"):
        group.add_argument(
            f"--{name}", metavar="VALUE", nargs="+", default=[], help=f"the column's values for {name}; 1-8 is a range"
        )
    group.add_argument(
        "--allow-shared-patients",
        action="store_true",
        help="allow --column to put a patient into several subsets",
    )
    group.add_argument(
        "--stratify",
        metavar="LABELS",
        type=Path,
        help="give all subsets the same share of each label of DIR/labels/NAME; give this folder, or NAME",
    )


def _add_results(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--kfold", metavar="K", type=int, default=0, help="write K folds; each recording is in valid of one fold"
    )
    group.add_argument(
        "--subsets",
        metavar="PERCENT",
        type=float,
        nargs="+",
        default=[],
        help="also write nested subsets with these percentages of train",
    )
    group.add_argument(
        "--manifest-lines", metavar="N", type=int, default=500_000, help="most recordings per manifest (default 500000)"
    )


def _add_filters(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--without-flags", metavar="FLAG", nargs="+", default=[], help=f"without any of these flags: {', '.join(FLAGS)}"
    )
    group.add_argument(
        "--with-leads", metavar="N", type=int, default=0, help="with N or more leads that are not filled with zeros"
    )
    group.add_argument("--needs-leads", metavar="LEADS", default="", help="with these leads, such as I,II,V1")
    group.add_argument("--min-seconds", metavar="S", type=float, default=0.0, help="of S or more seconds")
    group.add_argument(
        "--where",
        metavar="CONDITION",
        nargs="+",
        action="append",
        default=[],
        help="'COLUMN OP VALUE', in quotes: with this value in a column of recordings.parquet; OP is == != < <= > >= "
        "or in (VALUE is then A,B,C); may be repeated",
    )


def _settings(options: argparse.Namespace) -> SplitSettings:
    values = (options.train, options.valid, options.test)
    return SplitSettings(
        name=options.name,
        by=options.by,
        fractions=options.fractions,
        seed=options.seed,
        cuts=options.cuts,
        crossing=options.crossing,
        column=options.column,
        values=values if any(values) else (),
        allow_shared_patients=options.allow_shared_patients,
        stratify=options.stratify,
        kfold=options.kfold,
        subsets=options.subsets,
        filters=Filters(
            without_flags=tuple(options.without_flags),
            with_leads=options.with_leads,
            needs_leads=options.needs_leads,
            min_seconds=options.min_seconds,
            where=tuple(map(parse_condition, options.where)),
        ),
        manifest_lines=options.manifest_lines,
    )


def run(options: argparse.Namespace) -> int:
    """Split, and print the sizes of the subsets; returns the exit status 0.

    Raises:
        UserError: see `split_recordings`.
    """
    settings = _settings(options)
    check_folder_name(options.name)
    with only_one(options.folder / "splits" / options.name, beside=True):
        print(counts_table(split_recordings(options.folder, settings, options.overwrite)))
    return 0


_HOW = {
    "random": "at random, by recording",
    "patient": "by patient",
    "time": "by time",
    "patient-time": "by patient and time",
    "column": "by column",
}


def _notes_on_patients(summary: SplitSummary) -> Iterator[str]:
    unknown = sum(counts.without_patient for name, counts in summary.subsets.items() if "_" not in name)
    if summary.notes["by"] == "random":
        if not any(counts.patients for counts in summary.subsets.values()):
            yield (
                "no patient is known, so recordings of one patient may be in several subsets; give patients with "
                "prepare --table"
            )
    elif unknown and summary.notes["by"] in ("patient", "patient-time"):
        yield f"each recording without patient ({unknown}) counts as a patient of its own"


def counts_table(summary: SplitSummary) -> str:
    """A text table of the sizes of a split's subsets, and of recordings left out."""
    notes, left_out = summary.notes, sum(summary.left_out.values())
    width = max(map(len, [*summary.subsets, "subset"]))
    used = f"{summary.recordings - left_out:,} of " if left_out else ""
    lines = [f"{summary.folder}: {used}{counted(summary.recordings, 'recording')}, split {_HOW[notes['by']]}"]
    lines.append(f"{'subset':<{width}}  recordings  patients  without patient")
    for name, counts in summary.subsets.items():
        lines.append(f"{name:<{width}}  {counts.recordings:10d}  {counts.patients:8d}  {counts.without_patient:15d}")
    lines += [f"left out: {count} {reason}" for reason, count in summary.left_out.items()]
    if notes.get("moved"):
        lines.append(f"moved with their patient to a later subset: {notes['moved']}")
    if notes["shared_patients"]:
        lines.append(f"patients in more than one of these subsets: {notes['shared_patients']}")
    lines += [f"note: {note}" for note in _notes_on_patients(summary)]
    return "\n".join(lines)
