"""A file format of another package: read by the real command, listed, and harmless where it is broken."""

import numpy as np
import pandas as pd
import pytest
from made_up import RATE, made_up_counts
from made_up_checkpoints import saved_checkpoint
from toy_packages import command, installed

from fairseq_signals_ext.common.leads import LEADS

TOY = '''
"""A line `TOY1 HZ`, a line of lead names, then 16-bit integers in uV, lead by lead."""

import numpy as np

from fairseq_signals_ext.readers.facts import agreed_rate, rows_of_leads
from fairseq_signals_ext.readers.formats import Format, starts_with
from fairseq_signals_ext.readers.recording import Recording, signal_and_counts


def read(path, said):
    first, names, samples = path.read_bytes().split(b"\\n", 2)
    names = names.decode().split(",")
    rows = rows_of_leads(names, path, said.leads)
    counts = np.frombuffer(samples, "<i2").reshape(len(names), -1)[list(rows.values())]
    signal, stored = signal_and_counts(counts, [0.001] * len(rows), [0.0] * len(rows))
    rate = agreed_rate(path, float(first.split()[1]), said.sample_rate)
    return [Recording(path.stem, signal, tuple(rows), rate, stored=stored)]


TOY = Format("Toy", (".toy",), starts_with(b"TOY1 "), read)
'''


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return installed(tmp_path_factory.mktemp("toy"), "toy_ecg", TOY, formats="toy = toy_ecg:TOY")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return installed(tmp_path_factory.mktemp("broken"), "broken_ecg", "import nothing_here", formats="b = broken_ecg:B")


@pytest.fixture
def records(tmp_path):
    """The same ECG as a toy, with its leads in another order, as an array, and a toy that is damaged."""
    folder = tmp_path / "records"
    folder.mkdir()
    counts = made_up_counts(np.random.default_rng(1), 5 * RATE)
    np.save(folder / "a.npy", counts)
    names = ",".join(LEADS[::-1])
    (folder / "b.toy").write_bytes(f"TOY1 {RATE}\n{names}\n".encode() + counts[::-1].astype("<i2").tobytes())
    (folder / "c.toy").write_bytes(f"TOY1 {RATE}\n{names}\n".encode() + b"odd")
    return folder


def test_it_is_read_by_predict(tmp_path, records, toy, broken):
    model, out = saved_checkpoint(tmp_path / "m.pt"), tmp_path / "out"
    said = ["--input-rate", RATE, "--input-unit", "uV"]
    done = command("predict", model, records, "--out", out, *said, beside=[broken, toy])
    predicted = pd.read_csv(out / "predictions.csv")
    assert [name.split("/")[-1] for name in predicted["file"]] == ["a.npy", "b.toy"], done.stderr
    probabilities = predicted.filter(like="probability_").to_numpy()
    assert probabilities.shape[1] > 0 and (probabilities[0] == probabilities[1]).all()
    # what its package did not foresee is an error of one file, in one line
    (rejected,) = pd.read_csv(out / "rejected.csv").to_dict("records")
    assert rejected["file"] == str(records / "c.toy")
    assert rejected["reason"].startswith("toy_ecg cannot read it as Toy (")
    assert rejected["reason"].endswith("); ask its authors")
    assert "Traceback" not in done.stderr


def test_it_is_listed_where_a_file_is_of_no_format(tmp_path, records, toy):
    (records / "d.toy").write_bytes(b"\x7fTOY2")
    out = tmp_path / "out"
    done = command("prepare", "files", records, "--out", out, "--input-rate", RATE, "--input-unit", "uV", beside=[toy])
    assert done.returncode == 1, done.stderr
    rejected = pd.read_csv(out / "rejected.csv").set_index("source_file")["reason"]
    assert sorted(rejected.index) == ["c.toy", "d.toy"]
    assert "this kind of file is not supported; give DICOM, " in rejected["d.toy"] and ", Toy, " in rejected["d.toy"]
    assert pd.read_parquet(out / "recordings.parquet")["source_file"].tolist() == ["a.npy", "b.toy"]


def test_a_broken_package_is_one_line(tmp_path, records, broken):
    out = tmp_path / "out"
    done = command(
        "prepare", "files", records, "--out", out, "--input-rate", RATE, "--input-unit", "uV", beside=[broken]
    )
    lines = [line for line in done.stderr.splitlines() if "broken_ecg" in line]
    assert lines == [
        "broken_ecg: fairseq_signals_ext.formats: 'b' cannot be imported "
        "(ModuleNotFoundError: No module named 'nothing_here'); update or remove that package"
    ]
    assert "Traceback" not in done.stderr
    assert pd.read_parquet(out / "recordings.parquet")["source_file"].tolist() == ["a.npy"]
