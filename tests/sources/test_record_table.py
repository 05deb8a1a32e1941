"""A user's table: matching of rows and files, and conversion of values."""

from datetime import datetime

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.sources import Item
from fairseq_signals_ext.sources.record_table import number, text, texts, time, with_table

ITEMS = [Item("a/1.xml"), Item("b/2.xml", "part", {"age": 7.0}, {"unit": "uV"}), Item("c.d.csv")]


def joined(tmp_path, content, items=ITEMS, name="table.csv"):
    (tmp_path / name).write_text(content, encoding="utf-8")
    return with_table(items, tmp_path / name)


def message(tmp_path, content, items=ITEMS):
    with pytest.raises(UserError) as caught:
        joined(tmp_path, content, items)
    assert str(caught.value).startswith(f"{tmp_path / 'table.csv'}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("file", ["a/1.xml", "b/2.xml", "c.d.csv"]),
        ("path", ["1.xml", "2.xml", "c.d.csv"]),
        ("source_file", ["a/1", "b/2", "c.d"]),
        ("record_id", ["1", "2", "c.d"]),
    ],
)
def test_names_of_a_file(tmp_path, key, names):
    lines = [f"{name},p{row}" for row, name in enumerate(names)]
    found = joined(tmp_path, "\n".join([f"{key},patient", *reversed(lines)]))
    assert [item.facts["patient"] for item in found] == ["p0", "p1", "p2"]
    assert [item.name for item in found] == [item.name for item in ITEMS]
    assert found[1].facts["age"] == 7
    assert (found[1].source, found[1].reading) == ("part", {"unit": "uV"})


def test_file_comes_before_record_id(tmp_path):
    found = joined(tmp_path, "record_id,file\n2,a/1.xml\n1,b/2.xml\n")
    assert [item.facts.get("record_id") for item in found] == ["2", "1", None]


def test_without_a_table():
    assert with_table(ITEMS, None) == ITEMS


def test_files_without_a_row_stay_as_they_are(tmp_path):
    found = joined(tmp_path, "file,patient\n1.xml,p\n")
    assert found[1:] == ITEMS[1:]


def test_values(tmp_path):
    content = (
        "\ufefffile,patient,age,sex,start_time,codes,statements,source,sample_rate,unit,leads,site,visit,big,score,x\n"
        '1.xml,0012,63.0,F,2024-12-31T23:59:59Z,"1; 2|sinus rhythm,",a; b,north,250,mV,"I,II",'
        "12,0012,9007199254740993,1.5,\n"
        "2.xml,,,,,,,,,,,3,1,2,,\n"
    )
    found = joined(tmp_path, content)
    first, second = (dict(item.facts) for item in found[:2])
    assert (first["patient"], first["age"], first["sex"]) == ("0012", 63, "female")
    assert first["start_time"] == datetime(2024, 12, 31, 23, 59, 59)
    assert (first["codes"], first["statements"]) == (("1", "2", "sinus rhythm"), ("a; b",))
    assert (found[0].source, found[0].reading) == ("north", {"sample_rate": 250, "unit": "mV", "leads": "I,II"})
    # ids keep their digits, numbers are numbers
    assert (first["site"], first["visit"], first["big"], first["score"]) == (12, "0012", "9007199254740993", 1.5)
    assert (second["patient"], second["age"], second["codes"], second["score"]) == (None, None, (), None)
    assert (found[1].source, found[1].reading) == ("part", {"unit": "uV"})
    assert not {"file", "source", "unit", "leads", "sample_rate"} & {*first, *second}


def test_parquet(tmp_path):
    table = pd.DataFrame(
        {"record_id": [2, 1], "patient": ["p", None], "codes": [["1", "2"], None], "n": pd.array([None, 4], "Int64")}
    )
    table.to_parquet(tmp_path / "t.parquet")
    found = with_table(ITEMS, tmp_path / "t.parquet")
    assert found[0].facts == {"record_id": "1", "patient": None, "codes": (), "n": 4}
    assert found[1].facts == {"age": 7, "record_id": "2", "patient": "p", "codes": ("1", "2"), "n": None}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name,patient\n1.xml,p\n", "no column of source_file, file, path, record_id"),
        ("file,patient\n1.xml,p\n1.xml,q\n", "file '1.xml' appears twice; remove one of the rows"),
        ("file,patient\n1.xml,p\n,q\n", "row 2 has no file; write it or remove the row"),
        ("file,patient\n1.xml,p\n7.xml,q\n", "1 rows name no file of this source; the first has file '7.xml'"),
        ("file,patient\n7.xml,p\n8.xml,p\n", "none of its 2 rows names a file of this source by its 'file'"),
        ("file,patient\n", "none of its 0 rows"),
        (
            "file,start_time\n1.xml,31/12/2024\n",
            "a/1.xml: start_time: '31/12/2024' is ambiguous (which part is the day?); give its format, for example "
            "--time-format '%d/%m/%Y",
        ),
        (
            "file,start_time\n1.xml,2020 week 0\n",
            "start_time: '2020 week 0' is not a time in a known format; write it as",
        ),
        ("file,start_time\n1.xml,3-Mar-24\n", "start_time: '3-Mar-24' is ambiguous"),
        ("file,patient\n1.xml,p,3\n", "the first line of values has more of them"),
        ("file,patient\n1.xml,p\n2.xml,p,3\n", "cannot be read (Error tokenizing data"),
        ("", "cannot be read (No columns to parse from file)"),
    ],
)
def test_wrong_tables(tmp_path, content, expected):
    assert expected in message(tmp_path, content)


def test_all_unusable_values_are_in_one_message(tmp_path, refusal, write_record, counts):
    """By the command: the first of each column, and how many more there are."""
    for name in "abc":
        write_record(tmp_path / "records" / name, counts(0))
    rows = ["a.hea,31/12/2024,w,67 years", "b.hea,x,both,old", "c.hea,26.09.2019 12:00,m,45"]
    (tmp_path / "t.csv").write_text("\n".join(["file,start_time,sex,age", *rows]))
    told = refusal("wfdb", tmp_path / "records", "--table", tmp_path / "t.csv")
    assert "t.csv: 4 values in 3 columns cannot be used: " in told
    first, *others = told.split("cannot be used: ")[1].split(" | ")
    several = "is ambiguous (which part is the day?); give its format, for example --time-format '%d/%m/%Y %H:%M'"
    assert first == f"a.hea: start_time: '31/12/2024' {several} (and 1 more)"
    assert others == [
        "b.hea: age: 'old' is not an age; write years, such as 63 (90+ where the oldest are hidden), or nothing",
        "b.hea: sex: 'both' is not known; write female or male",
    ]


def test_times_in_a_given_format(tmp_path, prepare, refusal, write_record, counts):
    for name in "ab":
        write_record(tmp_path / "records" / name, counts(0))
    (tmp_path / "t.csv").write_text("file,start_time\na.hea,01/02/2020 10:00\nb.hea,03/02/2020 11:30\n")
    arguments = ("wfdb", tmp_path / "records", "--table", tmp_path / "t.csv", "--time-format")
    told = refusal(*arguments, "%d.%m.%Y")
    assert "'01/02/2020 10:00' does not have the format '%d.%m.%Y'; correct it or --time-format (and 1 more)" in told
    assert "time format '%m/%Y': is not one of a whole date" in refusal(*arguments, "%m/%Y")
    found = prepare(*arguments, "%d/%m/%Y %H:%M")
    assert found.table["start_time"].tolist() == [pd.Timestamp(2020, 2, 1, 10), pd.Timestamp(2020, 2, 3, 11, 30)]


def test_dropped_time_zones_are_noted_in_one_line(tmp_path, prepare, write_record, counts):
    for name in "abc":
        write_record(tmp_path / "records" / name, counts(0))
    rows = ["a.hea,2020-02-01T10:00+02:00", "b.hea,2020-02-01T10:00Z", "c.hea,2020-02-01T10:00"]
    (tmp_path / "t.csv").write_text("\n".join(["file,start_time", *rows]))
    found = prepare("wfdb", tmp_path / "records", "--table", tmp_path / "t.csv")
    assert set(found.table["start_time"]) == {pd.Timestamp(2020, 2, 1, 10)}
    (note,) = found.notes
    assert "t.csv: time zones of 2 start times (such as '2020-02-01T10:00+02:00') are dropped" in note


def test_a_name_in_two_folders_is_refused(tmp_path):
    items = [Item("a/1.xml"), Item("b/1.xml"), Item("b/1.pdf")]
    expected = "file '1.xml' may be 'a/1.xml' and 'b/1.xml'; write them with their folders"
    assert expected in message(tmp_path, "file,patient\n1.xml,p\n", items)
    assert "record_id '1' may be" in message(tmp_path, "record_id,patient\n1,p\n", items)
    found = joined(tmp_path, "file,patient\na/1.xml,p\nb/1,q\n", items)
    assert [item.facts["patient"] for item in found] == ["p", "q", "q"]


def test_unreadable_tables(tmp_path):
    for name, content in (("t.parquet", b"PAR1xx"), ("t.csv", b"file\n\xff\xfe\n"), ("t.csv.gz", b"\x1f\x8b\x08\0")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="cannot be read") as caught:
            with_table(ITEMS, tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file; give a table"):
        with_table(ITEMS, tmp_path / "nowhere.csv")
    pd.DataFrame({"file": ["a/1.xml"], "boxes": [[1, 2]]}).to_parquet(tmp_path / "lists.parquet")
    with pytest.raises(UserError, match="column 'boxes' contains lists"):
        with_table(ITEMS, tmp_path / "lists.parquet")


@pytest.mark.parametrize("column", ["idx", "shard", "flags", "reason", "samples"])
def test_columns_that_are_ours_are_refused(tmp_path, refusal, write_record, counts, column):
    write_record(tmp_path / "records" / "r", counts(0))
    (tmp_path / "t.csv").write_text(f"file,{column}\nr.hea,1\n")
    text = refusal("wfdb", tmp_path / "records", "--table", tmp_path / "t.csv")
    assert f"has a column {column!r}, which is ours; rename it" in text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2024-12-31 23:59:59", datetime(2024, 12, 31, 23, 59, 59)),
        ("2024-12-31T23:59:59.25+05:00", datetime(2024, 12, 31, 23, 59, 59, 250000)),
        ("26.09.2019 12:00", datetime(2019, 9, 26, 12)),
        ("6.9.2019 7:05:09", datetime(2019, 9, 6, 7, 5, 9)),
        ("31.12.2024", datetime(2024, 12, 31)),
        ("2017/09/22", datetime(2017, 9, 22)),
        ("2017/9/2 23:59", datetime(2017, 9, 2, 23, 59)),
        ("20180220030000", datetime(2018, 2, 20, 3)),
        (201802200315, datetime(2018, 2, 20, 3, 15)),
        ("20241231", datetime(2024, 12, 31)),
        (20241231, datetime(2024, 12, 31)),
        (pd.Timestamp("2024-12-31 01:00", tz="Europe/Berlin"), datetime(2024, 12, 31, 1)),
        (None, None),
        ("  ", None),
        (pd.NaT, None),
    ],
)
def test_times(written, expected):
    assert time(written, "t") == expected


@pytest.mark.parametrize(
    "written",
    ["03/04/2024", "13/04/2024", "now", "today", "12:30", "5", "2024-02-30", "31.12.24", "30.02.2024", "12.31.2024"],
)
def test_invalid_and_ambiguous_times(written):
    with pytest.raises(UserError, match=f"^t: '{written}' is not a time"):
        time(written, "t")


@given(st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1)))
def test_any_time_comes_back(moment):
    assert time(moment.isoformat(sep=" "), "t") == moment


@given(st.one_of(st.none(), st.text(), st.integers(-(2**53), 2**53), st.floats()))
def test_text_and_number(value):
    written, found = text(value), number(value)
    assert written is None or (written and written == written.strip())
    assert found is None or found == found
    if isinstance(value, int):
        assert (written, found) == (str(value), value)
        assert text(float(value)) == written
    if isinstance(value, float) and value == value:
        assert float(written) == value == found
    assert texts([value, None, value]) == texts(value) * 2 == (() if written is None else (written,) * 2)
