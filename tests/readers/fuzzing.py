"""Fuzzing of the readers: damaged recordings, read by a process that is watched and replaced when it fails.

    python tests/readers/fuzzing.py wfdb --seconds 600 --out runs/fuzz

prints a row of a table and writes what failed to `--out`, with the number of the input in the folder's name;
`--only NUMBER` reads that input in this process, with a traceback.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, TextIO, Tuple

import fuzz_seeds
from mutations import mutated

LONGEST = 10.0  # seconds of the processor for one input, so that other work on the machine is no failure
HANGS = 6 * LONGEST  # seconds by the clock, after which the process is ended
MOST = 2 * 2**30  # bytes, for one input
_ECGS = 5  # of a file that are read
_HEADING = ["reader", "tried", "refused", "read", "slowest s", "peak MB", "failures"]


@dataclass
class Outcome:
    """Results of fuzzing one reader."""

    reader: str
    tried: int = 0
    refused: int = 0
    read: int = 0
    slowest: float = 0.0
    peak: float = 0.0  # MB, of the reading process with all its libraries
    failures: List[Tuple[int, str]] = field(default_factory=list)

    def row(self) -> str:
        """As in the table under `heading`."""
        values = [self.reader, self.tried, self.refused, self.read, f"{self.slowest:.2f}", f"{self.peak:.0f}"]
        return _aligned([*values, len(self.failures)])


def heading() -> str:
    """Names of the columns of `Outcome.row`."""
    return _aligned(_HEADING)


def _aligned(values: List[Any]) -> str:
    return f"{values[0]:<12}" + "".join(f"{value!s:>11}" for value in values[1:])


def input_of(seeds: List[fuzz_seeds.Seed], number: int) -> Tuple[fuzz_seeds.Seed, Dict[str, bytes]]:
    """The damaged files with this number."""
    chance = random.Random(number)
    seed = chance.choice(seeds)
    files = dict(seed.files)
    # the file that is named most of the time, as what it says decides what is read of the others
    name = seed.main if chance.random() < 0.7 else chance.choice(sorted(files))
    files[name] = mutated(chance, files[name])
    if seed.repair is not None and chance.random() < 0.8:
        files[name] = seed.repair(files[name])
    return seed, files


def read_input(folder: Path, seed: fuzz_seeds.Seed, files: Dict[str, bytes]) -> str:
    """Return `"read"` or `"refused"`, or the problem of a refusal.

    Raises:
        Exception: that a reader must not raise.
    """
    from fairseq_signals_ext.common.errors import UserError
    from fairseq_signals_ext.readers import read_ecgs

    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        # the first ones, as it takes long to read thousands
        recordings = [*itertools.islice(read_ecgs(folder / seed.main, **seed.keywords), _ECGS)]
    except UserError as error:
        cause: Optional[BaseException] = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                return "asks for too much memory"
            cause = cause.__cause__ or cause.__context__
        message = str(error)
        sound = "\n" not in message and len(message) < 2000 and message.isprintable()
        return "refused" if sound else f"a message of {len(message)} characters: {message[:150]!r}"
    return next((outcome for outcome in map(_sound, recordings) if outcome != "read"), "read")


def _sound(recording: Any) -> str:
    import numpy as np

    signal, rows = recording.signal, len(recording.leads)
    sound = signal.dtype == np.float64 and signal.shape[0] == rows > 0 and signal.shape[1] == recording.samples > 0
    sound = sound and not np.isinf(signal).any() and 1 <= recording.sample_rate <= 1e6
    if recording.stored is not None:
        sound = sound and recording.stored.counts.shape == signal.shape
        sound = sound and bool(np.isfinite(recording.stored.scale).all() and np.isfinite(recording.stored.zero).all())
    return "read" if sound else "an unsound recording"


# --- the process that reads ---


def work(reader: str, first: int) -> None:
    """Read inputs from this number on and report start and result of each, until this process is killed."""
    seeds, out = fuzz_seeds.seeds_of(reader), os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory(dir=os.environ.get("FUZZ_TEMPORARY")) as folder:
        for seed in seeds:  # whatever is imported and allocated once
            with contextlib.suppress(Exception):
                read_input(Path(folder), seed, seed.files)
        usual = _virtual_memory()
        resource.setrlimit(resource.RLIMIT_AS, (usual + MOST, usual + MOST))
        number = first
        while True:
            seed, files = input_of(seeds, number)
            print(number, file=out, flush=True)
            before = time.process_time()
            try:
                result = read_input(Path(folder), seed, files)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is a failure
                where = traceback.extract_tb(error.__traceback__)[-1]
                result = f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
            seconds = time.process_time() - before
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(json.dumps([result, seconds, peak]), file=out, flush=True)
            number += 1


def _virtual_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


# --- the process that watches ---


def fuzz(reader: str, seconds: float, out: Path, first: int = 0, most: Optional[int] = None) -> Outcome:
    """Fuzz one reader for so long, or until so many inputs were tried.

    Args:
        out: folder for the inputs that failed.
        first: number of the first input.
    """
    outcome, number = Outcome(reader), first
    end = time.monotonic() + seconds
    while time.monotonic() < end and (most is None or outcome.tried < most):
        number = _watch(outcome, number, end, most)
    for failed, reason in outcome.failures:
        _save(out, reader, failed, reason)
    return outcome


def _watch(outcome: Outcome, first: int, end: float, most: Optional[int]) -> int:
    """Let one process read until it fails or time is up; the number of the next input."""
    command = [sys.executable, str(Path(__file__).resolve()), outcome.reader, "--work", str(first)]
    number = first
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, bufsize=1, env={**os.environ, "FUZZ_TEMPORARY": folder}
    ) as process:
        assert process.stdout is not None
        try:
            while time.monotonic() < end and (most is None or outcome.tried < most):
                began = _line(process.stdout, 120.0 if number == first else HANGS)
                if began is None:  # it could not even begin
                    outcome.failures.append((number, "the reading process did not start"))
                    return number + 1
                ended = _line(process.stdout, HANGS)
                outcome.tried += 1
                number = int(began) + 1
                if not _note(outcome, int(began), ended, process):
                    return number
        finally:
            process.kill()
    return number


def _line(stream: TextIO, longest: float) -> Optional[str]:
    ready, _, _ = select.select([stream], [], [], longest)
    return (stream.readline() or None) if ready else None


def _note(outcome: Outcome, number: int, ended: Optional[str], process: "subprocess.Popen[str]") -> bool:
    """Count one input; return whether the process can continue."""
    if ended is None:
        code = process.poll()
        reason = f"still reading after {HANGS:.0f} s" if code is None else f"the process ended with {code}"
        outcome.failures.append((number, reason))
        outcome.slowest = max(outcome.slowest, HANGS if code is None else 0.0)
        return False
    result, seconds, peak = json.loads(ended)
    peak /= 1024  # MB
    outcome.slowest, outcome.peak = max(outcome.slowest, seconds), max(outcome.peak, peak)
    reason = ""
    if result in ("read", "refused"):
        outcome.read += result == "read"
        outcome.refused += result == "refused"
    else:
        reason = result
    if seconds > LONGEST:
        reason = f"took {seconds:.1f} s"
    if peak > MOST / 2**20:
        reason = f"took {peak:.0f} MB"
    if reason:
        outcome.failures.append((number, reason))
    return peak <= MOST / 2**20  # the most that a process took never falls


def _save(out: Path, reader: str, number: int, reason: str) -> None:
    seed, files = input_of(fuzz_seeds.seeds_of(reader), number)
    folder = out / f"{reader}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    words = f"{reason}\nread_ecg({seed.main!r}, **{seed.keywords})\npython {__file__} {reader} --only {number}\n"
    (folder / "reason.txt").write_text(words)


def main() -> None:
    """Fuzz readers from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="+", choices=fuzz_seeds.READERS, metavar="reader",
                        help=", ".join(fuzz_seeds.READERS))  # fmt: skip
    parser.add_argument("--seconds", type=float, default=60, help="per reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--inputs", type=int, help="at most so many")
    parser.add_argument("--only", type=int, help="read this input in this process")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="folder for inputs that failed")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        work(arguments.readers[0], arguments.work)
        return
    if arguments.only is not None:
        seed, files = input_of(fuzz_seeds.seeds_of(arguments.readers[0]), arguments.only)
        with tempfile.TemporaryDirectory() as folder:
            print(read_input(Path(folder), seed, files))
        return
    print(heading())
    failed = False
    for reader in arguments.readers:
        outcome = fuzz(reader, arguments.seconds, arguments.out, arguments.first, arguments.inputs)
        print(outcome.row(), *(f"  {number}: {reason}" for number, reason in outcome.failures), sep="\n", flush=True)
        failed = failed or bool(outcome.failures)
    sys.exit(failed)


if __name__ == "__main__":
    main()
