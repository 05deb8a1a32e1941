"""Rows of features become a folder: computed once, continued after an interruption, in parts if that is asked for.

The rows of a run are kept as those of `predict` and `embed`, see `inference.results` and `inference.parts`, so that
the folder is, byte for byte, that of an unbroken run.
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
        frames: how many frames it has; 0 where that is not known.
        kept: by layer, its frames: float16, frames x E.
        ends_batch: see `inference.running.RecordingOutputs`.
    """

    idx: int
    values: np.ndarray
    frames: int
    kept: Mapping[str, np.ndarray]
    ends_batch: bool = True


class Maker(Protocol):
    """What gives features."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """`name`, `layers`, `statistics` and `dimensions`, and what else `features.json` shall say."""

    @property
    def kept(self) -> Sequence[str]:
        """Layers of which frames are kept."""

    def rows(self, recordings: Recordings, how: RunOptions, start: int) -> Iterator[Row]:
        """Features of recordings, in order, from number `start` on."""


def open_recordings(data: Path) -> Store:
    """All recordings of a manifest, a prepared folder or a split's folder.

    Raises:
        UserError: there are none, or a manifest cannot be read.
    """
    if not data.exists():
        raise UserError(f"{data}: no such file or folder; give a prepared folder, or a manifest")
    manifests = manifests_of(data)
    if not manifests:
        raise UserError(f"{data}: has no manifest; give a prepared folder, the folder of a split, or a manifest")
    # each recording is read once, so what was checked need not be remembered
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
    """Compute features, or open those that a finished folder has.

    Args:
        make: the maker, only called if there is something to compute.
        settings: all that the values depend on, plain values.
        recordings: all of them.
        out: folder of the features.
        part: do this part only; the one that ends last merges them.
        overwrite: replace features, finished or not, of other settings.

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
        """What the folder has, if it is what is wanted."""
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
    """The first setting that differs; None if none does."""
    names: Tuple[str, ...] = tuple(dict.fromkeys([*ours, *theirs]))
    return next((name for name in names if theirs.get(name) != ours.get(name)), None)


def settings_of(store: Store, **more: Any) -> Dict[str, Any]:
    """What features of these recordings depend on, and more."""
    return {**more, "recordings": store.fingerprint().hex()}
