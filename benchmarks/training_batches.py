"""Whole training batches: how fast they come, and what is read from disk; the third part of `loading.py`.

Batches are what `fairseq-hydra-train` gets with `ecg_fm.yaml`: 171 pairs, leads masked, time masks of the base model,
by the task's own dataset, fairseq's iterator and torch's DataLoader; one thread a process. Settings take turns, so
many batches each; a rate is the median of the turns. Checksums are compared in a turn before. Without workers a batch
is made in the one process; with workers it is copied into memory that they share (`data/shared_batches.py`). fairseq
asks for pinned memory and moves batches to a GPU with `non_blocking`; without a GPU nothing is pinned. The rate by
processor time counts that of all processes: what a core does, where other programs use the machine, too.

The collection of 1.7 million recordings is that of `loading.py`: its waveforms fit into the page cache, so that what is
compared is the cost of order, index and manifest.

What an epoch reads is measured in a process that is given (as a control group, for which one must be root) memory of a
fifth of the data and 150 MiB. The batches being made take 82 MB of it, the rest is page cache: up to 24 % of 2 GB of
data, in which two windows of a tenth each have to fit.
"""

import itertools
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import torch
from _shared import LEADS, SAMPLES, beats, compose_config, write_collection, write_shards
from tqdm import tqdm

import fairseq_signals_ext
from fairseq_signals_ext.common import processes

PAIRS = 171
BYTES = LEADS * SAMPLES * 2  # of a recording


def training_batches(folder: Path, workers: int, *overrides: str) -> Any:
    """Return fairseq's iterator over batches of 171 pairs, as its command does with `ecg_fm.yaml`."""
    from fairseq import tasks
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from omegaconf import OmegaConf

    from fairseq_signals_ext.data.time_masks import MaskSettings

    config = compose_config(folder, PAIRS, "fp32", list(overrides))
    model = OmegaConf.structured(MODEL_DATACLASS_REGISTRY[config.model._name])
    task = tasks.setup_task(config.task)
    task.masks = MaskSettings.from_model_config(OmegaConf.merge(model, dict(config.model.items())))
    task.load_dataset("train")
    dataset = task.dataset("train")
    return task.get_batch_iterator(dataset, max_sentences=PAIRS, seed=1, num_workers=workers)


def processor_seconds() -> float:
    """Return processor seconds of this process and its workers, including the kernel."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    seconds = own.ru_utime + own.ru_stime
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def take_turns(sources: Dict[str, Any], rounds: int, batches: int) -> Dict[str, Tuple[float, float]]:
    """Return segments per second and per processor second of each iterator: medians over its turns of `batches`."""
    found: Dict[str, List[Tuple[float, float]]] = {name: [] for name in sources}
    for _ in tqdm(range(rounds + 1), desc="taking turns", unit="round", leave=False):
        for name, stream in sources.items():
            start, used = time.perf_counter(), processor_seconds()
            segments = sum(len(batch["id"]) for batch in itertools.islice(stream, batches))
            passed = time.perf_counter() - start
            found[name].append((segments / passed, segments / (processor_seconds() - used)))
    # the first turn starts workers and compares checksums
    return {name: tuple(np.median(rates[1:], axis=0)) for name, rates in found.items()}


def epochs(iterator: Any) -> Iterator[Any]:
    """Yield batches of successive epochs; each starts when its first batch is requested, so that no worker is ahead."""
    while True:
        yield from iterator.next_epoch_itr()


def measure_workers(batches: int, rounds: int) -> List[str]:
    """Return rows of rates, from shards with this number of batches."""
    with tempfile.TemporaryDirectory() as name:
        sources = {}
        for storage in ("raw", "flac"):
            folder = Path(name) / storage
            folder.mkdir()
            write_shards(folder, PAIRS * batches, beats(), storage)
            for workers in (0, 1, 2):
                sources[f"{storage}, workers: {workers}"] = epochs(training_batches(folder, workers))
            windows = training_batches(folder, 0, "task.shuffle_window_gb=0.05")
            sources[f"{storage}, workers: 0, windows of 0.05 GB"] = epochs(windows)
        rates = take_turns(sources, rounds, batches)
    rows = table_of("training batches", rates)
    for storage in ("raw", "flac"):
        one, two = rates[f"{storage}, workers: 1"][0], rates[f"{storage}, workers: 2"][0]
        rows.append(f"| **{storage}: two workers of twice one** | **{50 * two / one:.0f} %** | |")
    return rows


def measure_collections(batches: int, rounds: int, recordings: int) -> List[str]:
    """Return rows that compare a large with a small collection, without workers."""
    with tempfile.TemporaryDirectory() as name:
        sources, starts = {}, []
        for kind, number, window in (("small", 2 * PAIRS, 0.03), ("large", recordings, 16)):
            folder = Path(name) / kind
            folder.mkdir()
            write_collection(folder, number, 2048)
            for overrides in ((), (f"task.shuffle_window_gb={window}",)):
                label = f"{number:,} recordings" + (f", windows of {window:g} GB" if overrides else "")
                iterator = training_batches(folder, 0, "task.checksum=never", *overrides)
                start = time.perf_counter()
                len(iterator)
                starts.append(f"| {label}: s to order an epoch | {time.perf_counter() - start:.2f} | |")
                sources[label] = epochs(iterator)
        return table_of("random order", take_turns(sources, rounds, batches)) + starts[-2:]


def table_of(title: str, rates: Dict[str, Tuple[float, float]]) -> List[str]:
    """Return rows from `take_turns`."""
    rows = [f"| {title} | segments/s | segments per second of processor time |", "| --- | --- | --- |"]
    return rows + [f"| {name} | {rate:,.0f} | {processor:,.0f} |" for name, (rate, processor) in rates.items()]


def memory_group(limit: int) -> Path:
    """Create a control group with this limit in bytes, including the page cache; `cgroup.procs` adds a process.

    Raises:
        OSError: this user or system has no such groups.
    """
    parent, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
    if not parent.is_dir():
        parent, name = Path("/sys/fs/cgroup"), "memory.max"
    group = parent / f"loading-{os.getpid()}"
    group.mkdir()
    (group / name).write_text(str(limit))
    return group


def read_bytes() -> int:
    """Return the bytes that were read from disk for this process."""
    return int(Path("/proc/self/io").read_text().partition("\nread_bytes: ")[2].split()[0])


def read_epoch(folder: Path, group: Path, overrides: List[str]) -> Tuple[float, float]:
    """Return GB read from disk and seconds of an epoch, in a process that joins `group` at the first batch."""
    next(training_batches(folder, 0, "task.checksum=never").next_epoch_itr())
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    batches = training_batches(folder, 0, "task.checksum=never", *overrides).next_epoch_itr()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    before, start = read_bytes(), time.perf_counter()
    for _ in batches:
        pass
    return (read_bytes() - before) / 1e9, time.perf_counter() - start


def measure_reading(gigabytes: float) -> List[str]:
    """Return rows of the data that an epoch reads from disk, with little memory for the page cache."""
    memory = int(gigabytes / 5 * 1e9) + (150 << 20)  # two windows, and 150 MiB mostly for batches
    rows = [f"| an epoch, {memory / 1e9:.2f} GB for batches and page cache | GB read | s |", "| --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder, int(gigabytes * 1e9 / BYTES), beats())
        os.sync()
        size = sum(path.stat().st_size for path in folder.glob("*.npy")) / 1e9
        for label, overrides in (
            ("all items shuffled together", []),
            (f"windows of {gigabytes / 10:g} GB", [f"task.shuffle_window_gb={gigabytes / 10}"]),
        ):
            try:
                group = memory_group(memory)
            except OSError as error:
                return [*rows, f"| not measured: {error} | | |"]
            command = [sys.executable, __file__, str(folder), str(group), *overrides]
            try:
                done = processes.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
            finally:
                group.rmdir()
            rows.append(f"| {size:.2f} GB, {label} | {float(done[-2]):.2f} | {float(done[-1]):.1f} |")
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    fairseq_signals_ext.register()
    print(*read_epoch(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
