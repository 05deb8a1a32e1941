"""Simulate 12-lead ECGs (10 s, 500 Hz) as WFDB records, to try the commands.

    python examples/demo/simulate.py --out DIR

The beats come from the model of McSharry et al. 2003
(doi:10.1109/TBME.2003.808805) as in neurokit2, which gives each lead its own
shape. The model is slow, so a few long ECGs are simulated, and each recording
is a piece of one of them, stretched a little in time, with amplitudes, baseline
wander and noise of its own. Leads III, aVR, aVL and aVF are computed from I and
II, so that they agree as the leads of a real recording do.
"""

import argparse
import sys
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError, exits_on_user_error, install_command
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.common.progress import Progress

RATE = 500
SAMPLES = 10 * RATE
GAIN = 1000  # counts a mV
SOURCES = 16  # long ECGs
SOURCE_SECONDS = 24
SLOWEST, FASTEST = 53.0, 123.0  # beats a minute of the long ECGs; stretched by up to 5 % they cover 50 to 130
STRETCH = 0.05
NOISE_MV = (0.003, 0.01, 0.02, 0.04)
# SNOMED CT codes of sinus rhythms, up to which heart rate (beats a minute) each is meant
RHYTHMS = ((60.0, 426177001), (100.0, 426783006), (float("inf"), 427084000))


def simulate_source(number: int, seed: int) -> Tuple[np.ndarray, float]:
    """A long ECG (12 x samples, each lead about 1.6 from lowest to highest, median 0) and its beats per minute."""
    try:
        import neurokit2
    except ImportError as error:
        raise UserError(f"the simulation needs neurokit2 ({error}): {install_command('demo')}") from error
    # neighbours differ widely, so that few recordings already cover all heart rates
    heart_rate = float(np.linspace(SLOWEST, FASTEST, SOURCES)[number * 7 % SOURCES])
    table = neurokit2.ecg_simulate(
        duration=SOURCE_SECONDS,
        sampling_rate=RATE,
        noise=0,
        heart_rate=heart_rate,
        method="multileads",
        random_state=seed * SOURCES + number,
    )
    signal = table[list(LEADS)].to_numpy().T
    return signal - np.median(signal, axis=1, keepdims=True), heart_rate


def make_recording(source: np.ndarray, heart_rate: float, rng: np.random.Generator) -> Tuple[np.ndarray, float]:
    """One recording (12 x 5000, mV) and its beats a minute, from a piece of a long ECG."""
    speed = rng.uniform(1 - STRETCH, 1 + STRETCH)
    span = speed * (SAMPLES - 1)
    start = rng.uniform(RATE, source.shape[1] - 1 - span)  # the model needs a moment to settle
    time = start + np.linspace(0, span, SAMPLES)
    piece = np.stack([np.interp(time, np.arange(source.shape[1]), lead) for lead in source])
    amplitude = rng.uniform(0.5, 1.3, (len(LEADS), 1))
    signal = piece * amplitude + baseline_wander(rng) + rng.normal(0, rng.choice(NOISE_MV), piece.shape)
    return with_derived_leads(signal), heart_rate * speed


def rhythm_code(heart_rate: float) -> int:
    """Return the code of sinus bradycardia, sinus rhythm or sinus tachycardia."""
    return next(code for highest, code in RHYTHMS if heart_rate < highest)


def baseline_wander(rng: np.random.Generator) -> np.ndarray:
    """Breathing, in mV: 12 x 5000, of one frequency, each lead with its own size and phase."""
    frequency = rng.uniform(0.15, 0.4)
    size, phase = rng.uniform(0, 0.1, (len(LEADS), 1)), rng.uniform(0, 2 * np.pi, (len(LEADS), 1))
    return size * np.sin(2 * np.pi * frequency * np.arange(SAMPLES) / RATE + phase)


def with_derived_leads(signal: np.ndarray) -> np.ndarray:
    """The same recording with III, aVR, aVL and aVF from I and II (Einthoven, Goldberger)."""
    one, two = signal[0], signal[1]
    limbs = np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2])
    return np.concatenate([limbs, signal[6:]])


def write_record(folder: Path, name: str, signal: np.ndarray, comments: List[str]) -> None:
    """Write `name`.hea and `name`.dat (format 16)."""
    import wfdb

    wfdb.wrsamp(
        name,
        fs=RATE,
        units=["mV"] * len(LEADS),
        sig_name=list(LEADS),
        d_signal=np.rint(signal.T * GAIN).astype(np.int64),
        fmt=["16"] * len(LEADS),
        adc_gain=[GAIN] * len(LEADS),
        baseline=[0] * len(LEADS),
        comments=comments,
        write_dir=str(folder),
    )


def simulate(out: Path, recordings: int = 300, seed: int = 1) -> None:
    """Write SIM00001, SIM00002, ... to `out`; a record depends only on its number and the seed.

    Raises:
        UserError: fewer than one recording, a seed below 0, or neurokit2 is missing.
    """
    if recordings < 1 or seed < 0:
        raise UserError(f"{recordings} recordings, seed {seed}: give at least 1 recording and a seed of at least 0")
    out.mkdir(parents=True, exist_ok=True)
    # these take most of the time, so they have a progress of their own
    needed = range(min(recordings, SOURCES))
    long_ecgs = Progress("simulate", len(needed), "long ECG").each(needed)
    sources = [simulate_source(number, seed) for number in long_ecgs]
    for number in Progress("cut", recordings, "recording").each(range(recordings)):
        rng = np.random.default_rng([seed, number])
        signal, heart_rate = make_recording(*sources[number % SOURCES], rng)
        age, sex = rng.integers(18, 91), rng.choice(["Female", "Male"])
        comments = [f"Age: {age}", f"Sex: {sex}", f"HeartRate: {heart_rate:.1f}", f"Dx: {rhythm_code(heart_rate)}"]
        write_record(out, f"SIM{number + 1:05d}", signal, comments)


@exits_on_user_error
def main(argv: Optional[List[str]] = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the records")
    parser.add_argument("--recordings", metavar="N", type=int, default=300, help="number of recordings (default 300)")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default 1)")
    args = parser.parse_args(argv)
    simulate(args.out, args.recordings, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
