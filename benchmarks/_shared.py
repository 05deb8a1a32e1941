"""What the benchmarks share: made-up recordings, a config, times and memory, and the report that they leave."""

import logging
import os
import platform
import time
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from fairseq_signals_ext import configs_dir
from fairseq_signals_ext.common import leads
from fairseq_signals_ext.data.shards import INDEX_DTYPE, ShardWriter, index_path
from fairseq_signals_ext.readers import limb_leads

CONFIGS = Path(configs_dir("pretraining"))
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
# of a made-up recording, of which a segment is half
RATE, SAMPLES, SEGMENT, LEADS = 500, 5000, 2500, len(leads.LEADS)
SHARD_SIZE = 512

STOCK = "stock"
# what trains faster, each with its options
SWITCHES: Dict[str, List[str]] = {
    "compile": ["++model.compile=true"],
    "fused_qkv": ["++model.fused_qkv=true"],
    "fft_pos_conv": ["++model.fft_pos_conv=true"],
    "fused_contrast": ["++model.fused_contrast=true"],
    "fused_adam": ["optimizer._name=fused_adam"],
    "bf16_autocast": ["++model.bf16_autocast=true"],
}
FAST = [override for overrides in SWITCHES.values() for override in overrides]


def noise() -> Callable[[int], np.ndarray]:
    """Yields counts, leads x samples, of one recording after another; the same each time."""
    rng = np.random.default_rng(0)
    return lambda idx: rng.normal(0, 200, (LEADS, SAMPLES)).astype(np.int16)


def beats() -> Callable[[int], np.ndarray]:
    """Like `noise`, but beats with some noise, 64 repeated recordings that FLAC can compress."""
    rng = np.random.default_rng(0)
    beat = np.exp(-((np.arange(SAMPLES) / RATE % 0.8 - 0.4) ** 2) / 0.001)
    made_up = rng.uniform(-1000, 1000, (64, LEADS, 1)) * beat + rng.normal(0, 10, (64, LEADS, SAMPLES))
    return lambda idx: made_up[idx % 64].astype(np.int16)


def write_shards(
    folder: Path, recordings: int, counts_of: Callable[[int], np.ndarray], storage: str = "raw", below: str = ""
) -> None:
    """Write shards of 512 simulated recordings of 10 s, and their `train.tsv`.

    Args:
        counts_of: `noise()` or `beats()`.
        below: folder of the shards in `folder`, such as `shards/`.
    """
    facts: Dict[str, Any] = {"leads": range(LEADS), "scale": np.full(LEADS, 0.001), "zero": np.zeros(LEADS)}
    (folder / below).mkdir(exist_ok=True)
    with open(folder / "train.tsv", "w", encoding="utf-8") as manifest:
        manifest.write(".\n")
        for first in tqdm(range(0, recordings, SHARD_SIZE), desc=f"writing {storage}", unit="shard", leave=False):
            name = f"{below}{first // SHARD_SIZE:05d}.npy"
            with ShardWriter(folder / name, storage) as writer:
                for idx in range(first, min(first + SHARD_SIZE, recordings)):
                    writer.add(counts_of(idx), **facts, sample_rate=RATE, idx=idx, patient=str(idx))
                    manifest.write(f"{name}\t{idx - first}\t{SAMPLES}\n")


def write_collection(folder: Path, recordings: int, shard_size: int) -> None:
    """Write index and manifest of a large collection; the waveforms are holes that fit the page cache."""
    block = LEADS * SAMPLES
    crc = zlib.crc32(bytes(2 * block))
    with open(folder / "train.tsv", "w", encoding="utf-8") as manifest:
        manifest.write(".\n")
        for number, first in enumerate(tqdm(range(0, recordings, shard_size), desc="made-up index", leave=False)):
            rows = min(shard_size, recordings - first)
            index = np.zeros(rows, INDEX_DTYPE)
            index["idx"], index["patient"] = np.arange(first, first + rows), np.arange(first, first + rows)
            index["offset"], index["samples"] = np.arange(rows) % 8 * block, SAMPLES
            index["sample_rate"], index["leads"], index["crc"] = RATE, (1 << LEADS) - 1, crc
            path = folder / f"{number:05d}.npy"
            np.save(index_path(path), index)
            with open(path, "wb") as file:
                header = {"descr": "<i2", "fortran_order": False, "shape": (8 * block,)}
                np.lib.format.write_array_header_1_0(file, header)
                file.truncate(file.tell() + 8 * block * 2)
            manifest.write("".join(f"{path.name}\t{row}\t{SAMPLES}\n" for row in range(rows)))


def write_records(folder: Path, recordings: int, rate: int = RATE) -> None:
    """Write simulated WFDB records: a wave repeated each second, wander and noise, as smooth as an ECG."""
    import wfdb

    rng = np.random.default_rng(0)
    times = np.arange(SAMPLES // RATE * rate) / rate
    for number in tqdm(range(recordings), desc="writing records", leave=False):
        beat = np.exp(-(((times * rng.uniform(0.8, 2.0)) % 1 - 0.5) ** 2) / 0.001)
        wander = 50 * np.sin(2 * np.pi * rng.uniform(0.1, 0.4) * times)
        counts = rng.uniform(-1000, 1000, (LEADS, 1)) * beat + wander + rng.normal(0, 5, (LEADS, len(times)))
        for lead in limb_leads.WEIGHTS:
            counts[lead] = limb_leads.combined(counts[:2], lead)
        wfdb.wrsamp(
            f"r{number:05d}",
            fs=rate,
            units=["mV"] * LEADS,
            sig_name=list(leads.LEADS),
            d_signal=counts.T.round().astype(np.int64),
            fmt=["16"] * LEADS,
            adc_gain=[1000.0] * LEADS,
            baseline=[0] * LEADS,
            comments=["Age: 60", "Sex: Female", "Dx: 426783006"],
            write_dir=str(folder),
        )


def compose_config(folder: Path, pairs: int, precision: str, overrides: List[str], name: str = "ecg_fm") -> Any:
    """Return a config, by default `ecg_fm.yaml`, as `fairseq-hydra-train` composes it."""
    from fairseq.dataclass.initialize import add_defaults, hydra_init
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    hydra_init(name)
    with initialize_config_dir(str(CONFIGS), version_base="1.1"):
        config = compose(
            name,
            [
                f"task.data={folder}",
                f"checkpoint.save_dir={folder}/checkpoints",  # a trainer locks it
                f"dataset.batch_size={pairs}",
                "dataset.num_workers=1",
                "distributed_training.distributed_world_size=1",
                f"common.bf16={str(precision == 'bf16').lower()}",
                f"common.cpu={str(not ON_GPU).lower()}",
                "common.log_format=none",
                *overrides,
            ],
        )
    add_defaults(config)
    return OmegaConf.create(OmegaConf.to_container(config, resolve=True, enum_to_str=True))


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if ON_GPU:
        torch.cuda.synchronize()


def seconds_of(function: Callable[[], Any]) -> float:
    """Return the time of one call, including the GPU's work."""
    synchronise()
    start = time.perf_counter()
    function()
    synchronise()
    return time.perf_counter() - start


def measured_peak(precision: str) -> float:
    """Measure TFLOP/s of a large matrix product."""
    size = 8192 if ON_GPU else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * size**3 / min(seconds_of(lambda: torch.mm(a, b)) for _ in range(5)) / 1e12


def count_flops(trainer: Any, samples: List[Any]) -> float:
    """Count floating-point operations of one update, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        trainer.train_step(samples)
    return float(counter.get_total_flops())


def memory_of(pid: int, kind: str) -> float:
    """Return the memory of a process in MB: `Rss` (resident) or `Private_Dirty` (its own only)."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(kind + ":")) / 1000


def quiet() -> None:
    """Use one thread, and no log: after fairseq is imported, each library logs to the terminal."""
    torch.set_num_threads(1)
    logging.disable(logging.INFO)


def machine() -> str:
    """Return one line about the machine."""
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def hand_over(rows: List[str], out: Optional[Path]) -> None:
    """Print a report, and write it to a file if one is given."""
    text = "\n".join(rows) + "\n"
    print(text)
    if out:
        out.write_text(text, encoding="utf-8")
