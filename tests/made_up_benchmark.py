"""A small prepared folder with labels, and features that tell them, or do not."""

import sys
from pathlib import Path
from typing import Any, List, Sequence, Tuple

import numpy as np
from made_up_tables import write_table

from fairseq_signals_ext.benchmarking.benchmark import begin, prepare_tasks, run_benchmark
from fairseq_signals_ext.benchmarking.entrants import Entrant
from fairseq_signals_ext.benchmarking.protocols import BenchmarkSettings
from fairseq_signals_ext.benchmarking.results import Results
from fairseq_signals_ext.benchmarking.task_files import read_task

CODES = ("NORM", "IMI", "NDT", "LVH", "CRBBB")  # one of each superclass of PTB-XL
SMALL = {"resamples": 200, "fold_seeds": (1, 2)}


class MadeUpFeatures:
    """Features as those of a model: layers x recordings x dimensions."""

    def __init__(self, name: str, values: np.ndarray):
        self.name, self.values = name, values.astype(np.float32)
        self.layers: Sequence[str] = [str(number) for number in range(len(values))]
        self.dimensions, self.idx = values.shape[2], np.arange(values.shape[1])

    def matrix(self, layer: int, deviation: bool = False) -> np.ndarray:
        values = self.values[layer]
        return np.concatenate([values, values**2], axis=1) if deviation else values

    def frames(self, layer: int) -> Tuple[np.ndarray, np.ndarray]:
        """Four frames; the last one of every second recording is padding."""
        frames = np.repeat(self.values[layer][:, None], 4, axis=1).astype(np.float16)
        return frames, np.where(self.idx % 2, 4, 3)


def write_labelled(folder: Path, recordings: int = 240, seed: int = 0, **columns: Any) -> np.ndarray:
    """A prepared folder of which every two recordings have a patient; returns which has which of `CODES`, bool."""
    rng = np.random.default_rng(seed)
    has = rng.uniform(size=(recordings, len(CODES))) < 0.3
    given = {
        "patient": [f"p{number // 2}" for number in range(recordings)],
        "source": ["ptbxl"] * recordings,
        "seconds": [10.0] * recordings,
        "codes": [["SR:0", *(f"{code}:100" for code, there in zip(CODES, row) if there)] for row in has],
        "age": rng.uniform(20, 90, recordings),
        "sex": rng.choice(["female", "male"], recordings).tolist(),
        "strat_fold": [float(number // 2 % 10 + 1) for number in range(recordings)],
    }
    write_table(folder, recordings, **{**given, **columns})
    return has


def noise(recordings: int, seed: int, layers: int = 3, dimensions: int = 8) -> np.ndarray:
    """Features that tell nothing."""
    return np.random.default_rng(seed).normal(size=(layers, recordings, dimensions))


def entrants_of(has: np.ndarray) -> List[Entrant]:
    """A model whose layers 1 and 2 tell the labels (the last one less), one that tells nothing, and a control."""
    told = noise(len(has), 1)
    told[1, :, : len(CODES)] += 2 * has
    told[2, :, : len(CODES)] += has
    return [
        Entrant("told", "checkpoint", MadeUpFeatures("told", told), "random", "1a2b"),
        Entrant("nothing", "checkpoint", MadeUpFeatures("nothing", noise(len(has), 2)), "random", "3c4d"),
        Entrant("random", "random", MadeUpFeatures("random", noise(len(has), 3))),
    ]


def benchmark(
    data: Path, out: Path, has: np.ndarray, tasks: Sequence[str] = ("ptbxl-super", "age"), **settings: Any
) -> Results:
    """A whole benchmark of `entrants_of`."""
    how = BenchmarkSettings(**{**SMALL, **settings})
    begin(out, how.as_json(), resume=True, overwrite=False)
    found = run_benchmark(out, prepare_tasks(data, [read_task(task) for task in tasks], how), entrants_of(has), how)
    assert found is not None
    return found


if __name__ == "__main__":  # to be killed
    benchmark(Path(sys.argv[1]), Path(sys.argv[2]), write_labelled(Path(sys.argv[1])))
