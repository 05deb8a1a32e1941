"""Compute the entrants of a benchmark: features of the checkpoints, and of the controls in every table."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

import numpy as np

from fairseq_signals_ext.benchmarking.controls import HAND_MADE, source_alone
from fairseq_signals_ext.benchmarking.entrants import Entrant
from fairseq_signals_ext.benchmarking.extraction import RANDOM, ExtractionOptions, extract
from fairseq_signals_ext.benchmarking.features import Features
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import safe_name
from fairseq_signals_ext.data.checksums import checksum
from fairseq_signals_ext.inference.loading import files_of

logger = logging.getLogger(__name__)

FOLDER = "features"
_NAMES = ("heart rate (1/min)", "cosine of the axis", "sine of the axis")
MEASURES, SOURCE = "hand-made measures", "data set alone"


@dataclass(frozen=True)
class Computing:
    """Settings for computing the features of a benchmark.

    Attributes:
        data: prepared folder.
        out: folder of the benchmark.
        options: settings of the extraction.
        with_frames: also keep the frames of the last layer.
    """

    data: Path
    out: Path
    options: ExtractionOptions
    with_frames: bool = False

    def features(self, source: str, name: str, with_frames: bool = False) -> Optional[Features]:
        """Return features of a source, from their folder if they exist; None if other parts are not done yet."""
        folder = self.out / FOLDER / safe_name(name)
        found = extract(source, self.data, folder, self.options, name)
        if found is None or not with_frames:
            return found
        frames = replace(self.options, frames=(found.layers[-1],))
        return extract(source, self.data, folder.with_name(f"{folder.name}-frames"), frames, name)


def compute(how: Computing, checkpoints: Sequence[str], names: Sequence[str]) -> Optional[List[Entrant]]:
    """Return all entrants: checkpoints, random weights of each architecture, hand-made measures, the data set alone.

    Returns:
        None if other parts of the features are not done yet.

    Raises:
        UserError: a model cannot be used, or see `extract`.
    """
    untrained = {name: f"random ({name})" for name in names}
    # all sources, so that this part of each is done before one is missing
    found = {name: how.features(source, name, how.with_frames) for name, source in zip(names, checkpoints)}
    for name, source in zip(names, checkpoints):
        try:
            found[untrained[name]] = how.features(f"{RANDOM}{source}", untrained[name], how.with_frames)
        except UserError as error:
            logger.warning("no random weights beside %s: %s", name, error)
    found[MEASURES] = how.features(HAND_MADE, MEASURES)
    if any(features is None for features in found.values()):
        return None
    random: Dict[str, Entrant] = {}  # by fingerprint: equal features come from the same architecture
    models = []
    for name, source in zip(names, checkpoints):
        control = None
        if untrained[name] in found:
            entrant = Entrant(untrained[name], "random", found[untrained[name]])
            control = random.setdefault(entrant.fingerprint(), entrant).name
        models.append(Entrant(name, "checkpoint", found[name], control, _checksum(source), source))
    alone = source_alone(how.data)
    others = [Entrant(MEASURES, "measures", found[MEASURES])]
    return [*models, *random.values(), *others, *([] if alone is None else [Entrant(SOURCE, "source", alone)])]


def _checksum(source: str) -> str:
    return "; ".join(f"{path.name} {checksum(path)}" for path in files_of(source))


def measures_of(features: Features, idx: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return the hand-made measures that tasks may use, for these recordings; NaN if nothing was found.

    Args:
        features: the hand-made features.
        idx: int64, rows of the prepared folder.

    Returns:
        `heart_rate` in 1/min, and `axis` in degrees, -180 to 180.
    """
    rows = {number: row for row, number in enumerate(features.idx.tolist())}
    places = np.array([rows.get(number, -1) for number in idx.tolist()], np.int64)
    columns = dict(zip(features.facts["measures"], features.matrix(0).astype(np.float64).T))
    rate, cosine, sine = (columns[name] for name in _NAMES)
    found = {
        "heart_rate": np.where(rate > 0, rate, np.nan),
        "axis": np.where((cosine == 0) & (sine == 0), np.nan, np.degrees(np.arctan2(sine, cosine))),
    }
    return {name: np.where(places < 0, np.nan, values[places]) for name, values in found.items()}
