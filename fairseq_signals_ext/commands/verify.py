"""Check that a prepared folder is whole and fits together, and draw what is in it.

examples:
  fairseq-signals-ext verify data --jobs 8
  fairseq-signals-ext verify data --quick --no-report        # all but the counts themselves; seconds
  fairseq-signals-ext verify data/splits/s --update-checksums   # a manifest was edited, and is meant to be so

Prints a summary and what is wrong, and leaves DIR/verify.html. The exit status is 1 if anything is wrong.
"""

import argparse
import sys
from pathlib import Path

from fairseq_signals_ext.common.files import PLAN_NAME
from fairseq_signals_ext.data.checksums import UPDATE_OPTION
from fairseq_signals_ext.pages.verify_page import write_verify_page
from fairseq_signals_ext.prepared.verify import Findings, verify
from fairseq_signals_ext.prepared.verify_files import update_checksums

_MOST_LINES = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder that prepare left")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="processes; -1: one a core (default 1)")
    parser.add_argument(
        "--quick", action="store_true", help="do not read the counts: none of their checksums, means and deviations"
    )
    parser.add_argument(
        UPDATE_OPTION,
        action="store_true",
        help="first record the checksums of all files as they are now, after a change that is meant, or in a folder of "
        "an older version; DIR may then be a folder with manifests or labels as well, and only they are looked at",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="the report (default DIR/verify.html)")
    parser.add_argument("--no-report", action="store_true", help="only print")


def run(options: argparse.Namespace) -> int:
    """Verify, print and write the report; returns the exit status: 1 if anything is wrong, 130 if interrupted.

    Raises:
        UserError: see `verify` and `update_checksums`.
    """
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
    lines = update_checksums(folder)
    more = [f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    return "\n".join([*lines[:_MOST_LINES], *more, f"{folder}: {len(lines)} checksum(s) changed"])


def _summary(findings: Findings) -> str:
    size = f"{findings.recordings} recordings, {findings.hours:.2f} h, {findings.shards} shard(s)"
    lines = [f"{findings.out}: {size}, {findings.manifests} manifest(s), {findings.labels} set(s) of labels"]
    lines += findings.problems[:_MOST_LINES]
    if len(findings.problems) > _MOST_LINES:
        lines.append(f"and {len(findings.problems) - _MOST_LINES} more; the report has them all")
    lines += [f"note: {note}" for note in findings.notes[:_MOST_LINES]]
    if len(findings.notes) > _MOST_LINES:
        lines.append(f"and {len(findings.notes) - _MOST_LINES} more notes")
    lines.append(f"wrong: {len(findings.problems)}" if findings.problems else "all is well")
    return "\n".join(lines)
