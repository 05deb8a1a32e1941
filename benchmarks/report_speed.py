"""How fast reports become labels: 800,000 made-up reports of MIMIC-IV-ECG's kind, and statements without the cache.

    python benchmarks/report_speed.py STATEMENTS.csv [--reports 800000] [--out FILE.md]

STATEMENTS.csv has the columns text and kind (golden/report_labels). A report is three to eight of its vendor
statements, drawn so that few are frequent (Zipf's law), and every third has one more with a number, so that there are
further distinct statements. One process, one core; seconds are those of the processor, so that other work on the
machine counts little.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import List

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from _shared import machine

from fairseq_signals_ext.labelling.assertions import read_statement
from fairseq_signals_ext.labelling.from_reports import labels_from_reports
from fairseq_signals_ext.labelling.labels import write_labels
from fairseq_signals_ext.labelling.vocabulary import read_vocabulary

REFERENCE = 10_000  # microseconds a statement of ECG-FM's labeler
_PART = 50_000


def made_up(statements: List[str], reports: int, rng: np.random.Generator) -> List[List[str]]:
    """Make reports of three to eight statements; every third has a statement with a unique number."""
    chance = 1 / np.arange(1, len(statements) + 1)
    drawn = rng.choice(len(statements), (reports, 8), p=chance / chance.sum())
    number = rng.integers(3, 9, reports)
    made = [[statements[one] for one in row[:count]] for row, count in zip(drawn, number)]
    for row in range(0, reports, 3):
        made[row].append(f"Vent. rate has increased BY {rng.integers(2, 90)} BPM")
    return made


def write_folder(folder: Path, reports: List[List[str]]) -> None:
    """Write a prepared folder's table with these reports."""
    schema = pa.schema([("idx", pa.int64()), ("source", pa.string()), ("statements", pa.list_(pa.string()))])
    with pq.ParquetWriter(folder / "recordings.parquet", schema) as writer:
        for first in range(0, len(reports), _PART):
            part = reports[first : first + _PART]
            columns = [list(range(first, first + len(part))), ["made-up"] * len(part), part]
            writer.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, schema)], schema=schema))


def without_cache(statements: List[str]) -> float:
    """Return microseconds per statement without a cache; the best of five rounds."""
    vocabulary = read_vocabulary()
    rounds = []
    for _ in range(5):
        begin = time.process_time()
        for statement in statements:
            read_statement(statement, vocabulary)
        rounds.append((time.process_time() - begin) / len(statements) * 1e6)
    return min(rounds)


def main() -> None:
    """Measure, print, and write the result to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("statements", type=Path)
    parser.add_argument("--reports", type=int, default=800_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table = pd.read_csv(options.statements)
    statements = list(table.loc[table["kind"] == "vendor statement", "text"])
    alone = without_cache(statements)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reports = made_up(statements, options.reports, np.random.default_rng(0))
        number = sum(map(len, reports))
        distinct = len({statement for report in reports for statement in report})
        write_folder(folder, reports)
        del reports
        begin = time.process_time()
        labels = labels_from_reports(folder)
        labelled = time.process_time() - begin
        write_labels(folder, "reports", labels)
        written = time.process_time() - begin - labelled
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    lines = [
        machine(),
        "",
        "| what | figure |",
        "| --- | --- |",
        f"| a statement, read without the cache | {alone:.0f} us, {REFERENCE / alone:.0f} times as fast as 10 ms |",
        f"| reports, statements, distinct ones | {options.reports:,}, {number:,}, {distinct:,} |",
        f"| labels of all reports, one core | {labelled:.0f} s, {labelled / options.reports * 1e6:.0f} us a report |",
        f"| writing labels, evidence and the rest | {written:.0f} s |",
        f"| largest memory, with making up the reports | {peak:.1f} GB |",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
