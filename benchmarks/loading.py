"""How fast segments are loaded from shards, against one `.mat` file a segment (ECG-FM's storage), in one run.

    python benchmarks/loading.py [--recordings 400] [--rounds 5] [--manifest 1700000] [--batches 16] [--disk 2]
                                 [--out FILE.md]

In the first part both sides give the same batches: 64 pairs of adjacent 5 s segments of 12 leads at 500 Hz,
standardised, with random leads masked, as one float32 tensor; one process, one thread, files in the page cache.
ECG-FM's files are standardised already, so its side has less to do. The sides take turns, round by round; the ratio is
that of their medians.

The second part opens the manifest of a collection of 1.7 million recordings (index made up, waveforms eight in each
shard that lie in a hole of its file), and measures time and memory, also of forked workers.

The third part, whole batches as training gets them, is in `training_batches.py`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, List, Tuple

import numpy as np
import scipy.io
import torch
from _shared import (
    LEADS,
    RATE,
    SAMPLES,
    SEGMENT,
    hand_over,
    machine,
    memory_of,
    noise,
    write_collection,
    write_shards,
)
from tqdm import tqdm
from training_batches import measure_collections, measure_reading, measure_workers

import fairseq_signals_ext
from fairseq_signals_ext.common import processes
from fairseq_signals_ext.data.augmentations import AugmentationSettings
from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.data.segments import SegmentSettings
from fairseq_signals_ext.data.stores import open_store

BATCH_PAIRS = 64
RLM = AugmentationSettings(perturbation_mode=("random_leads_masking",))


def write_mat(folder: Path, recordings: int) -> None:
    """Write the recordings of `noise`, one `.mat` file per segment."""
    counts_of = noise()
    folder.mkdir()
    for idx in tqdm(range(recordings), desc="writing .mat", unit="recording", leave=False):
        counts = counts_of(idx)
        mean, std = counts.mean(axis=1, keepdims=True), counts.std(axis=1, keepdims=True)
        standardised = (counts - mean) / std
        for number in (0, 1):
            content = {
                "feats": standardised[:, number * SEGMENT : (number + 1) * SEGMENT],
                "org_sample_rate": RATE,
                "curr_sample_rate": RATE,
                "org_sample_size": SAMPLES,
                "curr_sample_size": SEGMENT,
                "idx": idx,
                "mean": mean,
                "std": std,
                "segment_i": number,
            }
            scipy.io.savemat(folder / f"{idx}_{number}.mat", content)


def open_dataset(folder: Path) -> EcgDataset:
    """Open the dataset of pretraining."""
    store = open_store(read_manifests(find_manifests(folder, "train")))
    return EcgDataset(store, SegmentSettings(pairs="fixed", augmentations=RLM))


def load_from_shards(dataset: EcgDataset) -> int:
    """Read all batches of one epoch; return the number of segments."""
    segments = 0
    for first in range(0, len(dataset), BATCH_PAIRS):
        indices = range(first, min(first + BATCH_PAIRS, len(dataset)))
        segments += len(dataset.collater([dataset[index] for index in indices])["net_input"]["source"])
    return segments


def load_from_mat(folder: Path, recordings: int) -> int:
    """Read the same batches from `.mat` files; return the number of segments."""
    rng = np.random.default_rng(0)
    segments = 0
    for first in range(0, recordings, BATCH_PAIRS):
        loaded = []
        for idx in range(first, min(first + BATCH_PAIRS, recordings)):
            for number in (0, 1):
                feats = torch.from_numpy(scipy.io.loadmat(folder / "mat" / f"{idx}_{number}.mat")["feats"]).float()
                feats[rng.random(LEADS) < 0.5] = 0
                loaded.append(feats)
        segments += len(torch.stack(loaded))
    return segments


def rate_of(load: Callable[[], int]) -> float:
    """Return segments per second."""
    start = time.perf_counter()
    return load() / (time.perf_counter() - start)


def compare(recordings: int, rounds: int) -> List[str]:
    """Return rows of the table of rates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder, recordings, noise(), below="shards/")
        write_mat(folder / "mat", recordings)
        sizes = {kind: sum(file.stat().st_size for file in (folder / kind).iterdir()) for kind in ("shards", "mat")}
        dataset = open_dataset(folder)
        ours, theirs, first = [], [], rate_of(lambda: load_from_shards(dataset))
        load_from_mat(folder, recordings)
        for _ in tqdm(range(rounds), desc="measuring", unit="round", leave=False):
            ours.append(rate_of(lambda: load_from_shards(dataset)))
            theirs.append(rate_of(lambda: load_from_mat(folder, recordings)))
    shards, mat = statistics.median(ours), statistics.median(theirs)
    per_segment = {kind: size / (2 * recordings) / 1000 for kind, size in sizes.items()}
    return [
        "| storage | segments/s and core | range | kB a segment |",
        "| --- | --- | --- | --- |",
        f"| one .mat a segment, scipy | {mat:,.0f} | {min(theirs):,.0f}-{max(theirs):,.0f} "
        f"| {per_segment['mat']:.0f} |",
        f"| shards | {shards:,.0f} | {min(ours):,.0f}-{max(ours):,.0f} | {per_segment['shards']:.0f} |",
        f"| shards, first epoch (checksums compared) | {first:,.0f} | | |",
        f"| **ratio** | **{shards / mat:.1f}** (first epoch {first / mat:.1f}) | | |",
    ]


def measure_opening(folder: Path) -> Tuple[float, float, float, List[float]]:
    """Return seconds for opening, MB before and after, and MB added by each of two forked workers."""
    before = memory_of(os.getpid(), "Rss")
    start = time.perf_counter()
    dataset = open_dataset(folder)
    seconds = time.perf_counter() - start
    after = memory_of(os.getpid(), "Rss")
    workers = []
    for _ in range(2):
        here, there = os.pipe()
        child = os.fork()
        if child == 0:
            for index in np.random.default_rng(1).integers(0, len(dataset), 64):
                dataset.store.samples[dataset._recording[index]]  # noqa: B018
            os.write(there, f"{memory_of(os.getpid(), 'Private_Dirty'):.3f}".encode())
            os._exit(0)
        workers.append(float(os.read(here, 100)))
        os.waitpid(child, 0)
    return seconds, before, after, workers


def open_collection(recordings: int) -> List[str]:
    """Return rows about the large collection, measured in a new process."""
    with tempfile.TemporaryDirectory() as name:
        write_collection(Path(name), recordings, shard_size=2048)
        done = processes.run(
            [sys.executable, __file__, "--open", name], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()
    seconds, before, after, *workers = (float(value) for value in done)
    return [
        f"| manifest of {recordings:,} recordings | |",
        "| --- | --- |",
        f"| opens in | {seconds:.2f} s |",
        f"| memory that opening adds | {after - before:.0f} MB |",
        f"| memory of the process | {after:.0f} MB, of which torch and fairseq {before:.0f} MB |",
        f"| memory that a forked worker adds | {max(workers):.1f} MB |",
    ]


def measure_training(options: Any) -> List[str]:
    """Return rows of the requested tables of `training_batches.py`."""
    fairseq_signals_ext.register()
    rows = []
    if options.batches:
        rows += ["", *measure_workers(options.batches, options.rounds)]
        if options.manifest:
            rows += ["", *measure_collections(options.batches, options.rounds, options.manifest)]
    if options.disk:
        rows += ["", *measure_reading(options.disk)]
    return rows


def main() -> None:
    """Measure and print; with --out also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=400, help="recordings of 10 s to load (default 400)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each side (default 5)")
    parser.add_argument("--manifest", type=int, default=1_700_000, help="size of the made-up collection; 0: none")
    parser.add_argument("--batches", type=int, default=16, help="training batches a turn (default 16); 0: none")
    parser.add_argument(
        "--disk", type=float, default=2, help="GB to read through a small page cache (default 2); 0: none"
    )
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.open:
        seconds, before, after, workers = measure_opening(options.open)
        print(seconds, before, after, *workers)
        return
    rows: List[Any] = [f"{machine()}", "", *compare(options.recordings, options.rounds)]
    if options.manifest:
        rows += ["", *open_collection(options.manifest)]
    rows += measure_training(options)
    hand_over(rows, options.out)


if __name__ == "__main__":
    main()
