"""Notes on columns of a user's table that have no meaning here, with the name that was probably meant."""

import re
from typing import Collection, List, Sequence

# column: other names for it, in small letters, without spaces and punctuation
_OTHER_NAMES = {
    "patient": ("patientid", "patientno", "patientnr", "pid", "mrn", "subject", "subjectid", "caseid", "personid"),
    "age": ("ageyears", "ageatecg", "patientage"),
    "sex": ("gender", "patientsex"),
    "start_time": ("time", "date", "datetime", "timestamp", "ecgtime", "ecgdate", "recordedat", "acquisitiontime"),
    "codes": ("code", "diagnosis", "diagnoses", "dx", "snomed", "scpcodes"),
    "statements": ("statement", "report", "reports", "interpretation"),
    "sample_rate": ("samplerate", "samplingrate", "fs", "rate", "frequency", "hz"),
    "unit": ("units",),
    "leads": ("lead", "leadnames", "channels"),
}
_BORN = ("dob", "birthdate", "dateofbirth", "birthday", "born")
_BORN = ("dob", "birthdate", "dateofbirth", "birthday", "born")


def notes_on_columns(columns: Sequence[str], known: Collection[str]) -> List[str]:
    """Return one line per column that is probably misnamed, and one line for all other unused columns.

    Args:
        columns: of the table.
        known: columns with a meaning.
    """
    notes, own = [], []
    for column in (str(name) for name in columns if name not in known):
        plain = re.sub(r"[\W_]", "", column).lower()
        meant = next((name for name, others in _OTHER_NAMES.items() if plain in (name.replace("_", ""), *others)), None)
        if meant is not None and meant not in columns:
            notes.append(f"column {column!r} is kept as a column of your own; if it is the {meant}, name it {meant!r}")
        elif plain in _BORN and "age" not in columns:
            notes.append(f"column {column!r} is kept as a column of your own; ages come from a column 'age', in years")
        else:
            own.append(column)
    return [*notes, f"columns of your own: {', '.join(own)}"] if own else notes
