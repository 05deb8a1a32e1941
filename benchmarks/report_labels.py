"""Labels from PTB-XL's reports against its SCP codes, ours and those of ECG-FM's labeler.

    python benchmarks/report_labels.py SHARED [--out FILE.md]

SHARED contains data/ptbxl*/ptbxl_database.csv and golden/report_labels/statements.csv, which has what ECG-FM's labeler
gave for some of the reports. A finding that a report calls possible counts as positive for ECG-FM's labeler, and is
left out for ours (clinical semantics). Codes are those of any likelihood.
"""

import argparse
import ast
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import numpy as np
import pandas as pd

from fairseq_signals_ext.labelling.reports import label_texts

# label: SCP codes that mean the same
LABELS = {
    "Atrial fibrillation": ("AFIB",),
    "1st degree atrioventricular block": ("1AVB",),
    "Right bundle branch block": ("CRBBB", "IRBBB"),
    "Left bundle branch block": ("CLBBB", "ILBBB"),
    "Premature ventricular contraction": ("PVC", "BIGU", "TRIGU"),
    "Electronic pacemaker": ("PACE",),
}


class Agreement(NamedTuple):
    """Number of reports by labeler and codes, and of omitted reports with possible findings."""

    both: int
    labeler_only: int
    codes_only: int
    neither: int
    left_out: int

    @property
    def cells(self) -> List[str]:
        """Return F1, precision, recall, and the four numbers."""
        precision = self.both / max(1, self.both + self.labeler_only)
        recall = self.both / max(1, self.both + self.codes_only)
        f1 = 2 * self.both / max(1, 2 * self.both + self.labeler_only + self.codes_only)
        return [f"{f1:.3f}", f"{precision:.3f}", f"{recall:.3f}", *map(str, self)]


def agreement(labels: np.ndarray, codes: np.ndarray) -> Agreement:
    """Compare labels (1, 0, or 0.5 possible) with codes (bool)."""
    known = labels != 0.5
    said, coded = labels[known] == 1, codes[known]
    counts = (said & coded, said & ~coded, ~said & coded, ~said & ~coded)
    return Agreement(*(int(count.sum()) for count in counts), int((~known).sum()))


def read(shared: Path) -> Tuple[pd.DataFrame, Dict[str, Dict[str, float]]]:
    """Return PTB-XL's reports, one per recording, and labels of ECG-FM's labeler for texts."""
    tables = [pd.read_csv(path) for path in sorted(shared.glob("data/ptbxl*/ptbxl_database.csv"))]
    reports = pd.concat(tables).drop_duplicates("ecg_id").dropna(subset=["report"])
    reports = reports[reports["report"].str.contains(r"\w")].reset_index(drop=True)
    golden = pd.read_csv(shared / "golden" / "report_labels" / "statements.csv")
    reference = {one_line(row["text"]): {label: row[label] for label in LABELS} for _, row in golden.iterrows()}
    return reports, reference


def one_line(text: str) -> str:
    """Return the text with single spaces."""
    return " ".join(str(text).split())


def table(reports: pd.DataFrame, reference: Dict[str, Dict[str, float]]) -> List[str]:
    """Return the lines of the result."""
    ours = label_texts(list(reports["report"]))
    codes = [set(ast.literal_eval(text)) for text in reports["scp_codes"]]
    known = np.array([one_line(text) in reference for text in reports["report"]])
    theirs = [reference.get(one_line(text), {}) for text in reports["report"]]
    lines = [
        f"{len(reports)} reports; what ECG-FM's labeler gave is known for {known.sum()} of them.",
        "",
        "| label | reports | labeler | F1 | precision | recall | both | labels | codes | neither | possible |",
        "|" + " --- |" * 11,
    ]
    for label, wanted in LABELS.items():
        coded = np.array([bool(found.intersection(wanted)) for found in codes])
        mine = np.array([found[label] for found in ours])
        other = np.array([float(found.get(label, 0) > 0) for found in theirs])
        for rows, name, values in (
            (np.ones(len(known), bool), "ours", mine),
            (known, "ours", mine),
            (known, "ECG-FM's", other),
        ):
            cells = agreement(values[rows], coded[rows]).cells
            lines.append(f"| {label} | {rows.sum()} | {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print the table, and write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = "\n".join(table(*read(options.shared))) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
