"""Small made-up data for tests: recordings, shards with manifests, and ECG-FM's `.mat` files."""

from pathlib import Path
from typing import Any, List, Optional, Sequence

import numpy as np
import scipy.io

from fairseq_signals_ext.data.shards import ShardWriter
from fairseq_signals_ext.readers import Recording, StoredCounts

RATE = 500


def made_up_counts(rng: np.random.Generator, samples: int, leads: int = 12) -> np.ndarray:
    """Beats of one heart on all leads with noise: int16, leads x samples; of twelve the limb leads agree."""
    time = np.arange(samples) / RATE
    beat = np.exp(-(((time * rng.uniform(0.8, 2.0) + rng.uniform()) % 1 - 0.5) ** 2) / 0.001)
    signal = rng.uniform(-1000, 1000, (leads, 1)) * beat + rng.normal(0, 20, (leads, samples))
    if leads == 12:
        one, two = signal[:2]
        signal[2:6] = two - one, -(one + two) / 2, one - two / 2, two - one / 2
    return signal.round().astype(np.int16)


def write_shards(
    folder: Path,
    lengths: Sequence[int],
    patients: Optional[Sequence[str]] = None,
    leads: Sequence[int] = tuple(range(12)),
    sample_rate: float = RATE,
    shard_size: int = 4,
    split: str = "train",
    seed: int = 0,
    storage: str = "raw",
) -> List[np.ndarray]:
    """Shards with one recording a length, and the manifest `split`.tsv; returns the counts of each recording."""
    rng = np.random.default_rng(seed)
    recordings, lines = [], [".\n"]
    for first in range(0, len(lengths), shard_size):
        name = f"shards/{first // shard_size:05d}.npy"
        with ShardWriter(folder / name, storage) as writer:
            for row, samples in enumerate(lengths[first : first + shard_size]):
                idx = first + row
                counts = made_up_counts(rng, samples, len(leads))
                writer.add(
                    counts,
                    leads=leads,
                    scale=np.full(len(leads), 0.001) * (1 + np.arange(len(leads)) / 10),
                    zero=np.arange(len(leads)) * 3.0,
                    sample_rate=sample_rate,
                    idx=idx,
                    patient=patients[idx] if patients else f"made-up-{idx}",
                )
                recordings.append(counts)
                lines.append(f"{name}\t{row}\t{samples}\n")
    (folder / f"{split}.tsv").write_text("".join(lines))
    return recordings


def write_label_file(folder: Path, values: np.ndarray, names: Optional[Sequence[str]] = None) -> Path:
    """`y.npy` with these values (recordings x labels) and `label_def.csv`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "y.npy", np.asarray(values, np.float32))
    names = names or [f"label_{number}" for number in range(values.shape[1])]
    (folder / "label_def.csv").write_text("\n".join(["name", *names]) + "\n")
    return folder


def write_mat(path: Path, feats: np.ndarray, idx: int, sample_rate: float = RATE) -> None:
    """A `.mat` file as ECG-FM's preprocessing leaves them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"feats": feats, "curr_sample_rate": sample_rate, "idx": idx})


def write_mat_7_3(path: Path, **variables: Any) -> None:
    """A `.mat` file of version 7.3 as MATLAB writes it: numbers, matrices, lines of text, and structs of these."""
    import h5py  # which the environment of tests/legacy has not

    def add(group: h5py.Group, name: str, value: Any) -> None:
        if isinstance(value, dict):
            group = group.create_group(name)
            for field, content in value.items():
                add(group, field, content)
            kind = "struct"
        elif isinstance(value, str):
            group = group.create_dataset(name, data=np.array([[ord(letter)] for letter in value], np.uint16))
            kind = "char"
        else:
            group = group.create_dataset(name, data=np.atleast_2d(np.asarray(value, np.float64)).T)
            kind = "double"
        group.attrs["MATLAB_class"] = np.bytes_(kind)

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            add(file, name, value)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(512))


def stored_recording(counts: np.ndarray, scale: float = 0.001, zero: float = 0.0, **facts: Any) -> Recording:
    """A recording that holds integers: the first leads at 500 Hz unless said otherwise."""
    scales, zeros = np.full(len(counts), scale), np.full(len(counts), zero)
    signal = (counts - zeros[:, None]) * scales[:, None]
    facts = {"record_id": "r", "leads": tuple(range(len(counts))), "sample_rate": float(RATE), **facts}
    return Recording(physical=signal, stored=StoredCounts(counts, scales, zeros), **facts)


def plain_recording(signal: np.ndarray, rate: float = RATE, **facts: Any) -> Recording:
    """A recording that holds mV only."""
    facts = {"record_id": "r", "leads": tuple(range(len(signal))), "sample_rate": float(rate), **facts}
    return Recording(physical=np.asarray(signal, float), **facts)


def open_dataset(folder, split="train", checksum="once", **settings):
    """The dataset of a manifest; `settings` are those of `EcgDataset` and of `SegmentSettings`."""
    from fairseq_signals_ext.data.ecg_dataset import EcgDataset
    from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
    from fairseq_signals_ext.data.segments import SegmentSettings
    from fairseq_signals_ext.data.stores import open_store

    store = open_store(read_manifests(find_manifests(folder, split)), checksum)
    names = {"training", "seed", "masks", "keep_original"} & settings.keys()
    dataset_options = {key: settings.pop(key) for key in names}
    return EcgDataset(store, SegmentSettings(**settings), name=split, **dataset_options)
