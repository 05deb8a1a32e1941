"""`label --reports` and `label text`: labels from reports."""

import argparse
from typing import Any, Dict

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.from_reports import (
    STATEMENTS,
    UNCERTAIN_AS,
    labels_from_reports,
    read_report_settings,
)
from fairseq_signals_ext.labelling.label_sets import shipped_label_sets
from fairseq_signals_ext.labelling.labels import Labels
from fairseq_signals_ext.labelling.reports import SEMANTICS, ReportLabeler

REPORT_OPTIONS = ("label_set", "semantics", "uncertain", "vocabulary", "column", "config", "no_rates", "no_spelling")
_TEXT_EXAMPLES = """\
examples:
  fairseq-signals-ext label text "Atrial fibrillation has replaced sinus rhythm. No LBBB."
  fairseq-signals-ext label text "Sinustachykardie, kein Infarkt" --label-set ptbxl-super
  fairseq-signals-ext label text "Atrial fibrillation" --semantics ecg-fm   # as ECG-FM's checkpoints learned it
"""


def add_report_arguments(group: "argparse._ArgumentGroup") -> None:
    """Options of `label DIR --reports`."""
    group.add_argument("--reports", action="store_true", default=None, help="label from the recordings' statements")
    group.add_argument(
        "--column", metavar="NAME", help=f"with the reports, in the prepared table or in --table (default {STATEMENTS})"
    )
    group.add_argument("--config", metavar="YAML", help="settings; options given here come first")
    _add_labeler_arguments(group)
    group.add_argument("--no-rates", action="store_true", default=None, help="do not read numbers, as in rate 45")
    group.add_argument("--no-spelling", action="store_true", default=None, help="do not tolerate a wrong letter")
    group.add_argument(
        "--uncertain",
        choices=list(UNCERTAIN_AS),
        help="value of a possible finding (default unknown; with --semantics ecg-fm positive)",
    )


def _add_labeler_arguments(group: Any) -> None:
    group.add_argument(
        "--label-set", metavar="SET", help=f"{', '.join(shipped_label_sets())}, or a YAML file (default ecg-fm-17)"
    )
    group.add_argument(
        "--semantics",
        choices=SEMANTICS,
        help="meaning of labels: that of the report (default), or that of ECG-FM's labels",
    )
    group.add_argument("--vocabulary", metavar="YAML", help="phrases to add to those that are known")


def labels_of_reports(options: argparse.Namespace) -> Labels:
    """Make the labels of `label DIR --reports`.

    Raises:
        UserError: see `labels_from_reports`.
    """
    given = {name: getattr(options, name) for name in ("label_set", "semantics", "uncertain", "vocabulary", "column")}
    given.update(rates=False if options.no_rates else None, spelling=False if options.no_spelling else None)
    given.update(table=None if options.table is None else str(options.table), on=options.on)
    chosen: Dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return labels_from_reports(options.folder, read_report_settings(options.config, chosen), options.sources)


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments and examples of `label text`."""
    parser.description = "Show the labels of a text, and the words that decided them."
    parser.epilog = _TEXT_EXAMPLES
    parser.add_argument("text", metavar="TEXT", nargs="+", help="a report; several are its parts")
    _add_labeler_arguments(parser)


def print_labels_of_text(options: argparse.Namespace) -> int:
    """Print the labels of a text with the words that decided, and what was not understood; returns the exit status.

    Raises:
        UserError: see `ReportLabeler`.
    """
    if not any(text.strip() for text in options.text):
        raise UserError("TEXT is empty; give a report, such as 'Atrial fibrillation, no LBBB'")
    labeler = ReportLabeler(options.label_set or "ecg-fm-17", options.semantics or SEMANTICS[0], options.vocabulary)
    evidence = labeler.evidence(options.text)
    width = max([len("label"), *map(len, evidence)])
    if evidence:
        print(f"{'label':{width}}  status     probability  words")
    for name in labeler.label_set.names:
        if name in evidence:
            status, probability, words = evidence[name]
            print(f"{name:{width}}  {status:9}  {probability:11.2f}  {words}")
    if not evidence:
        print("no label: the text mentions none of them")
    for statement in labeler.understood(options.text)[1]:
        print(f"not understood: {statement}")
    return 0
