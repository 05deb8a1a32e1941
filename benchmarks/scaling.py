"""Hours and disk for preparing 1.7 million recordings on 1, 16 and 256 cores, from rates measured here.

    python benchmarks/scaling.py [--recordings 400] [--out FILE.md]

Measured: recordings per second and core in the kinds of work that there are (made-up WFDB records, 12 leads, 10 s, in
the page cache), how much two processes gain over one, and what one process has to do alone: find the files, write the
plan, and make the table of all parts. The rest is arithmetic: alone + recordings / (rate x cores), with the bytes that
have to be read and written for it.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

from loading import machine
from preparation import quiet, write_records
from tqdm import tqdm

from fairseq_signals_ext.preparation.counts import Processing
from fairseq_signals_ext.preparation.pipeline import RunOptions, prepare
from fairseq_signals_ext.preparation.plan import BlockSettings, extended, write_plan
from fairseq_signals_ext.preparation.table_parts import write_tables
from fairseq_signals_ext.readers.wfdb import find_wfdb
from fairseq_signals_ext.sources import open_source

COLLECTION, CORES, SHARD, COPIES = 1_700_000, (1, 16, 256), 1024, 20
SAMPLES = 12 * 5000
PREPARE = Path(__file__).parents[1] / "manifests" / "prepare.py"
KINDS: Dict[str, Dict[str, Any]] = {
    "counts kept (500 Hz)": {"rate": 500, "processing": Processing()},
    "resampled 400 -> 500 Hz, linear": {"rate": 400, "processing": Processing()},
    "resampled 400 -> 500 Hz, polyphase": {"rate": 400, "processing": Processing(resample="polyphase")},
    "counts kept, flac": {"rate": 500, "processing": Processing(), "storage": "flac"},
}


def seconds_of(folder: Path, kind: Dict[str, Any]) -> float:
    """The shorter of two preparations of the records in `folder`, in s."""
    found = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as out:
            start = time.perf_counter()
            prepare(
                open_source("wfdb", folder / str(kind["rate"])),
                out,
                kind["processing"],
                RunOptions(progress=False),
                storage=kind.get("storage", "raw"),
            )
            found.append(time.perf_counter() - start)
    return min(found)


def measure_rates(folder: Path, recordings: int) -> Dict[str, float]:
    """Recordings per second of one process, by kind of work."""
    return {name: recordings / seconds_of(folder, kind) for name, kind in tqdm(KINDS.items(), leave=False)}


def measure_gain(folder: Path) -> float:
    """How many times as fast the command is with two processes, their start included; on `COPIES` of the records."""
    for copy in range(COPIES):
        below = folder / "many" / "400" / f"copy{copy}"
        below.mkdir(parents=True)
        for file in (folder / "400").iterdir():
            os.link(file, below / file.name)
    seconds = []
    for jobs in (1, 2):
        options = [
            "--resample",
            "polyphase",
            "--shard-size",
            "100",
            "--jobs",
            str(jobs),
            "--out",
            f"{folder}/out{jobs}",
        ]
        command = [sys.executable, str(PREPARE), "wfdb", str(folder / "many" / "400"), *options]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return seconds[0] / seconds[1]


def measure_finding(folder: Path, files: int = 100_000) -> float:
    """Seconds to find a million headers."""
    for number in range(files):
        if number % 1000 == 0:
            below = folder / f"g{number // 1000}"
            below.mkdir(parents=True)
        (below / f"r{number}.hea").touch()
    start = time.perf_counter()
    find_wfdb(folder)
    return (time.perf_counter() - start) * 1e6 / files


def measure_tables(folder: Path, parts: int = 200) -> float:
    """Seconds to make the table of a million recordings from the parts of their shards."""
    source = folder / "source"
    source.mkdir(parents=True)
    header = "{0} 1 500 2\n{0}.dat 16 1000/mV 16 0 0 0 0 I\n# Age: 60\n# Sex: Male\n# Dx: 426783006\n"
    for number in range(SHARD):
        name = f"r{number:07d}"
        (source / f"{name}.hea").write_text(header.format(name))
        (source / f"{name}.dat").write_bytes(bytes([number % 256, number // 256, 1, 1]))
    prepare(open_source("wfdb", source), folder / "out", options=RunOptions(progress=False, shard_size=SHARD))
    settings = BlockSettings(Processing(), "raw", {})
    plan = extended([], "source", [str(number) for number in range(SHARD * parts)], settings, SHARD)
    for block in plan[1:]:
        shutil.copy(plan[0].part(folder / "out"), block.part(folder / "out"))
    start = time.perf_counter()
    write_plan(folder / "out", plan)
    write_tables(folder / "out", plan)
    return (time.perf_counter() - start) * 1e6 / (SHARD * parts)


def plan_table(rates: Dict[str, float], gain: float, alone: float) -> List[str]:
    """Rows of hours and of what the storage has to give, by cores."""
    rows = ["| work | " + " | ".join(f"{cores} core{'s' * (cores > 1)}" for cores in CORES) + " |", "| --- " * 4 + "|"]
    for name, rate in rates.items():
        cells = []
        for cores in CORES:
            hours = (alone + COLLECTION / (rate * (1 if cores == 1 else cores * gain / 2))) / 3600
            read = 2 * SAMPLES * KINDS[name]["rate"] / 500
            written = 2 * SAMPLES * (0.31 if KINDS[name].get("storage") == "flac" else 1)
            cells.append(f"{60 * hours:.1f} min, {COLLECTION * (read + written) / (hours * 3600) / 1e6:,.0f} MB/s")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def report(recordings: int) -> List[str]:
    """All lines."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rate in (400, 500):
            (folder / str(rate)).mkdir()
            write_records(folder / str(rate), recordings, rate)
        rates, gain = measure_rates(folder, recordings), measure_gain(folder)
        finding, tables = measure_finding(folder / "names"), measure_tables(folder / "tables")
    alone = (finding + tables) * COLLECTION / 1e6
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return [
        machine(),
        "",
        "| measured | |",
        "| --- | --- |",
        *(f"| {name} | {rate:,.0f} recordings/s and core |" for name, rate in rates.items()),
        f"| two processes, of one | {gain:.2f} times |",
        f"| finding a million files | {finding:.1f} s |",
        f"| plan and table of a million recordings | {tables:.1f} s |",
        f"| largest memory of one process, all of this | {memory:.1f} GB |",
        "",
        *plan_table(rates, gain, alone),
    ]


def main() -> None:
    """Measure and print; with --out also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=400, help="made-up recordings of 10 s (default 400)")
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    options = parser.parse_args()
    quiet()
    text = "\n".join(report(options.recordings)) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
