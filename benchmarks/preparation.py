"""How fast WFDB records become data to train on, and how large it is: shards against what ECG-FM does, in one run.

    python benchmarks/preparation.py [--data FOLDER] [--recordings 400] [--rounds 5] [--out FILE.md]

Both sides start from the same WFDB records (made up, 12 leads, 10 s, 500 Hz, format 16; or those below FOLDER), in the
page cache, by one process with one thread, and write to the same disk:

* ECG-FM: `wfdb.rdsamp`, then with scipy one `.mat` file as it is (float32), one standardised (float64), and one for
  each segment of 5 s (float64), as in its published pipeline (arXiv 2408.05178). What it reads back between these
  steps is not counted, so its side has less to do than in truth.
* shards: `prepare`, that is everything from finding the files to table, checksums, flags and manifest, as raw counts
  and with `--storage flac`.

The sides take turns, round by round; the ratios are those of their medians. The second table loads both kinds of shards
as a training does.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List

import numpy as np
import scipy.io
import wfdb
from _shared import SEGMENT, hand_over, machine, quiet, write_records
from loading import BATCH_PAIRS, load_from_shards, open_dataset
from tqdm import tqdm

from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
from fairseq_signals_ext.sources import open_source


def as_ecg_fm(source: Path, out: Path) -> int:
    """Write `.mat` files of all records; return the number of records."""
    headers = sorted(source.rglob("*.hea"))
    for kind in ("org", "preprocessed", "segmented"):
        (out / kind).mkdir(parents=True)
    for idx, header in enumerate(headers):
        signal, fields = wfdb.rdsamp(str(header)[: -len(".hea")])
        feats = signal.T.astype(np.float32)
        facts = {"org_sample_rate": fields["fs"], "curr_sample_rate": fields["fs"], "idx": idx}
        scipy.io.savemat(out / "org" / f"{idx}.mat", {"feats": feats, **facts})
        mean, std = feats.mean(axis=1, keepdims=True), feats.std(axis=1, keepdims=True)
        standardised = (feats - mean) / np.where(std > 0, std, 1).astype(np.float64)
        facts.update(mean=mean, std=std)
        scipy.io.savemat(out / "preprocessed" / f"{idx}.mat", {"feats": standardised, **facts})
        for number in range(standardised.shape[1] // SEGMENT):
            piece = standardised[:, number * SEGMENT : (number + 1) * SEGMENT]
            content = {"feats": piece, "segment_i": number, **facts}
            scipy.io.savemat(out / "segmented" / f"{idx}_{number}.mat", content)
    return len(headers)


def as_shards(source: Path, out: Path, storage: str) -> int:
    """Prepare a folder; return the number of records."""
    summary = prepare(open_source("wfdb", source), out, options=RunOptions(progress=False), storage=storage)
    return summary.recordings + summary.rejected


SIDES: Dict[str, Callable[[Path, Path], int]] = {
    "ECG-FM: rdsamp, .mat files": as_ecg_fm,
    "shards, raw": lambda source, out: as_shards(source, out, "raw"),
    "shards, flac": lambda source, out: as_shards(source, out, "flac"),
}


def compare(source: Path, folder: Path, rounds: int) -> List[str]:
    """Return rows of rates and sizes; the output of the last round stays in `folder`."""
    rates: Dict[str, List[float]] = {name: [] for name in SIDES}
    sizes: Dict[str, int] = {}
    for number in tqdm(range(rounds + 1), desc="measuring", unit="round", leave=False):
        for name, run in SIDES.items():
            out = folder / name.replace(" ", "_").strip(".")
            shutil.rmtree(out, ignore_errors=True)
            start = time.perf_counter()
            records = run(source, out)
            if number:  # the first round warms up
                rates[name].append(records / (time.perf_counter() - start))
            sizes[name] = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    samples = sum(np.prod(np.load(file, mmap_mode="r").shape) for file in _raw_shards(folder))
    theirs = statistics.median(rates[next(iter(SIDES))])
    rows = [
        "| storage | recordings/s and core | range | ratio | size, 16-bit samples = 1 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in SIDES:
        rate = statistics.median(rates[name])
        spread = f"{min(rates[name]):,.0f}-{max(rates[name]):,.0f}"
        rows.append(f"| {name} | {rate:,.0f} | {spread} | {rate / theirs:.1f} | {sizes[name] / (2 * samples):.2f} |")
    return rows


def _raw_shards(folder: Path) -> List[Path]:
    return [file for file in (folder / "shards,_raw" / "shards").glob("*.npy") if not file.name.endswith(".index.npy")]


def compare_loading(folder: Path, rounds: int) -> List[str]:
    """Return rows of loading rates of both kinds of shards."""
    datasets = {}
    for name in list(SIDES)[1:]:
        out = folder / name.replace(" ", "_")
        shutil.copy(out / "all.tsv", out / "train.tsv")
        datasets[name] = open_dataset(out)
        load_from_shards(datasets[name])
    rates: Dict[str, List[float]] = {name: [] for name in datasets}
    for _ in range(rounds):
        for name, dataset in datasets.items():
            start = time.perf_counter()
            rates[name].append(load_from_shards(dataset) / (time.perf_counter() - start))
    rows = [f"| loading, batches of {BATCH_PAIRS} pairs | segments/s and core |", "| --- | --- |"]
    return rows + [f"| {name} | {statistics.median(values):,.0f} |" for name, values in rates.items()]


def main() -> None:
    """Measure and print; with --out also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of WFDB records at 500 Hz; default: made-up ones")
    parser.add_argument("--recordings", type=int, default=400, help="made-up recordings of 10 s (default 400)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each side (default 5)")
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    options = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = options.data or folder / "records"
        if options.data is None:
            source.mkdir()
            write_records(source, options.recordings)
        rows = [machine(), "", *compare(source, folder, options.rounds), "", *compare_loading(folder, options.rounds)]
    hand_over(rows, options.out)


if __name__ == "__main__":
    main()
