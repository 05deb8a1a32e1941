"""Read EDF and ISHNE, long recordings of few signals, with `ecgdatakit`."""

from datetime import date
from pathlib import Path
from typing import Any

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers.clinical import Decoder
from fairseq_signals_ext.readers.formats import starts_with

_COPIES = 50.0  # one signal may have all samples of the file


def _is_undated(record: Any) -> bool:
    """Return whether the file has EDF+'s placeholder for a hidden date."""
    return bool(record.raw_metadata["recording_id"].upper().split()[:2] == ["STARTDATE", "X"])


def _refuse_cut_ishne(path: Path, record: Any) -> None:
    """Raise a `UserError` if a file has fewer samples than its header contains.

    The header's number is that of one lead or of all leads; some recorders write a nominal one: whole hours, or about a
    power of two. Nominal numbers are ignored.
    """
    claimed, samples = record.raw_metadata["ecg_size"], record.raw_metadata["samples_per_lead"]
    total, rate = samples * len(record.leads), record.leads[0].sampling_rate
    nominal = claimed % (3600 * rate) == 0 or claimed & (claimed + 1) == 0 or claimed & (claimed - 1) == 0
    if claimed > samples and claimed not in (total, 2 * total) and not nominal:
        raise UserError(
            f"{path}: the file is cut short ({samples:,} of {claimed:,} samples); copy or download it again, whole"
        )


EDF = Decoder(
    "EDF",
    "EDFParser",
    copies=_COPIES,
    hidden_start=date(1985, 1, 1),  # EDF+'s placeholder for a hidden date
    is_undated=_is_undated,
).format((".edf",), starts_with(b"0       "))
ISHNE = Decoder(
    "ISHNE",
    "ISHNEHolterParser",
    copies=_COPIES,
    missing=-32768.0,  # where a lead was off (Badilini 1998)
    check_record=_refuse_cut_ishne,
).format((".ecg", ".hol"), starts_with(b"ISHNE1.0"))
