"""Store the recordings of a source once: shards, a table and a manifest.

examples:
  fairseq-signals-ext prepare physionet2021 /data/challenge-2021/training \\
      --out data --jobs 8
  fairseq-signals-ext prepare ptbxl /data/ptb-xl --out data
  fairseq-signals-ext prepare files /data/hospital --table patients.csv \\
      --out hospital --rate 500 --resample polyphase
  fairseq-signals-ext prepare wfdb /data/records --out data --resume

Several sources can be prepared into the same folder. --resume continues an
interrupted run, and adds new recordings.

Writes DIR/shards, DIR/recordings.parquet, DIR/rejected.csv and DIR/all.tsv. The
exit status is 1 if a file was rejected.
"""

import argparse
import sys
import textwrap
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from fairseq_signals_ext.commands._rejected import print_rejected, read_rejected
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.processes import BACKENDS
from fairseq_signals_ext.common.values import counted
from fairseq_signals_ext.data.shards import STORAGES
from fairseq_signals_ext.prepared.counts import RESAMPLERS, Processing
from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
from fairseq_signals_ext.prepared.table import REJECTED_NAME, Summary
from fairseq_signals_ext.sources import Kinds, Source, SourceOptions, find_kind, open_source, our_kinds
from fairseq_signals_ext.sources.download import download
from fairseq_signals_ext.sources.text_tables import of_cell
from fairseq_signals_ext.sources.times import FORMAT_EXAMPLE

_KINDS = "kinds of source:"
_WIDTH = 80


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with a list of the kinds of sources at its end, including plugins, which are found when it is printed."""

    def add_text(self, text: Optional[str]) -> None:
        if text == _KINDS:
            lines = [
                textwrap.fill(f"  {name:13} {find_kind(name).holds}", _WIDTH, subsequent_indent=" " * 16)
                for name in Kinds()
            ]
            text = "\n".join([text, *lines])
        super().add_text(text)


def _that_take(what: str) -> str:
    return ", ".join(name for name, kind in our_kinds().items() if what in kind.takes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.formatter_class, parser.epilog = _Help, _KINDS
    parser.add_argument("kind", metavar="NAME", choices=Kinds(), help="kind of source, see below")
    parser.add_argument("folder", metavar="SOURCE", type=Path, help="folder with the recordings")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    _add_source_arguments(parser.add_argument_group("source"))
    _add_processing_arguments(parser.add_argument_group("processing"))
    _add_run_arguments(parser.add_argument_group("run"))


def _add_source_arguments(group: Any) -> None:
    group.add_argument(
        "--source", metavar="NAME", help="name of the source in tables (default: NAME, or the folder's name)"
    )
    group.add_argument(
        "--download", action="store_true", help="first download the collection, or missing parts of it, into SOURCE"
    )
    group.add_argument(
        "--table",
        metavar="FILE",
        type=Path,
        help=f"{_that_take('table')}: CSV or Parquet with file or record_id, patient, ...",
    )
    group.add_argument(
        "--time-format",
        metavar="FORMAT",
        help=f"of start_time in --table, such as '{FORMAT_EXAMPLE}'; only needed where it may be misread".replace(
            "%", "%%"
        ),
    )
    for option, metavar, name, what, kind in (
        ("--input-rate", "HZ", "sample_rate", "sample rate, if missing from a file", float),
        ("--input-unit", "UNIT", "unit", "unit such as uV, if missing from a file", str),
        ("--input-leads", "LEADS", "leads", "leads such as I,II,V1, if missing from a file", str),
    ):
        group.add_argument(option, metavar=metavar, type=kind, help=f"{_that_take(name)}: {what}")


def _add_processing_arguments(group: Any) -> None:
    group.add_argument(
        "--rate", metavar="HZ", type=float, default=500.0, help="sample rate of the stored recordings (default 500)"
    )
    group.add_argument(
        "--resample", choices=sorted(RESAMPLERS), default="linear", help="linear, as in ECG-FM (default), or polyphase"
    )
    group.add_argument(
        "--storage",
        choices=sorted(STORAGES),
        default="raw",
        help="raw (default), or flac: a third of the size, slower to read",
    )
    group.add_argument("--fill-leads", action="store_true", help="store missing leads as zeros, and flag the recording")
    group.add_argument(
        "--min-seconds", metavar="S", type=float, default=5.0, help="flag shorter recordings (default 5)"
    )
    group.add_argument(
        "--gain-fix",
        metavar="PART=FACTOR",
        nargs="*",
        help="multiply the amplitudes of a part of the source by a factor; without values: where amplitudes are "
        "implausible, by the likely factor",
    )


def _add_run_arguments(group: Any) -> None:
    group.add_argument(
        "--jobs", metavar="N", type=int, default=1, help="worker processes (-1: one per core; default 1)"
    )
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default="processes",
        help="processes on this machine (default), or an existing dask or ray cluster",
    )
    group.add_argument("--shard-size", metavar="N", type=int, default=1024, help="recordings per shard (default 1024)")
    group.add_argument("--resume", action="store_true", help="continue an interrupted run, or add new recordings")
    group.add_argument("--retry-rejected", action="store_true", help="as --resume, and try rejected files again")
    group.add_argument("--strict", action="store_true", help="stop at the first file that cannot be used")


def run(options: argparse.Namespace) -> int:
    """Prepare; returns the exit status: 1 if a file was rejected, 130 if interrupted, 0 otherwise.

    Raises:
        UserError: see `download`, `open_source` and `prepare`.
    """
    try:
        if options.download:
            download(options.kind, options.folder, options.rate)
        source = open_source(options.kind, options.folder, _source_options(options))
        for note in source.notes:
            print(f"note: {options.folder}: {note}", file=sys.stderr)
        summary = prepare(
            source,
            options.out,
            Processing(options.rate, options.resample, options.fill_leads, options.min_seconds),
            RunOptions(
                shard_size=options.shard_size,
                jobs=options.jobs,
                backend=options.backend,
                resume=options.resume or options.retry_rejected,
                retry_rejected=options.retry_rejected,
                strict=options.strict,
            ),
            storage=options.storage,
            gain_fix=_gain_fix(options.gain_fix),
        )
    except KeyboardInterrupt:
        print("interrupted; continue with --resume", file=sys.stderr)
        return 130
    return _report(options.out, summary, source)


def _source_options(options: argparse.Namespace) -> SourceOptions:
    return SourceOptions(
        name=options.source,
        rate=options.rate,
        table=options.table,
        sample_rate=options.input_rate,
        unit=options.input_unit,
        leads=options.input_leads,
        time_format=options.time_format,
    )


def _gain_fix(values: Optional[List[str]]) -> Union[None, str, Dict[str, float]]:
    if not values:
        return values if values is None else "auto"
    fixes = {}
    for value in values:
        name, _, factor = value.rpartition("=")
        try:
            fixes[name] = float(factor)
        except ValueError:
            raise UserError(f"gain-fix {value!r}: write PART=FACTOR, such as georgia=4.88") from None
    return fixes


def _known(summary: Summary) -> str:
    """The number of recordings with each kind of metadata."""
    counts = {name: f"{name} {count:,}" for name, count in summary.known.items()}
    counts["patient"] += f" ({counted(summary.patients, 'patient')})"
    return ", ".join(counts.values())


def _report(out: Path, summary: Summary, source: Source) -> int:
    size = f"{counted(summary.recordings, 'recording')}, {summary.hours:.2f} h, {counted(summary.shards, 'shard')}"
    print(f"{out}: {size}" if summary.has_changed else f"{out}: finished already; nothing is left to do: {size}")
    if summary.has_changed:
        print(f"known: {_known(summary)}")
    if summary.flags and summary.has_changed:
        print("flags: " + ", ".join(f"{flag} {count}" for flag, count in summary.flags.items()))
    for name, factor in summary.likely_factors.items():
        print(
            f"{name}: its amplitudes are not plausible for an ECG in mV; the likely factor is {factor:g}: "
            f"look at some, and prepare it in a new folder with --gain-fix {name}={factor:g}"
        )
    names = {source.name, *(item.source for item in source.items)}
    rejected = [row for row in read_rejected(out / REJECTED_NAME) if of_cell(row["source"]) in names]
    return print_rejected(out / REJECTED_NAME, rejected, "source_file")
