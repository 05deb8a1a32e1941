"""A folder of embeddings: vectors, a table of their recordings, and facts about their model.

`embeddings.npy` (float32, rows x E) with `embeddings.csv`, one row per recording; its vectors are the rows `first_row`
to `first_row + rows - 1`. Or both in `embeddings.parquet`, one row per vector. `embedding.json` is written last.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.inference.recordings import ORIGIN_COLUMNS
from fairseq_signals_ext.sources.text_tables import UNREADABLE, as_texts, of_cell

if TYPE_CHECKING:
    import pandas as pd

    from fairseq_signals_ext.inference.model import LoadedModel

ARRAY_FILE, TABLE_FILE, PARQUET_FILE, FACTS_FILE = (
    *("embeddings.npy", "embeddings.csv", "embeddings.parquet", "embedding.json"),
)
FORMAT, VERSION = "fairseq-signals-ext embeddings", 1
COLUMNS = {
    **{"record_id": "string", "file": "string", "seconds": "float64", "segments": "int64", "flags": "list<string>"},
    **{"first_row": "int64", "rows": "int64"},
}
LABELS = "labels"
# further columns, missing in embeddings of earlier versions
KNOWN_COLUMNS = {**ORIGIN_COLUMNS, LABELS: "string"}
# largest relative change of a model's probe by file format, device or bfloat16
_SAME_MODEL = 0.02
_ROWS_AT_ONCE = 2**16


@dataclass(frozen=True, eq=False)
class Embeddings:
    """An opened folder.

    Attributes:
        folder: the folder.
        facts: content of `embedding.json`, see `model_facts`.
        vectors: float32, rows x E; memory-mapped for `.npy`, otherwise in memory.
        recordings: one row per recording, in order, with at least the columns of `COLUMNS`; existing columns of
            `KNOWN_COLUMNS` are texts, empty if unknown.
    """

    folder: Path
    facts: Dict[str, Any]
    vectors: np.ndarray
    recordings: "pd.DataFrame"

    def recordings_of(self, rows: np.ndarray) -> np.ndarray:
        """The position in `recordings` for rows of `vectors`, int64."""
        return np.searchsorted(self.recordings["first_row"].to_numpy(), rows, side="right") - 1


def model_facts(model: "LoadedModel", per: str, layer: Optional[int]) -> Dict[str, Any]:
    """Facts about the model and the layer of embeddings, as plain values.

    One of them is `probe`: the embedding of a fixed segment of noise. It differs between weights, and is the same for a
    checkpoint, its copies and its exports.

    Args:
        per, layer: as `LoadedModel.embed`.

    Raises:
        UserError: see `LoadedModel.embedder`.
    """
    inputs = model.preprocessing
    shape = (1, len(inputs.leads), inputs.segment_samples)
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    output = model.embedder(per, layer)(noise, np.zeros(shape[::2], bool))[-1]
    probe = output.reshape(-1, output.shape[-1]).mean(axis=0, dtype=np.float64)
    timing = {"segment_seconds": inputs.stride_samples / inputs.sample_rate}
    if per == "frame":
        timing["frame_seconds"] = model.network.geometry.hop / inputs.sample_rate
    return {
        **{"source": model.source, "kind": model.description.kind, "per": per, "layer": layer, "dimension": len(probe)},
        **timing,
        "preprocessing": vars(inputs),
        "probe": [float(f"{value:.7g}") for value in probe],
    }


def check_same_model(known: Mapping[str, Any], given: Mapping[str, Any], folder: Path) -> None:
    """Check that embeddings can be compared.

    Args:
        known, given: `model_facts` of both.
        folder: folder of the known ones, for messages.

    Raises:
        UserError: they differ in model, layer or `per`.
    """
    hint = "embed its recordings again with this model"
    for name in ("per", "layer", "dimension"):
        if known[name] != given[name]:
            raise UserError(f"{folder}: its embeddings have {name} {known[name]}, these {given[name]}; {hint}")
    ours, theirs = np.array(given["probe"]), np.array(known["probe"])
    if np.linalg.norm(ours - theirs) > _SAME_MODEL * np.linalg.norm(theirs):
        raise UserError(
            f"{folder}: its embeddings belong to another model ({known['source']}, not {given['source']}); {hint}"
        )


def check_finite(vectors: np.ndarray, where: object) -> None:
    """Raise a `UserError` if vectors have values that are not finite.

    Args:
        where: their source, for the message.
    """
    # in pieces, because an index can be larger than memory
    for first in range(0, len(vectors), _ROWS_AT_ONCE):
        if not np.isfinite(vectors[first : first + _ROWS_AT_ONCE]).all():
            raise UserError(f"{where}: some of the embeddings are not finite; embed again")


def open_embeddings(folder: Union[str, Path]) -> Embeddings:
    """Open the results of `fairseq-signals-ext embed`.

    Raises:
        UserError: there are no embeddings, they are damaged, or files belong to different runs.
    """
    folder = Path(folder)
    facts = _read_facts(folder / FACTS_FILE)
    path = folder / (ARRAY_FILE if facts["array"] == "npy" else PARQUET_FILE)
    try:
        vectors, recordings = _read_npy(folder) if path.suffix == ".npy" else _read_parquet(path, facts["dimension"])
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); embed again") from error
    expected = (facts["rows"], facts["dimension"])
    if vectors.shape != expected or vectors.dtype != np.float32 or recordings["rows"].sum() != len(vectors):
        raise UserError(f"{path}: is not the file that {FACTS_FILE} was written for; copy the whole folder again")
    if not len(vectors):
        raise UserError(f"{path}: contains no embeddings, as all recordings were rejected; see rejected.csv")
    return Embeddings(folder, facts, vectors, recordings)


def _read_facts(path: Path) -> Dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a folder that fairseq-signals-ext embed made")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        is_ours = (facts["format"], facts["version"]) == (FORMAT, VERSION)
        probe = np.array(facts["probe"], float)
        is_ours = is_ours and probe.shape == (facts["dimension"],) and np.isfinite(probe).all() and facts["rows"] >= 0
        is_ours = is_ours and {"source", "per", "layer", "array"} <= facts.keys()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise UserError(f"{path}: not of embeddings of this version; embed again")
    return facts


def _read_npy(folder: Path) -> Any:
    import pandas as pd

    path = folder / TABLE_FILE
    # keep record ids such as 007 or NA as text
    names = ("record_id", "file", "flags", *KNOWN_COLUMNS)
    texts: Any = {"dtype": dict.fromkeys(names, str), "keep_default_na": False}
    recordings = pd.read_csv(path, encoding="utf-8", **texts)
    missing = [name for name in COLUMNS if name not in recordings.columns]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r}; embed again")
    for name in recordings.columns.intersection(["record_id", "file", *KNOWN_COLUMNS]):
        recordings[name] = [of_cell(text) for text in recordings[name]]
    array = folder / ARRAY_FILE
    is_empty = not len(recordings)
    return np.load(array, mmap_mode=None if is_empty else "r", allow_pickle=False), recordings


def _read_parquet(path: Path, dimension: int) -> Any:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    pieces = [piece.flatten().to_numpy() for piece in table["embedding"].chunks]
    vectors = np.concatenate([np.empty(0, np.float32), *pieces]).reshape(-1, dimension)
    rows = table.drop(["embedding"]).to_pandas()
    first = np.flatnonzero(rows["recording"].diff().to_numpy() != 0)
    recordings = rows.iloc[first].reset_index(drop=True)
    recordings["flags"] = [" ".join(flags) for flags in recordings["flags"]]
    for name in recordings.columns.intersection([*KNOWN_COLUMNS]):
        recordings[name] = as_texts(recordings[name])
    return vectors, recordings.assign(first_row=first, rows=np.diff([*first, len(rows)]))
