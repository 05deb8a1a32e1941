"""Hours and disk for preparing 1.7 million recordings on 1, 16 and 256 cores, from rates measured here.

    python benchmarks/scaling.py [--recordings 400] [--out FILE.md]

Measured: recordings per second and core in the kinds of work that there are (made-up WFDB records, 12 leads, 10 s, in
the page cache), how much two processes gain over one, and what one process has to do alone: find the files, write the
plan, and make the table of all parts, which is done in full. The rest is arithmetic: alone + recordings / (rate x
cores), with the bytes that have to be read and written for it.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pandas as pd
from _shared import hand_over, machine, quiet, write_records
from tqdm import tqdm

from fairseq_signals_ext.common import processes
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.prepared.counts import Processing
from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
from fairseq_signals_ext.prepared.plan import BlockSettings, extended, write_plan
from fairseq_signals_ext.prepared.table import write_part, write_tables
from fairseq_signals_ext.readers.wfdb import find_wfdb
from fairseq_signals_ext.sources import open_source

COLLECTION, CORES, SHARD, COPIES = 1_700_000, (1, 16, 256), 1024, 20
MIMIC = 800_035  # records of MIMIC-IV-ECG
FLAC = 0.33  # size of a compressed shard, see benchmarks/preparation.py
SAMPLES = 12 * 5000
PREPARE = Path(__file__).parents[1] / "manifests" / "prepare.py"
KINDS: Dict[str, Dict[str, Any]] = {
    "counts kept (500 Hz)": {"rate": 500, "processing": Processing()},
    "resampled 400 -> 500 Hz, linear": {"rate": 400, "processing": Processing()},
    "resampled 400 -> 500 Hz, polyphase": {"rate": 400, "processing": Processing(resample="polyphase")},
    "counts kept, flac": {"rate": 500, "processing": Processing(), "storage": "flac"},
}


def seconds_of(folder: Path, kind: Dict[str, Any]) -> float:
    """Return the shorter time of two preparations of the records in `folder`, in s."""
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
    """Return recordings per second of one process, by kind of work."""
    return {name: recordings / seconds_of(folder, kind) for name, kind in tqdm(KINDS.items(), leave=False)}


def measure_gain(folder: Path) -> float:
    """Return the speed-up with two processes, including their start, on `COPIES` of the records."""
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
        processes.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return seconds[0] / seconds[1]


def measure_finding(folder: Path, files: int = 100_000) -> float:
    """Return the seconds for finding a million headers."""
    for number in range(files):
        if number % 1000 == 0:
            below = folder / f"g{number // 1000}"
            below.mkdir(parents=True)
        (below / f"r{number}.hea").touch()
    start = time.perf_counter()
    find_wfdb(folder)
    return (time.perf_counter() - start) * 1e6 / files


def made_up_row(idx: int) -> Dict[str, Any]:
    """Return a row of the table as long as for MIMIC-IV-ECG."""
    measured = ("cart_id", "rr_interval", "p_onset", "qrs_onset", "qrs_end", "t_end")
    return {
        "idx": idx,
        "record_id": f"4{idx:07d}",
        "source": "made-up",
        "collection": "made-up",
        "source_file": f"files/p1/p{idx}/s{idx}.hea",
        "patient": f"1{idx // 5:07d}",
        "patient_key": idx // 5,
        "start_time": datetime(2150, 1, 1),
        "sample_rate": 500.0,
        "stored_rate": 500.0,
        "samples": 5000,
        "seconds": 10.0,
        "cut_start": 0.0,
        "cut_end": 0.0,
        "leads": ",".join(LEADS),
        "amplitude_mv": 1.4,
        "gain_fix": 1.0,
        "rounding_error_mv": 0.0,
        "flags": [],
        "statements": ["Sinus rhythm", "Left axis deviation", "Borderline ECG"],
        "content": f"{idx:035x}",
        "shard": f"shards/{idx // SHARD:05d}.npy",
        "row": idx % SHARD,
        **dict.fromkeys(measured, 10.0 * idx),
    }


def make_tables(folder: Path) -> Tuple[float, float]:
    """Return seconds and GB for plan and table of the whole collection; call it in a new process."""
    settings = BlockSettings(Processing(), "raw", {})
    names = [made_up_row(idx)["source_file"] for idx in range(COLLECTION)]
    plan = extended([], "made-up", names, settings, SHARD)
    for block in tqdm(plan, desc="parts", leave=False):
        first = block.first_idx
        write_part(block.part(folder), [made_up_row(idx) for idx in range(first, first + len(block.items))])
    start = time.perf_counter()
    write_plan(folder, plan)
    write_tables(folder, plan)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def open_mimic(folder: Path) -> Tuple[float, float]:
    """Return seconds and GB for opening MIMIC-IV-ECG's tables; call it in a new process."""
    reports = [f"report_{number}" for number in range(18)]
    rows = range(MIMIC)
    listed = {"subject_id": [row // 5 for row in rows], "study_id": rows, "ecg_time": "2150-01-01 10:00:00"}
    records = pd.DataFrame({**listed, "path": [f"files/p1/p{row}/s{row}" for row in rows]})
    records.to_csv(folder / "record_list.csv", index=False)
    measured = pd.DataFrame(
        {**listed, **{name: "" for name in reports}, "rr_interval": 800, "p_onset": 40, "t_end": 400}
    )
    measured[reports[:3]] = ["Sinus rhythm", "Left axis deviation", "Borderline ECG"]
    measured.to_csv(folder / "machine_measurements.csv", index=False)
    (folder / "r.hea").touch()
    del records, measured
    start = time.perf_counter()
    open_source("mimic_iv_ecg", folder)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


PARTS: Dict[str, Callable[[Path], Tuple[float, float]]] = {"tables": make_tables, "mimic": open_mimic}


def in_a_process(part: str) -> Tuple[float, float]:
    """Return seconds and GB of one of `PARTS`."""
    command = [sys.executable, __file__, "--part", part]
    seconds, memory = processes.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-2:]
    return float(seconds), float(memory)


def plan_table(rates: Dict[str, float], gain: float, alone: float) -> List[str]:
    """Return rows of hours and of the required storage speed, by cores."""
    rows = ["| work | " + " | ".join(f"{cores} core{'s' * (cores > 1)}" for cores in CORES) + " |", "| --- " * 4 + "|"]
    for name, rate in rates.items():
        cells = []
        for cores in CORES:
            hours = (alone + COLLECTION / (rate * (1 if cores == 1 else cores * gain / 2))) / 3600
            read = 2 * SAMPLES * KINDS[name]["rate"] / 500
            written = 2 * SAMPLES * (FLAC if KINDS[name].get("storage") == "flac" else 1)
            cells.append(f"{60 * hours:.1f} min, {COLLECTION * (read + written) / (hours * 3600) / 1e6:,.0f} MB/s")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def report(recordings: int) -> List[str]:
    """Return all lines."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rate in (400, 500):
            (folder / str(rate)).mkdir()
            write_records(folder / str(rate), recordings, rate)
        rates, gain = measure_rates(folder, recordings), measure_gain(folder)
        finding = measure_finding(folder / "names")
    (tables, memory), (opening, opening_memory) = in_a_process("tables"), in_a_process("mimic")
    alone = finding * COLLECTION / 1e6 + tables
    return [
        machine(),
        "",
        "| measured | |",
        "| --- | --- |",
        *(f"| {name} | {rate:,.0f} recordings/s and core |" for name, rate in rates.items()),
        f"| two processes, of one | {gain:.2f} times |",
        f"| finding a million files | {finding:.1f} s |",
        f"| plan and table of {COLLECTION:,} recordings, as full as MIMIC's | {tables:.0f} s, {memory:.1f} GB |",
        f"| opening the tables of MIMIC-IV-ECG, {MIMIC:,} rows | {opening:.0f} s, {opening_memory:.1f} GB |",
        "",
        *plan_table(rates, gain, alone),
    ]


def main() -> None:
    """Measure and print; with --out also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=400, help="made-up recordings of 10 s (default 400)")
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    parser.add_argument("--part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        with tempfile.TemporaryDirectory() as name:
            print(*PARTS[options.part](Path(name)))
        return
    quiet()
    hand_over(report(options.recordings), options.out)


if __name__ == "__main__":
    main()
