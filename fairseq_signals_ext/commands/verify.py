"""Check that a prepared folder is complete and consistent, and draw its contents.

examples:
  fairseq-signals-ext verify data --jobs 8
  fairseq-signals-ext verify data --quick --no-report    # takes seconds
  fairseq-signals-ext verify data/splits/s --update-checksums    # after an edit

Prints a summary and all problems, and writes DIR/verify.html. The exit status
is 1 if there are problems.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_signals_ext.common.files import PLAN_NAME
from fairseq_signals_ext.data.checksums import UPDATE_OPTION

if TYPE_CHECKING:
    from fairseq_signals_ext.prepared.verify import Findings

_MOST_LINES = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="prepared folder")
    parser.add_argument(
        "--jobs", metavar="N", type=int, default=1, help="worker processes (-1: one per core; default 1)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="do not read the signals, so skip their checksums, means and deviations"
    )
    parser.add_argument(
        UPDATE_OPTION,
        action="store_true",
        help="first record the checksums of all files as they are now, after an intended change or for a folder of an "
        "older version; if DIR is a folder with manifests or labels, only these are updated",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="report to write (default DIR/verify.html)")
    parser.add_argument("--no-report", action="store_true", help="print only, write no report")


def run(options: argparse.Namespace) -> int:
    """Verify, print and write the report; returns the exit status: 1 if anything is wrong, 130 if interrupted.

    Raises:
        UserError: see `verify` and `update_checksums`.
    """
    # imported here, so that --help is fast
    from fairseq_signals_ext.pages.verify_page import write_verify_page
    from fairseq_signals_ext.prepared.verify import verify

    try:
        if options.update_checksums:
            print(_updated(options.folder))
            if not (options.folder / PLAN_NAME).is_file():
                return 0
        findings = verify(options.folder, options.jobs, options.quick)
        print(_summary(findings))
        if not options.no_report:
            report = options.out or options.folder / "verify.html"
            write_verify_page(findings, report)
            print(f"report: {report}")
    except KeyboardInterrupt:
        print("interrupted; nothing was changed", file=sys.stderr)
        return 130
    return 1 if findings.problems else 0


def _updated(folder: Path) -> str:
    from fairseq_signals_ext.prepared.verify_files import update_checksums

    lines = update_checksums(folder)
    more = [f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    return "\n".join([*lines[:_MOST_LINES], *more, f"{folder}: {len(lines)} checksum(s) changed"])


def _summary(findings: "Findings") -> str:
    size = f"{findings.recordings} recordings, {findings.hours:.2f} h, {findings.shards} shard(s)"
    lines = [f"{findings.out}: {size}, {findings.manifests} manifest(s), {findings.labels} set(s) of labels"]
    lines += findings.problems[:_MOST_LINES]
    if len(findings.problems) > _MOST_LINES:
        lines.append(f"and {len(findings.problems) - _MOST_LINES} more; the report has them all")
    lines += [f"note: {note}" for note in findings.notes[:_MOST_LINES]]
    if len(findings.notes) > _MOST_LINES:
        lines.append(f"and {len(findings.notes) - _MOST_LINES} more notes; the report has them all")
    lines.append(f"wrong: {len(findings.problems)}" if findings.problems else "no problems found")
    return "\n".join(lines)
