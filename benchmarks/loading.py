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
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

import numpy as np
import scipy.io
import torch
from tqdm import tqdm

from fairseq_signals_ext import processes
from fairseq_signals_ext.data.augmentations import AugmentationSettings
from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.data.segments import SegmentSettings
from fairseq_signals_ext.data.shards import INDEX_DTYPE, ShardWriter, index_path
from fairseq_signals_ext.data.stores import open_store

RATE, SEGMENT, LEADS, BATCH_PAIRS = 500, 2500, 12, 64
RLM = AugmentationSettings(perturbation_mode=("random_leads_masking",))


def write_recordings(folder: Path, recordings: int) -> None:
    """The same noise, 10 s a recording, as shards and as one `.mat` file a segment."""
    rng = np.random.default_rng(0)
    (folder / "mat").mkdir()
    lines = [".\n"]
    with ShardWriter(folder / "shards" / "00000.npy") as writer:
        for idx in tqdm(range(recordings), desc="writing", unit="recording", leave=False):
            counts = rng.normal(0, 200, (LEADS, 2 * SEGMENT)).astype(np.int16)
            writer.add(
                counts,
                leads=range(LEADS),
                scale=np.full(LEADS, 0.001),
                zero=np.zeros(LEADS),
                sample_rate=RATE,
                idx=idx,
                patient=str(idx),
            )
            lines.append(f"shards/00000.npy\t{idx}\t{2 * SEGMENT}\n")
            mean, std = counts.mean(axis=1, keepdims=True), counts.std(axis=1, keepdims=True)
            standardised = (counts - mean) / std
            for number in (0, 1):
                content = {
                    "feats": standardised[:, number * SEGMENT : (number + 1) * SEGMENT],
                    "org_sample_rate": RATE,
                    "curr_sample_rate": RATE,
                    "org_sample_size": 2 * SEGMENT,
                    "curr_sample_size": SEGMENT,
                    "idx": idx,
                    "mean": mean,
                    "std": std,
                    "segment_i": number,
                }
                scipy.io.savemat(folder / "mat" / f"{idx}_{number}.mat", content)
    (folder / "train.tsv").write_text("".join(lines))


def open_dataset(folder: Path) -> EcgDataset:
    """The dataset that pretraining uses."""
    store = open_store(read_manifests(find_manifests(folder, "train")))
    return EcgDataset(store, SegmentSettings(pairs="fixed", augmentations=RLM))


def load_from_shards(dataset: EcgDataset) -> int:
    """All batches of one epoch; returns the number of segments."""
    segments = 0
    for first in range(0, len(dataset), BATCH_PAIRS):
        indices = range(first, min(first + BATCH_PAIRS, len(dataset)))
        segments += len(dataset.collater([dataset[index] for index in indices])["net_input"]["source"])
    return segments


def load_from_mat(folder: Path, recordings: int) -> int:
    """The same batches from `.mat` files; returns the number of segments."""
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
    """Segments a second."""
    start = time.perf_counter()
    return load() / (time.perf_counter() - start)


def compare(recordings: int, rounds: int) -> List[str]:
    """Rows of the table of rates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_recordings(folder, recordings)
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


def write_collection(folder: Path, recordings: int, shard_size: int) -> None:
    """Index and manifest of a large collection; the waveforms are holes, so few that the page cache can hold them."""
    block = LEADS * 2 * SEGMENT
    crc = zlib.crc32(bytes(2 * block))
    with open(folder / "train.tsv", "w", encoding="utf-8") as manifest:
        manifest.write(".\n")
        for number, first in enumerate(tqdm(range(0, recordings, shard_size), desc="made-up index", leave=False)):
            rows = min(shard_size, recordings - first)
            index = np.zeros(rows, INDEX_DTYPE)
            index["idx"], index["patient"] = np.arange(first, first + rows), np.arange(first, first + rows)
            index["offset"], index["samples"] = np.arange(rows) % 8 * block, 2 * SEGMENT
            index["sample_rate"], index["leads"], index["crc"] = RATE, (1 << LEADS) - 1, crc
            path = folder / f"{number:05d}.npy"
            np.save(index_path(path), index)
            with open(path, "wb") as file:
                header = {"descr": "<i2", "fortran_order": False, "shape": (8 * block,)}
                np.lib.format.write_array_header_1_0(file, header)
                file.truncate(file.tell() + 8 * block * 2)
            manifest.write("".join(f"{path.name}\t{row}\t{2 * SEGMENT}\n" for row in range(rows)))


def memory_of(pid: int, kind: str) -> float:
    """MB of a process: `Rss` (resident) or `Private_Dirty` (its own alone)."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(kind + ":")) / 1000


def measure_opening(folder: Path) -> Tuple[float, float, float, List[float]]:
    """Seconds to open, MB before and after, and MB that each of two forked workers adds by itself."""
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
    """Rows of the table about the large collection, measured in a fresh process."""
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


def hand_over(rows: List[str], out: Optional[Path]) -> None:
    """Print a report, and write it to a file if there is one."""
    text = "\n".join(rows) + "\n"
    print(text)
    if out:
        out.write_text(text, encoding="utf-8")


def machine() -> str:
    """One line on where this was measured."""
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def measure_training(options: Any) -> List[str]:
    """Rows of the tables of `training_batches.py` that are asked for."""
    import fairseq_signals_ext

    fairseq_signals_ext.register()
    from training_batches import measure_collections, measure_reading, measure_workers

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
