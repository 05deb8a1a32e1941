"""Made-up ECG files in memory, as one uploads them."""

import io

import numpy as np
from made_up import RATE, made_up_counts

from fairseq_signals_ext.common.leads import LEADS


def wfdb_files(seed=0, name="A0001", samples=1250, signal_file=None):
    """A header and its signal file in format 16, 1000 counts a mV."""
    counts = made_up_counts(np.random.default_rng(seed), samples)
    signal_file = signal_file or f"{name}.dat"
    lines = [f"{name} {len(LEADS)} {RATE} {samples}"]
    lines += [f"{signal_file} 16 1000(0)/mV 16 0 {row[0]} 0 0 {lead}" for lead, row in zip(LEADS, counts)]
    return {f"{name}.hea": ("\n".join(lines) + "\n").encode(), f"{name}.dat": counts.T.astype("<i2").tobytes()}


def csv_file(seed=0, name="a.csv", samples=1250):
    """A table with lead names, times and units."""
    counts = made_up_counts(np.random.default_rng(seed), samples)
    lines = ["time_s," + ",".join(f"{lead}_mV" for lead in LEADS)]
    for number, values in enumerate(counts.T / 1000):
        lines.append(f"{number / RATE:.3f}," + ",".join(f"{value:.3f}" for value in values))
    return {name: ("\n".join(lines) + "\n").encode()}


def npy_file(seed=0, name="a.npy", samples=1250):
    """Counts of 1 uV without rate and unit."""
    saved = io.BytesIO()
    np.save(saved, made_up_counts(np.random.default_rng(seed), samples))
    return {name: saved.getvalue()}


def bad_files(kind, seed=0):
    """What is no recording, of one of four kinds."""
    if kind % 4 == 0:
        return {f"bad{seed}.dcm": np.random.default_rng(seed).bytes(2000)}
    if kind % 4 == 1:
        files = wfdb_files(seed, f"cut{seed}")
        return {name: content[:400] if name.endswith(".dat") else content for name, content in files.items()}
    if kind % 4 == 2:
        return {f"empty{seed}.csv": b""}
    return {f"alone{seed}.hea": wfdb_files(seed, f"alone{seed}")[f"alone{seed}.hea"]}


def parts(files):
    """As httpx takes them."""
    return [("file", (name, content)) for name, content in files.items()]
