"""`label`: labels for prepared recordings, from codes, a table or reports; `label link`: from events around the ECG."""

import argparse
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any, Callable, Dict

from fairseq_signals_ext.commands._entry import Parser
from fairseq_signals_ext.commands._report_labels import (
    REPORT_OPTIONS,
    add_report_arguments,
    add_text_arguments,
    labels_of_reports,
    print_labels_of_text,
)
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import check_folder_name, named_folder, only_one
from fairseq_signals_ext.labelling.from_codes import CODE_MAPS, labels_from_codes, read_code_map
from fairseq_signals_ext.labelling.from_events import labels_from_events
from fairseq_signals_ext.labelling.from_table import KEYS, labels_from_table
from fairseq_signals_ext.labelling.labels import Labels, drop_rare, write_labels
from fairseq_signals_ext.labelling.link_settings import CHOICES, LinkSettings, read_link_settings
from fairseq_signals_ext.sources.times import FORMAT_EXAMPLE

_RESULT = """\
Writes labels.csv, y.npy, label_def.csv, pos_weight.txt and label.json to
DIR/labels/NAME."""
_EXAMPLES = f"""\
examples:
  fairseq-signals-ext label DIR --name challenge --codes cinc2021 \\
      --min-count 100
  fairseq-signals-ext label DIR --name superclasses --codes ptbxl-super \\
      --sources ptb-xl
  fairseq-signals-ext label DIR --name outcome --table outcomes.csv \\
      --on record_id --columns death_30d
  fairseq-signals-ext label DIR --name findings --reports \\
      --label-set ecg-fm-17
  fairseq-signals-ext label text "Atrial fibrillation, no LBBB"

{_RESULT}
"""
_LINK_EXAMPLES = f"""\
examples:
  fairseq-signals-ext label link DIR --name lvef --events echo.csv \\
      --patient-column subject_id --time-column charttime --value-column lvef \\
      --window -7d 7d --choose nearest --threshold "<= 50" "<= 40" \\
      --label-names le_50 le_40
  fairseq-signals-ext label link DIR --name troponin --events labevents.csv.gz \\
      --config $(fairseq-signals-ext configs labels)/troponin_mimic_iv.yaml

{_RESULT}
"""

_LINKED = "For labels from events around the ECG: fairseq-signals-ext label link --help"

_WIDTH = 80
# the default subcommand
_UNNAMED = "recordings"
# options that belong to one way of labelling only
_OPTIONS = {
    "--codes": ("min_likelihood", "no_codes_are_negative", "min_count"),
    "--table": ("table", "on", "columns", "regression", "min_count"),
    "--reports": ("on", "table", "min_count", *REPORT_OPTIONS),
    "link": ("regression",),
}


def add_arguments(parser: Parser) -> None:
    """Add the command's subcommands, and their arguments and examples, to a parser."""
    ways = parser.add_subparsers(dest="way")
    parser.unnamed = (_UNNAMED, ways.choices)
    _add_unnamed(ways.add_parser(_UNNAMED, prog=parser.prog, formatter_class=argparse.RawDescriptionHelpFormatter))
    _add_link(ways.add_parser("link", formatter_class=argparse.RawDescriptionHelpFormatter))
    add_text_arguments(ways.add_parser("text", formatter_class=argparse.RawDescriptionHelpFormatter))


def _add_unnamed(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s DIR --name NAME\n           (--codes MAP | --table FILE | --reports) [options]\n"
        "       %(prog)s link DIR --name NAME [options]\n       %(prog)s text TEXT... [options]"
    )
    parser.description = "Label prepared recordings from their codes, a table or their reports."
    parser.epilog = f"{_LINKED}\n\n{_EXAMPLES}\n{_code_maps()}"
    _add_common_arguments(parser)
    _add_code_arguments(parser.add_argument_group("from codes"))
    _add_table_arguments(parser.add_argument_group("from a table"))
    add_report_arguments(parser.add_argument_group("from reports"))


def _code_maps() -> str:
    """A list of code maps and their contents, in lines that fit a terminal."""
    width = max(map(len, CODE_MAPS))
    indent = " " * (width + 4)
    lines = [
        textwrap.fill(f"  {name:{width}}  {contents}", _WIDTH, subsequent_indent=indent)
        for name, contents in CODE_MAPS.items()
    ]
    return "\n".join(["code maps:", *lines])


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="prepared folder")
    parser.add_argument(
        "--name", metavar="NAME", required=True, help="name of the labels; they are written to DIR/labels/NAME"
    )
    parser.add_argument("--sources", metavar="NAME", nargs="+", help="label only the recordings of these sources")
    parser.add_argument(
        "--train-manifest",
        metavar="TSV",
        type=Path,
        help="compute pos_weight.txt from the recordings of this manifest only",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace labels of this name")


def _add_code_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--codes", metavar="MAP", help="a code map (see below), or a CSV file with the columns code and label"
    )
    group.add_argument(
        "--min-likelihood", metavar="P", type=float, help="ignore codes with a likelihood below P %% (default 0)"
    )
    group.add_argument(
        "--min-count", metavar="N", type=int, help="drop labels with fewer positives (not for --regression)"
    )
    group.add_argument(
        "--no-codes-are-negative",
        action="store_true",
        default=None,
        help="recordings without any code are negative for all labels, not unlabelled",
    )


def _add_table_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--table", metavar="FILE", type=Path, help="CSV or Parquet with one row per recording or patient"
    )
    group.add_argument(
        "--on",
        choices=KEYS,
        help="column to join on (default: the first of these in the table); file and path are as in prepare --table; "
        "ecg_id is PTB-XL's number of a record",
    )
    group.add_argument(
        "--columns",
        metavar="COLUMN",
        nargs="+",
        help="columns that are labels (default: all with only 0 and 1, apart from ids and facts such as sex)",
    )
    group.add_argument("--regression", action="store_true", default=None, help="labels are numbers to predict")


def _add_link(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s DIR --name NAME --events FILE [options]"
    parser.description = "Label prepared recordings from events of their patients around them."
    parser.epilog = _LINK_EXAMPLES
    _add_common_arguments(parser)
    group = parser.add_argument_group("events and settings")
    group.add_argument("--events", metavar="FILE", type=Path, help="CSV, CSV.GZ or Parquet with one row per event")
    group.add_argument("--regression", action="store_true", default=None, help="labels are numbers to predict")
    group.add_argument(
        "--config", metavar="YAML", type=Path, help="file with settings; options of this command override it"
    )
    group.add_argument("--patient-column", metavar="COLUMN", help="column with the patient (default patient)")
    group.add_argument("--time-column", metavar="COLUMN", help="column with the time (default time)")
    group.add_argument(
        "--value-column", metavar="COLUMN", help="column with the value (default value): numbers, also <0.01 or 55-60%%"
    )
    group.add_argument(
        "--window",
        metavar=("FROM", "TO"),
        nargs=2,
        type=str.strip,
        help="time from the start of the ECG to the event, in s, min, h, d or w, ends included (default -7d 7d)",
    )
    group.add_argument("--choose", choices=CHOICES, help="which event to use if there are several (default nearest)")
    group.add_argument(
        "--threshold",
        dest="thresholds",
        metavar="'<= N'",
        nargs="+",
        action="extend",
        help="one label per threshold: <, <=, > or >=, and a number or the name of a column with the numbers",
    )
    group.add_argument("--label-names", metavar="NAME", nargs="+", help="one per threshold (default VALUE_le_N)")
    group.add_argument(
        "--filter", metavar=("COLUMN", "VALUE"), nargs="+", action="append", help="use only events with these values"
    )
    group.add_argument(
        "--time-format",
        metavar="FORMAT",
        help=f"of the times, such as '{FORMAT_EXAMPLE}'; only needed where they may be misread".replace("%", "%%"),
    )
    group.add_argument(
        "--timezone", metavar="ZONE", help="timezone of the ECGs' clocks, if times of events have a timezone"
    )
    group.add_argument(
        "--keep-value", action="store_true", default=None, help="also write values.csv with the chosen events"
    )


def run(options: argparse.Namespace) -> int:
    """Make labels, write them and print a summary; returns the exit status.

    Raises:
        UserError: options do not fit together; see also `labels_from_codes`, `labels_from_table` and
            `labels_from_events`.
    """
    if options.way == "text":
        return print_labels_of_text(options)
    label = _from_events if options.way == "link" else _named_way(options)
    check_folder_name(options.name)
    with only_one(options.folder / "labels" / options.name, beside=True):
        # check that the name is free before the work
        named_folder(options.folder / "labels", options.name, options.overwrite)
        labels = label(options)
        folder = write_labels(
            options.folder, options.name, labels, overwrite=options.overwrite, train_manifest=options.train_manifest
        )
        _report(folder, labels)
    return 0


def _named_way(options: argparse.Namespace) -> Callable[[argparse.Namespace], Labels]:
    """The function for the given way of labelling; `UserError` for none, several, or options of another way."""
    functions = {"--codes": _from_codes, "--table": _from_table, "--reports": _from_reports}
    ways = [way for way in functions if getattr(options, way[2:]) is not None]
    if set(ways) == {"--table", "--reports"}:  # reports in a table
        ways = ["--reports"]
    if len(ways) != 1:
        raise UserError(
            f"{' and '.join(ways) or 'nothing to label from'}: give one of {', '.join(functions)}, or link --events"
        )
    known = {option for names in _OPTIONS.values() for option in names}
    for option in sorted(known.difference(_OPTIONS[ways[0]])):
        if getattr(options, option) is not None:
            homes = " or ".join(way for way, names in _OPTIONS.items() if option in names)
            raise UserError(f"--{option.replace('_', '-')}: goes with {homes}, not with {ways[0]}; leave it out")
    if options.regression and options.min_count is not None:
        raise UserError("--min-count: numbers to predict have no positives; leave it out with --regression")
    return functions[ways[0]]


def _from_codes(options: argparse.Namespace) -> Labels:
    labels = labels_from_codes(
        options.folder,
        read_code_map(options.codes),
        sources=options.sources,
        min_likelihood=options.min_likelihood or 0.0,
        no_codes_are_negative=bool(options.no_codes_are_negative),
    )
    return _without_rare(labels, options)


def _from_table(options: argparse.Namespace) -> Labels:
    labels = labels_from_table(
        options.folder,
        options.table,
        on=options.on,
        columns=options.columns,
        sources=options.sources,
        regression=bool(options.regression),
    )
    return _without_rare(labels, options)


def _from_reports(options: argparse.Namespace) -> Labels:
    return _without_rare(labels_of_reports(options), options)


def _without_rare(labels: Labels, options: argparse.Namespace) -> Labels:
    return labels if options.min_count is None else drop_rare(labels, options.min_count)


def _from_events(options: argparse.Namespace) -> Labels:
    if options.events is None:
        raise UserError("link: give the table of events with --events")
    given: Dict[str, Any] = {
        setting.name: getattr(options, setting.name)
        for setting in fields(LinkSettings)
        if getattr(options, setting.name) is not None
    }
    for option in ("window", "thresholds", "label_names"):
        if option in given:
            given[option] = tuple(given[option])
    if "filter" in given:
        given["filter"] = {column: tuple(values) for column, *values in given["filter"]}
        if not all(given["filter"].values()):
            raise UserError("--filter: give a column and the values that it may have")
    return labels_from_events(
        options.folder, options.events, read_link_settings(options.config, given), options.sources
    )


def _report(folder: Path, labels: Labels) -> None:
    for note in labels.notes:
        print(note)
    print(f"{folder}: {len(labels.names)} label(s) for {labels.recordings} of {len(labels.idx)} recordings")
    width = max(len("label"), *map(len, labels.names))
    if labels.regression:
        print(f"{'label':{width}}  known")
        for name, known in zip(labels.names, labels.known):
            print(f"{name:{width}}  {known:5d}")
        return
    print(f"{'label':{width}}  positives  known  percent")
    for name, positives, known in zip(labels.names, labels.positives, labels.known):
        percent = f"{100 * positives / known:7.2f}" if known else "      -"
        print(f"{name:{width}}  {positives:9d}  {known:5d}  {percent}")
