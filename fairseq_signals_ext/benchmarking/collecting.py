"""Collect rows of features in a folder: computed once, resumable, optionally in parts.

Rows are stored as in `predict` and `embed`, see `inference.results` and `inference.parts`, so that the folder is
identical, byte by byte, to the folder of an uninterrupted run.
"""

import functools
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Protocol, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.benchmarking.features import Features, files_of, read_facts, write_features
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import only_one
from fairseq_signals_ext.common.progress import Progress
from fairseq_signals_ext.data.manifest import read_manifests
from fairseq_signals_ext.data.stores import Store, open_store
from fairseq_signals_ext.inference.inputs import Recordings
from fairseq_signals_ext.inference.parts import Part, SomeInputs, merge_if_last, note_done
from fairseq_signals_ext.inference.results import UNFINISHED, Kept, Results
from fairseq_signals_ext.inference.running import RunOptions
from fairseq_signals_ext.prepared.manifests import manifests_of

logger = logging.getLogger(__name__)

_TABLE = "features"


@dataclass(frozen=True, eq=False)
class Row:
    """Features of a recording.

    Attributes:
        idx: its row in a label file.
        values: float32, layers x statistics x E.
        frames: number of frames; 0 if unknown.
        kept: frames by layer: float16, frames x E.
        ends_batch: see `inference.running.RecordingOutputs`.
    """

    idx: int
    values: np.ndarray
    frames: int
    kept: Mapping[str, np.ndarray]
    ends_batch: bool = True


class Maker(Protocol):
    """Computes features."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return `name`, `layers`, `statistics`, `dimensions` and other content of `features.json`."""

    @property
    def kept(self) -> Sequence[str]:
        """Layers whose frames are kept."""

    def rows(self, recordings: Recordings, how: RunOptions, start: int) -> Iterator[Row]:
        """Yield features of recordings, in order, starting with number `start`."""


def open_recordings(data: Path) -> Store:
    """Open all recordings of a manifest, a prepared folder or a split's folder.

    Raises:
        UserError: there are no recordings, or a manifest cannot be read.
    """
    if not data.exists():
        raise UserError(f"{data}: no such file or folder; give a prepared folder, or a manifest")
    manifests = manifests_of(data)
    if not manifests:
        raise UserError(f"{data}: has no manifest; give a prepared folder, the folder of a split, or a manifest")
    # each recording is read once, so results of checks need not be stored
    return open_store(read_manifests(manifests), "always")


def collect(
    make: Callable[[], Maker],
    settings: Mapping[str, Any],
    recordings: Recordings,
    out: Path,
    how: RunOptions,
    part: Optional[Part] = None,
    overwrite: bool = False,
) -> Optional[Features]:
    """Compute features, or open the features of a finished folder.

    Args:
        make: creates the maker; only called if there is something to compute.
        settings: everything that the values depend on, as plain values.
        recordings: all of them.
        out: folder of the features.
        part: do only this part; the part that ends last merges all.
        overwrite: replace features of other settings, finished or not.

    Returns:
        The features; None if other parts are not done yet.

    Raises:
        UserError: the folder has features of other settings, or a recording cannot be used.
    """
    run = _Run(make, settings, recordings, out, how, overwrite)
    if part is not None:
        return run.do_part(part)
    with only_one(out):
        return run.do_all()


class _Run:
    """A run of `collect`, see there."""

    def __init__(
        self,
        make: Callable[[], Maker],
        settings: Mapping[str, Any],
        recordings: Recordings,
        out: Path,
        how: RunOptions,
        overwrite: bool,
    ):
        self._make, self._settings, self._recordings = make, settings, recordings
        self._out, self._how, self._overwrite = out, how, overwrite

    def do_all(self) -> Features:
        finished = self._finished()
        if finished is not None:
            shutil.rmtree(self._out / UNFINISHED, ignore_errors=True)  # left by a run that was killed at its very end
            return finished
        maker = self._make()
        with self._results(None, len(self._recordings)) as results:
            self._fill(maker, results, self._recordings)
        return self._finish(maker, results)

    def do_part(self, part: Part) -> Optional[Features]:
        finished = self._finished()
        if finished is not None:
            return finished
        maker = self._make()
        with only_one(self._out / UNFINISHED / part.folder, beside=True):
            some = SomeInputs(self._recordings, part.range_of(len(self._recordings)))
            with self._results(part.folder, len(some)) as results:
                self._fill(maker, results, some)
            note_done(self._out, part, results, len(some))
        files = files_of(self._out)
        return merge_if_last(self._out, part, files, functools.partial(self._finish, maker)) or self._finished()

    def _finished(self) -> Optional[Features]:
        """Open the folder if it has the wanted features."""
        try:
            facts = read_facts(self._out)
            differing = facts and _difference(facts["settings"], self._settings)
            if facts is not None and not differing:
                return Features.open(self._out)
            problem = f"{self._out}: has features of another {differing}" if differing else None
        except UserError as error:
            problem = str(error)
        if problem and not self._overwrite:
            raise UserError(f"{problem}; give another folder, or replace them with --overwrite")
        if problem:
            logger.warning(f"{problem}; they are replaced")
        return None

    def _results(self, folder: Optional[str], inputs: int) -> Results:
        given = (self._out, files_of(self._out), self._settings)
        try:
            return Results(*given, resume=True, overwrite=self._overwrite, part=folder, inputs=inputs)
        except UserError:
            if not self._overwrite:
                raise
        logger.warning(f"{self._out}: has an unfinished run of other features; it is replaced")
        return Results(*given, resume=False, overwrite=True, part=folder, inputs=inputs)

    def _fill(self, maker: Maker, results: Results, recordings: Recordings) -> None:
        with Progress("features", len(recordings), "recording", results.done) as bar:
            for row in maker.rows(recordings, self._how, results.done):
                results.add(_TABLE, {"idx": row.idx, "frames": row.frames})
                results.add_array(row.values[None])
                for layer, frames in row.kept.items():
                    results.add_array(frames, _array_name(layer))
                results.count(row.ends_batch)
                bar.update()

    def _finish(self, maker: Maker, results: Kept) -> Features:
        facts = {**maker.facts, "settings": dict(self._settings)}
        frames = {layer: results.arrays(_array_name(layer)) for layer in maker.kept}
        write_features(self._out, facts, list(results.rows(_TABLE)), results.arrays(), frames)
        results.clean()
        return Features.open(self._out)


def _array_name(layer: str) -> str:
    return f"frames-{layer}"


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Optional[str]:
    """Return the first setting that differs; None if all are equal."""
    names: Tuple[str, ...] = tuple(dict.fromkeys([*ours, *theirs]))
    return next((name for name in names if theirs.get(name) != ours.get(name)), None)


def settings_of(store: Store, **more: Any) -> Dict[str, Any]:
    """Return everything that features of these recordings depend on, and other facts."""
    return {**more, "recordings": store.fingerprint().hex()}
