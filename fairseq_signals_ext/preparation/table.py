"""`recordings.parquet`: the table of a prepared folder, a row a recording, on which splits and labels join.

Its rows stand in the order of `all.tsv`. Beside the columns below it has those that a source's own tables add, such as
PTB-XL's `strat_fold`: numbers as float64, everything else as text.
"""

from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Sequence, Union

from fairseq_signals_ext.data.checksums import check
from fairseq_signals_ext.errors import UserError, first_line

if TYPE_CHECKING:
    import pandas as pd

TABLE_NAME = "recordings.parquet"

# column: (type of pyarrow, what it is); names of leads stand in one text, such as "I,II,V1"
COLUMNS = {
    "idx": ("int64", "number of the recording in this folder, ascending, with gaps where files were rejected"),
    "record_id": ("string", "the source's own name of the recording"),
    "source": ("string", "name of the source"),
    "source_file": (
        "string",
        "file below the source's folder; with #NAME or #2, #3, ... where it holds many recordings",
    ),
    "patient": ("string", "the source's patient id"),
    "patient_key": ("int64", "number of the patient, other for equal ids of collections with ids of their own"),
    "start_time": ("timestamp[us]", "when it was taken"),
    "age": ("float64", "years"),
    "sex": ("string", "female or male"),
    "sample_rate": ("float64", "Hz, in the source"),
    "stored_rate": ("float64", "Hz, as stored"),
    "samples": ("int64", "per lead, as stored"),
    "seconds": ("float64", "how long it lasts, as stored"),
    "cut_start": ("float64", "s of calibration pulse or constant padding that were cut off its start"),
    "cut_end": ("float64", "the same, of its end"),
    "leads": ("string", "leads that are stored"),
    "derived_leads": ("string", "those of them that were computed from I and II"),
    "filled_leads": ("string", "those of them that are absent in the source and zeros here"),
    "constant_leads": ("string", "those of them that never change"),
    "nan_samples": ("int64", "samples of all leads that the source marks as invalid, interpolated here"),
    "amplitude_mv": ("float64", "median over the leads of the difference of largest and smallest value"),
    "counts_per_mv": ("float64", "gain of the source's file, before gain_fix; none where its leads have several"),
    "gain_fix": ("float64", "factor that the amplitudes were multiplied with"),
    "rounding_error_mv": ("float64", "largest error of rounding; 0 where the source's own counts are kept"),
    "flags": ("list<string>", "what may be wrong with it, see quality.FLAGS"),
    "duplicate_of": ("int64", "idx of the first recording with the same content"),
    "codes": ("list<string>", "diagnostic codes, CODE or CODE:LIKELIHOOD in %"),
    "statements": ("list<string>", "report or interpretation in words"),
    "shard": ("string", "its shard below this folder"),
    "row": ("int64", "its row in the shard's index"),
}


def read_table(out: Union[str, Path], columns: Optional[Sequence[str]] = None) -> "pd.DataFrame":
    """The table of a prepared folder, or some columns of it.

    Raises:
        UserError: there is none, it is not what was written, or it lacks a column.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    path = Path(out) / TABLE_NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; run fairseq-signals-ext prepare first")
    check(path)
    try:
        present = pq.read_schema(path).names
        missing = [name for name in columns or () if name not in present]
        if missing:
            raise UserError(f"{path}: no column {missing[0]!r}; its columns are {', '.join(present)}")
        return pd.read_parquet(path, columns=None if columns is None else list(columns))
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - what a damaged one raises is not documented
        cure = "run fairseq-signals-ext prepare again with --resume"
        raise UserError(f"{path}: cannot be read ({first_line(error)}); {cure}") from error


def manifest_lines(table: "pd.DataFrame") -> List[str]:
    """A line of a manifest for each row of the table: shard, row and samples, tab-separated."""
    return [f"{shard}\t{row}\t{samples}" for shard, row, samples in zip(table["shard"], table["row"], table["samples"])]
