"""PTB-XL: its real tables with the records that there are, and made-up ones for the rest."""

import ast
import csv
import shutil
from datetime import datetime

import numpy as np
import pytest

HEADER = (
    "ecg_id,patient_id,age,sex,height,site,recording_date,report,scp_codes,baseline_drift,strat_fold,filename_lr,"
    "filename_hr,Unnamed: 0"
)


@pytest.fixture
def collection(tmp_path, write_record, counts):
    """Three records, at both rates."""
    folder = tmp_path / "ptb-xl"
    lines = [HEADER]
    for number, facts in enumerate(
        [
            "15709.0,300.0,1,,0.0,1984-11-09 09:17:34,sinus rhythm,\"{'NORM': 100.0, 'SR': 0.0}\",\" , I-V1\",3",
            "13243.0,19.0,0,180.0,2.0,1984-11-14 12:55:37,,\"{'LNGQT': 15.5}\",,10",
            '13243.0,,0,180.0,,1985-01-01 00:00:00,ekg,"{}",,10',
        ],
        start=1,
    ):
        lines.append(f"{number},{facts},records100/00000/{number:05d}_lr,records500/00000/{number:05d}_hr,")
        for rate, suffix in ((100, "lr"), (500, "hr")):
            signal = counts(number * rate, samples=10 * rate)
            write_record(folder / f"records{rate}" / "00000" / f"{number:05d}_{suffix}", signal, rate=rate)
    folder.joinpath("ptbxl_database.csv").write_text("\n".join([*lines, ""]))
    return folder


def test_real_tables(ecg_data, prepare):
    folder = ecg_data / "ptbxl"
    present = {path.stem: path.relative_to(folder).as_posix() for path in folder.glob("records500/**/*.hea")}
    with open(folder / "ptbxl_database.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    listed = {row["filename_hr"].split("/")[-1]: row for row in rows}
    assert (len(present), len(rows), len(present.keys() & listed.keys())) == (58, 314, 14)

    found = prepare("ptbxl", folder, status=1)
    table = found.table
    assert set(found.rejected) == {f"{row['filename_hr']}.hea" for name, row in listed.items() if name not in present}
    assert all("no such file" in reason for reason in found.rejected.values())
    assert found.notes == [
        "300 of 314 records in ptbxl_database.csv have no file in records500/",
        "44 records in records500/ are not in ptbxl_database.csv",
    ]
    assert set(table.index) == set(present.values())
    for name, path in present.items():
        row, expected = table.loc[path], listed.get(name)
        if expected is None:
            header = (folder / path).read_text().splitlines()
            assert list(row["codes"]) == [line.split(": ")[1] for line in header if line.startswith("#Dx")]
            # numbered as those of the table are
            number = str(int(name.removesuffix("_hr")))
            assert (row["record_id"], row["patient"], np.isnan(row["strat_fold"])) == (number, None, True)
            continue
        assert row["record_id"] == expected["ecg_id"]
        assert row["patient"] == expected["patient_id"].replace(".0", "")
        assert row["strat_fold"] == int(expected["strat_fold"])
        assert row["age"] == float(expected["age"])
        assert row["sex"] == ("male", "female")[int(expected["sex"])]
        assert row["start_time"] == datetime.fromisoformat(expected["recording_date"])
        assert list(row["statements"]) == [expected["report"]]
        codes = {code.split(":")[0]: float(code.split(":")[1]) for code in row["codes"]}
        assert codes == ast.literal_eval(expected["scp_codes"])
        assert row["device"] == expected["device"]


def test_columns(collection, prepare):
    table = prepare("ptbxl", collection).table
    assert table.index.tolist() == [f"records500/00000/0000{number}_hr.hea" for number in (1, 2, 3)]
    assert table["record_id"].tolist() == ["1", "2", "3"]
    assert table["patient"].tolist() == ["15709", "13243", "13243"]
    np.testing.assert_array_equal(table["age"], [90, 19, np.nan])  # 300 stands for over 89
    assert table["sex"].tolist() == ["female", "male", "male"]
    assert [list(codes) for codes in table["codes"]] == [["NORM:100", "SR:0"], ["LNGQT:15.5"], []]
    assert [list(statements) for statements in table["statements"]] == [["sinus rhythm"], [], ["ekg"]]
    np.testing.assert_array_equal(table["strat_fold"], [3, 10, 10])
    np.testing.assert_array_equal(table["height"], [np.nan, 180, 180])
    assert table["baseline_drift"].tolist() == [" , I-V1", None, None]
    assert not {"filename_lr", "filename_hr", "scp_codes", "Unnamed: 0"} & set(table.columns)


@pytest.mark.parametrize(("rate", "folder"), [(500, "records500"), (250, "records500"), (100, "records100")])
def test_which_rate_is_read(collection, prepare, counts, rate, folder):
    found = prepare("ptbxl", collection, "--rate", rate)
    own = int(folder[-3:])
    assert [name.split("/")[0] for name in found.table.index] == [folder] * 3
    assert found.table["sample_rate"].tolist() == [own] * 3
    assert found.table["record_id"].tolist() == ["1", "2", "3"]
    if own == rate:
        signal = np.stack(list(found.signal(found.table.index[1]).values()))
        np.testing.assert_allclose(signal, counts(2 * own, samples=10 * own) / 1000, rtol=0, atol=1e-12)


def test_only_100_hz(collection, prepare):
    shutil.rmtree(collection / "records500")
    found = prepare("ptbxl", collection, "--rate", 500)
    assert found.table["sample_rate"].tolist() == [100] * 3
    assert found.table["samples"].tolist() == [5000] * 3


def test_patients_are_those_of_this_source(collection, prepare):
    found = prepare("ptbxl", collection)
    first, second, third = found.patients()
    assert second == third != first
    other = prepare("ptbxl", collection, "--source", "other", out="second")
    assert other.table["source"].tolist() == ["other"] * 3
    assert found.table["source"].tolist() == ["ptbxl"] * 3
    assert not set(other.patients()) & {first, second}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1984-11-14 12:55:37", "14/11/1984", "ecg_id 2: recording_date: '14/11/1984' is not a time"),
        ("{'LNGQT': 15.5}", "LNGQT", "ecg_id 2: scp_codes 'LNGQT' is not a list of codes; get the file again"),
        ("{'LNGQT': 15.5}", "{'LNGQT': open('x')}", "ecg_id 2: scp_codes"),
        ("{'LNGQT': 15.5}", "-" * 100_000 + "1", "ecg_id 2: scp_codes"),
        ("scp_codes", "codes", "no column 'scp_codes'; get the collection's own file"),
        ("00003_hr", "00002_hr", "'records500/00000/00002_hr.hea' is listed twice"),
        ("15709.0,", "15709.0,7,8,9,", "cannot be read (the first line of values has more of them"),
    ],
)
def test_damaged_table(collection, refusal, old, new, message):
    path = collection / "ptbxl_database.csv"
    path.write_text(path.read_text().replace(old, new))
    assert message in refusal("ptbxl", collection)


def test_wrong_folders(collection, refusal):
    assert "records500/ptbxl_database.csv: no such file" in refusal("ptbxl", collection / "records500")
    shutil.rmtree(collection / "records500")
    shutil.rmtree(collection / "records100")
    assert "records500: no such folder" in refusal("ptbxl", collection)
    (collection / "ptbxl_database.csv").write_bytes(b"\xff\xfe\x00bad")
    assert "ptbxl_database.csv: cannot be read" in refusal("ptbxl", collection)
    (collection / "ptbxl_database.csv").write_bytes(b"")
    assert "ptbxl_database.csv: cannot be read" in refusal("ptbxl", collection)
