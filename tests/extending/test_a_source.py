"""A kind of source of another package: listed by the real command, prepared, and harmless where it is broken."""

import numpy as np
import pandas as pd
import pytest
from made_up import RATE, made_up_counts
from toy_packages import command, installed

TOY = '''
"""A folder with patients.txt, a line `FILE PATIENT` for each ECG, and these files: arrays at 500 Hz in uV."""

from fairseq_signals_ext.sources.source import Item, Source, SourceKind, read_file


def open_source(folder, options):
    rows = [line.split() for line in (folder / "patients.txt").read_text().splitlines()]
    reading = {"sample_rate": 500.0, "unit": "uV"}
    items = [Item(file, facts={"patient": patient}, reading=reading) for file, patient in rows]
    return Source(options.name or "toy", folder, items, read_file, own_patients=True)


KIND = SourceKind("toy", "the toy collection: patients.txt and its files", open_source)
'''


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return installed(tmp_path_factory.mktemp("toy"), "toy_source", TOY, sources="toy = toy_source:KIND")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return installed(tmp_path_factory.mktemp("broken"), "broken_source", "KIND = 3", sources="b = broken_source:KIND")


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "collection"
    folder.mkdir()
    for number in range(3):
        np.save(folder / f"r{number}.npy", made_up_counts(np.random.default_rng(number), 5 * RATE))
    (folder / "patients.txt").write_text("r2.npy p1\nr0.npy p2\nr1.npy p1\n")
    return folder


def test_it_is_prepared(tmp_path, collection, toy):
    out = tmp_path / "out"
    done = command("prepare", "toy", collection, "--out", out, "--jobs", 2, beside=[toy])
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(out / "recordings.parquet")
    assert table["source_file"].tolist() == ["r2.npy", "r0.npy", "r1.npy"]
    assert table["patient"].tolist() == ["p1", "p2", "p1"]
    assert set(table["source"]) == {"toy"}


def test_it_is_listed_beside_ours(toy, broken):
    done = command("prepare", "--help", beside=[toy, broken])
    assert done.returncode == 0, done.stderr
    assert "  toy           the toy collection: patients.txt and its files\n" in done.stdout
    assert "  wfdb          WFDB records (.hea)\n" in done.stdout
    assert done.stderr.splitlines() == [
        "broken_source: fairseq_signals_ext.sources: 'b' is not a SourceKind; update or remove that package"
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing", "."], "'nothing' is not known; choose from"),
        (["toy", ".", "--download"], "toy: cannot be downloaded from here"),
        (["toy", ".", "--input-unit", "uV"], "the files of toy contain their rate, unit and leads; leave these out"),
        (["toy", "."], "toy_source cannot open it as toy (FileNotFoundError: "),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(tmp_path, toy, arguments, told):
    kind, folder, *more = arguments
    empty = tmp_path / "empty"
    empty.mkdir()
    done = command("prepare", kind, empty if folder == "." else folder, "--out", tmp_path / "out", *more, beside=[toy])
    assert done.returncode != 0
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_without_the_package_it_is_unknown(tmp_path, collection):
    done = command("prepare", "toy", collection, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "'toy' is not known; " in done.stderr
