"""`prepare`: recordings of a source -> shards, tables and a manifest."""

import argparse
import sys
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

from fairseq_signals_ext.data.preparation import Source, Summary, prepare
from fairseq_signals_ext.data.splitting import check_fractions, split_manifest
from fairseq_signals_ext.errors import exits_on_user_error
from fairseq_signals_ext.readers.wfdb import find_wfdb, read_wfdb

_DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)
_EXAMPLE = """\
example:
  python manifests/prepare.py wfdb /data/cinc2021 --out /data/prepared --jobs 8 --split 0.8 0.1 0.1

Leaves DIR/shards, DIR/recordings.parquet, DIR/rejected.csv and DIR/all.tsv, with --split also
DIR/splits/random/{train,valid,test}.tsv. The exit status is 1 if a file was rejected."""


def wfdb_source(folder: Path) -> Source:
    """All WFDB records below a folder; `UserError` if there is none."""
    return Source(folder, find_wfdb(folder), read_wfdb)


SOURCES: Dict[str, Callable[[Path], Source]] = {"wfdb": wfdb_source}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments, and an example, to a parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Store the recordings of a source once, as shards with tables and a manifest."
    parser.epilog = _EXAMPLE
    parser.add_argument("source_name", choices=sorted(SOURCES), help="kind of source; wfdb: all .hea below SOURCE")
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder that holds the recordings")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    parser.add_argument("--rate", type=float, default=500.0, help="sample rate in Hz to store (default 500)")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="processes; -1: one a core (default 1)")
    parser.add_argument("--shard-size", metavar="N", type=int, default=2048, help="files a shard (default 2048)")
    parser.add_argument("--resume", action="store_true", help="go on after an interruption: keep complete shards")
    parser.add_argument("--strict", action="store_true", help="stop at the first file that cannot be used")
    parser.add_argument(
        "--split",
        metavar="FRACTION",
        type=float,
        nargs="*",
        help="split by patient at random into train, valid and test (no values: 0.8 0.1 0.1)",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the split (default 1)")


def run(args: argparse.Namespace) -> int:
    """Prepare, and split if asked to; returns the exit status: 1 if a file was rejected, 130 if interrupted.

    Raises:
        UserError: see `prepare` and `split_manifest`.
    """
    fractions: Optional[Sequence[float]] = args.split
    if fractions is not None:
        fractions = fractions or _DEFAULT_FRACTIONS
        check_fractions(fractions)
    try:
        summary = prepare(
            SOURCES[args.source_name](args.source),
            args.out,
            rate=args.rate,
            shard_size=args.shard_size,
            jobs=args.jobs,
            resume=args.resume,
            strict=args.strict,
        )
    except KeyboardInterrupt:
        print("interrupted; go on with --resume", file=sys.stderr)
        return 130
    if fractions is not None:
        counts = split_manifest(args.out, fractions, seed=args.seed)
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        print(f"{args.out / 'splits' / 'random'}: {listed}")
    return _report(args.out, summary)


def _report(out: Path, summary: Summary) -> int:
    print(f"{out}: {summary.recordings} recordings, {summary.hours:.2f} h, {summary.shards} shard(s)")
    if summary.rejected:
        print(f"{summary.rejected} file(s) were rejected, see {out / 'rejected.csv'}")
    return 1 if summary.rejected else 0


@exits_on_user_error
def main(argv: Optional[List[str]] = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="prepare")
    add_arguments(parser)
    return run(parser.parse_args(argv))
