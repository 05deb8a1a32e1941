"""Labels from codes and tables, against the Challenge's, PTB-XL's and ECG-FM's own."""

import ast
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.from_codes import labels_from_codes, read_code_map
from fairseq_signals_ext.labelling.from_table import labels_from_table
from fairseq_signals_ext.labelling.labels import Labels, drop_rare, write_labels

SCHEMA = pa.schema(
    {
        "idx": pa.int64(),
        "record_id": pa.string(),
        "source": pa.string(),
        "source_file": pa.string(),
        "patient": pa.string(),
        "start_time": pa.timestamp("us"),
        "codes": pa.list_(pa.string()),
        "shard": pa.string(),
        "row": pa.int64(),
    }
)


def write_folder(out, rows):
    """A prepared folder with these rows in its table; what a row lacks is made up or missing."""
    out.mkdir(parents=True, exist_ok=True)
    made_up = [
        {"idx": number, "source": "made-up", "shard": "shards/00000.npy", "row": number, **row}
        for number, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(made_up, SCHEMA), out / "recordings.parquet")
    return out


def from_codes(out, rows, code_map, **options):
    return labels_from_codes(write_folder(out, rows), read_code_map(code_map), **options)


def as_sets(labels):
    """Names of the positive labels of each recording; None where it is unlabelled."""
    return [
        None if np.isnan(row).all() else {name for name, value in zip(labels.names, row) if value == 1}
        for row in labels.values
    ]


def header_codes(path):
    found = re.search(r"^# *Dx: *(.*?) *$", path.read_text(encoding="latin-1"), re.MULTILINE)
    return [code.strip() for code in found[1].split(",")]


def test_cinc2021_from_real_headers(ecg_data, tmp_path):
    headers = sorted((ecg_data / "cinc2021").glob("*/*.hea"))
    found = [header_codes(path) for path in headers]
    rows = [{"source": path.parent.name, "codes": codes} for path, codes in zip(headers, found)]
    labels = from_codes(tmp_path, rows, "cinc2021")
    scoring = ecg_data / "cinc2021" / "scoring"
    classes = [set(name.split("|")) for name in pd.read_csv(scoring / "weights.csv", index_col=0).columns]
    scored = pd.read_csv(scoring / "dx_mapping_scored.csv", dtype=str)
    number = dict(zip(scored["Abbreviation"], scored["SNOMEDCTCode"]))
    number.update({"I-AVB": number["IAVB"], "Normal": number["NSR"]})  # how the Challenge codes CPSC 2018's names
    for row, codes in zip(labels.values, found):
        numbers = {number.get(code, code) for code in codes}
        np.testing.assert_array_equal(row, [bool(numbers & codes) for codes in classes])
    unknown = labels.counts["unknown_codes"]
    assert unknown["428750005"] == 11  # nonspecific ST-T abnormality is not scored
    assert "428750005 (11)" in labels.notes[-1]
    assert not {"AF", "RBBB", "PVC", "I-AVB", "Normal"} & set(unknown)


def test_superclasses_of_ptbxl(ecg_data, tmp_path):
    database = pd.read_csv(ecg_data / "ptbxl" / "ptbxl_database.csv", index_col="ecg_id")
    published = pd.read_csv(ecg_data / "ptbxl" / "superclass_labels.csv", index_col="ecg_id")
    both = published.index.intersection(database.index)
    assert len(both) >= 14
    statements = [ast.literal_eval(text) for text in database.loc[both, "scp_codes"]]
    rows = [{"codes": [f"{code}:{likelihood}" for code, likelihood in codes.items()]} for codes in statements]
    labels = from_codes(tmp_path, rows, "ptbxl-super")
    wanted = published.loc[both, labels.names].astype(float)
    np.testing.assert_array_equal(labels.values, wanted)


@pytest.mark.parametrize("on", [None, "ecg_id"])
def test_table_of_ptbxls_superclasses(ecg_data, tmp_path, on):
    table = ecg_data / "ptbxl" / "superclass_labels.csv"
    published = pd.read_csv(table, index_col="ecg_id")
    names = [str(number) if number % 2 else f"{number:05d}_hr" for number in published.index]
    labels = labels_from_table(write_folder(tmp_path, [{"record_id": name} for name in names]), table, on=on)
    assert labels.names == ["HYP", "NORM", "MI", "CD", "STTC"]  # all columns of 0 and 1 but ids and folds
    np.testing.assert_array_equal(labels.values, published[labels.names])
    assert "columns with ids and known facts were left out: patient_id, strat_fold" in labels.notes


def test_numbers_that_are_not_labels_are_left_out(tmp_path):
    labels = from_text(tmp_path, [{}] * 4, "idx,Sex,weight,af\n0,1,63.5,1\n1,0,1,0\n2,1,80,0\n3,0,,\n")
    assert labels.names == ["af"]
    assert labels.counts["columns_left_out"] == ["Sex", "weight"]
    with pytest.raises(UserError, match="column 'sb': '-1' is not 0, 1.*looks like a mark for unknown"):
        from_text(tmp_path, [{}] * 3, "idx,af,sb\n0,1,1\n1,0,-1\n2,0,0\n")


def test_code15_from_the_table_of_ecg_fm(ecg_data, tmp_path):
    folder = ecg_data / "code15_ecg_fm"
    write_folder(tmp_path, [{"record_id": str(number)} for number in pd.read_csv(folder / "meta.csv")["exam_id"]])
    columns = ["is_male", "1dAVb", "RBBB", "LBBB", "SB", "ST", "AF", "normal_ecg"]
    labels = labels_from_table(tmp_path, folder / "meta.csv", on="idx", columns=columns)
    written = write_labels(tmp_path, "code15", labels)
    np.testing.assert_array_equal(np.load(written / "y.npy"), np.load(folder / "labels" / "y.npy"))
    theirs = pd.read_csv(folder / "labels" / "labels.csv").astype(int)
    pd.testing.assert_frame_equal(pd.read_csv(written / "labels.csv"), theirs)
    theirs = pd.read_csv(folder / "labels" / "label_def.csv")
    ours = pd.read_csv(written / "label_def.csv")
    assert list(ours["name"]) == list(theirs["name"])
    assert set(theirs.columns) <= set(ours.columns)


def test_codes_are_trimmed_and_likelihoods_count(tmp_path):
    rows = [
        {"codes": [" NORM : 100.0 ", "SR:0"]},
        {"codes": ["MI:50", "xMI:49.5"]},
        {"codes": ["IMI"]},
        {"codes": ["IMI:0"]},
        {"codes": []},
        {"codes": None},
        {"codes": ["", " "]},
    ]
    labels = from_codes(tmp_path, rows, "ptbxl-super")
    assert as_sets(labels) == [{"NORM"}, {"MI"}, {"MI"}, {"MI"}, None, None, None]
    assert labels.counts["unknown_codes"] == {"SR": 1, "xMI": 1}
    labels = from_codes(tmp_path, rows, "ptbxl-super", min_likelihood=50, no_codes_are_negative=True)
    assert as_sets(labels) == [{"NORM"}, {"MI"}, {"MI"}, set(), set(), set(), set()]
    assert labels.counts["below_min_likelihood"] == 3
    assert labels.notes[0] == "3 of 7 recordings have no codes: negative"


def test_only_the_challenges_map_ignores_case(tmp_path):
    rows = [{"codes": ["rbbb"]}, {"codes": ["AF"]}]
    assert as_sets(from_codes(tmp_path, rows, "cinc2021")) == [{"CRBBB|RBBB"}, {"AF"}]
    labels = from_codes(tmp_path, rows, "code15")
    assert as_sets(labels) == [set(), {"AF"}]
    assert labels.counts["unknown_codes"] == {"rbbb": 1}


def test_codes_of_another_vocabulary_say_nothing(tmp_path):
    rows = [
        {"source": "snomed", "codes": ["164889003", "55930002"]},
        {"source": "snomed", "codes": ["55930002"]},
        {"source": "snomed"},
        {"source": "scp", "codes": ["AFIB:0", "NORM:100", "SR:0"]},
        {"source": "scp", "codes": ["AFIB:0"]},
        {"source": "code-15", "codes": ["none_of_the_six"]},
        {"source": "code-15", "codes": ["AF"]},
    ]
    labels = from_codes(tmp_path, rows, "cinc2021")
    assert as_sets(labels) == [{"AF"}, set(), None, None, None, set(), {"AF"}]
    assert labels.counts["other_vocabulary"] == {"scp": 2}
    assert any("source 'scp' has codes of another vocabulary, such as AFIB" in note for note in labels.notes)
    assert as_sets(from_codes(tmp_path, rows, "cinc2021", sources=["scp"]))[3:5] == [set(), set()]
    assert as_sets(from_codes(tmp_path, rows, "cinc2021", no_codes_are_negative=True))[2:5] == [set(), None, None]
    assert as_sets(from_codes(tmp_path, rows, "ptbxl-rhythm"))[:4] == [None, None, None, {"AFIB", "SR"}]
    assert as_sets(from_codes(tmp_path, rows, "code15")) == [None] * 5 + [set(), {"AF"}]
    own = tmp_path / "own.csv"
    own.write_text("code,label\nSR,sinus\n")
    assert as_sets(from_codes(tmp_path, rows, own)) == [None, None, None, {"sinus"}, set(), None, None]


def test_sources(tmp_path):
    rows = [{"source": "a", "codes": ["AF"]}, {"source": "b", "codes": ["AF"]}, {"source": "b"}]
    labels = from_codes(tmp_path, rows, "code15", sources=["b"], no_codes_are_negative=True)
    assert as_sets(labels) == [None, {"AF"}, set()]
    with pytest.raises(UserError, match=r"no source 'c'; its sources are a, b$"):
        from_codes(tmp_path, rows, "code15", sources=["c"])


def test_folder_without_any_code(tmp_path):
    labels = from_codes(tmp_path, [{}, {"codes": []}], "code15")
    with pytest.raises(UserError, match="not one of 2 recordings would have a label .*no codes"):
        write_labels(tmp_path, "code15", labels)
    assert not (tmp_path / "labels").exists()


def test_own_map(tmp_path):
    path = tmp_path / "map.csv"
    path.write_text("code,label,description\n I48 ,arrhythmia,x\nI48,af,\nI49,arrhythmia,\n", encoding="utf-8-sig")
    labels = from_codes(tmp_path / "out", [{"codes": ["I48"]}, {"codes": ["I49 "]}, {"codes": ["i49"]}], path)
    assert labels.names == ["arrhythmia", "af"]
    assert as_sets(labels) == [{"arrhythmia", "af"}, {"arrhythmia"}, set()]
    assert labels.codes == {"arrhythmia": ["I48", "I49"], "af": ["I48"]}


def from_text(tmp_path, rows, text, **options):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return labels_from_table(write_folder(tmp_path, rows), path, **options)


def test_table_joins_by_the_first_key_that_it_has(tmp_path):
    rows = [{"record_id": "007", "patient": "1"}, {"record_id": "7", "patient": "1"}, {"record_id": "8"}]
    text = "patient,name,record_id,af,dead\n1,x,7,1,\n1,y,007,False,TRUE\n9,z,99,0,1.0\n"
    labels = from_text(tmp_path, rows, text)
    assert labels.names == ["af", "dead"]
    np.testing.assert_array_equal(labels.values, [[0, 1], [1, np.nan], [np.nan, np.nan]])
    assert labels.counts == {"rows": 3, "unknown_rows": 1, "columns_left_out": ["patient", "name"]}
    assert "columns with other values than labels were left out: name" in labels.notes
    assert "1 of 3 rows have a record_id that no recording has (such as '99')" in labels.notes


def test_a_column_with_more_other_words_than_labels_is_told(tmp_path):
    labels = from_text(tmp_path, [{}, {}, {}], "idx,af,mi,note\n0,1,1,x\n1,0,perhaps,y\n2,0,unclear,z\n")
    assert labels.names == ["af"]
    assert labels.notes == ["columns with other values than labels were left out: mi ('perhaps' in line 3), note"]


def test_commas_at_the_end_of_lines_and_empty_lines(tmp_path):
    labels = from_text(tmp_path, [{}, {}], "idx,af,sb\n0,1,0,\n\n1,0,1,\n")
    assert labels.names == ["af", "sb"] and labels.values.tolist() == [[1, 0], [0, 1]]
    assert labels.counts["rows"] == 2


@pytest.mark.parametrize("key", ["file", "path"])
@pytest.mark.parametrize("names", [("a/1.xml", "b/2.xml"), ("1.xml", "2.xml"), ("a\\1", "./b/2"), ("1", "2")])
def test_table_joins_by_file_as_prepare_does(tmp_path, key, names):
    rows = [{"source_file": "a/1.xml"}, {"source_file": "b/2.xml"}, {"source_file": "c/3.xml"}]
    labels = from_text(tmp_path, rows, f"{key},af\n{names[1]},yes\n{names[0]},No\n")
    np.testing.assert_array_equal(labels.values[:, 0], [0, 1, np.nan])


def test_a_file_name_of_two_folders_is_refused(tmp_path):
    rows = [{"source_file": "a/1.xml"}, {"source_file": "b/1.xml"}]
    with pytest.raises(UserError, match="file '1.xml' is that of 2 recordings"):
        from_text(tmp_path, rows, "file,af\n1.xml,1\n")


def test_table_joins_by_patient_and_by_numbers_with_gaps(tmp_path):
    rows = [{"patient": "1"}, {"patient": "2"}, {"patient": "1"}, {"patient": None}]
    labels = from_text(tmp_path, rows, "patient,af\n1.0,1\n,0\n2.0,0\n")
    np.testing.assert_array_equal(labels.values[:, 0], [1, 0, 1, np.nan])


def test_parquet_table(tmp_path):
    write_folder(tmp_path, [{}, {}, {}])
    table = pd.DataFrame({"idx": [2, 0, 1], "af": [True, None, False], "dead": [1.0, np.nan, 0.0], "note": "x"})
    table.to_parquet(tmp_path / "table.parquet")
    labels = labels_from_table(tmp_path, tmp_path / "table.parquet")
    assert labels.names == ["af", "dead"]
    np.testing.assert_array_equal(labels.values, [[np.nan, np.nan], [0, 0], [1, 1]])


def test_long_numbers_as_ids_stay_exact(tmp_path):
    write_folder(tmp_path, [{"patient": str(2**60 + 1)}, {"patient": str(2**60)}])
    table = pa.table({"patient": pa.array([2**60 + 1, None, 2**60], pa.int64()), "af": [1, None, 0]})
    pq.write_table(table, tmp_path / "table.parquet")
    labels = labels_from_table(tmp_path, tmp_path / "table.parquet")
    assert labels.values[:, 0].tolist() == [1, 0]


def test_regression(tmp_path):
    labels = from_text(tmp_path, [{}, {}, {}], "idx,age,sex\n0,61.5,1\n2,-1e3,0\n", regression=True)
    np.testing.assert_array_equal(labels.values[:, 0], [61.5, np.nan, -1000])
    written = write_labels(tmp_path, "age", labels)
    assert (written / "labels.csv").read_text() == "idx,age\n0,61.5\n2,-1000\n"
    assert not (written / "pos_weight.txt").exists()


def test_hidden_ages_of_ptbxl_are_no_numbers(tmp_path):
    """As `prepare` stores them; another table may have 300 as a number of its own."""
    rows = [{"record_id": "1"}, {"record_id": "2"}]
    labels = from_text(tmp_path, rows, "ecg_id,age\n1,300.0\n2,61\n", regression=True)
    assert labels.values.tolist() == [[90], [61]]
    assert "rows with an age of 300, by which PTB-XL hides those over 89, read as 90: 1" in labels.notes
    other = from_text(tmp_path, rows, "record_id,height\n1,300\n2,61\n", regression=True)
    assert other.values.tolist() == [[300], [61]] and not other.notes


WORDS = "0, 1, true, false, yes or no"
ROWS = [
    {"record_id": "a", "source": "s", "source_file": "a", "patient": "1"},
    {"record_id": "a", "source": "t", "source_file": "b", "patient": "1"},
    {"record_id": "c", "source": "t", "source_file": "c", "patient": "2"},
    {"record_id": "c", "source": "t", "source_file": "d", "patient": "2"},
]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("idx,af\n0,1\n1,2\n", {}, f"table.csv: line 3: column 'af': '2' is not {WORDS}, or empty; fix it"),
        ("idx,rhythm\n0,0\n1,3\n2,2\n", {}, f"'3' is not {WORDS}, or empty; fix it: looks like class"),
        ("idx,af\n0,1\n1,-1\n2,0\n", {}, f"'-1' is not {WORDS}, or empty; fix it: -1 looks like a mark"),
        ("idx,af\n0,yes\n1,maybe\n2,no\n", {}, f"line 3: column 'af': 'maybe' is not {WORDS}, or empty; fix it"),
        ("idx,af\n0,-999\n1,1\n2,0\n", {}, "-999 looks like a mark for unknown: write NaN (in a table nothing)"),
        ("idx,af\n0,1\n1,maybe\n", {"columns": ["af"]}, "line 3: column 'af': 'maybe' is not 0, 1"),
        (
            "idx,af\n0,1\n1,maybe\n",
            {"columns": ["af"], "regression": True},
            "line 3: column 'af': 'maybe' is not a number",
        ),
        ("idx,af\n0,inf\n", {"regression": True}, "line 2: column 'af': 'inf' is not a number or empty"),
        (
            "idx,af\n0,1\n1,maybe\n",
            {},
            "no column has only 0, 1, true, false, yes or no, apart from ids and known facts; give --columns",
        ),
        ("idx,af\n0,1\n", {"columns": ["b"]}, "no column 'b'; its columns are idx, af"),
        ("idx,af\n0,1\n", {"on": "patient"}, "no column 'patient'"),
        (
            "id,af\n0,1\n",
            {},
            "none of the columns record_id, idx, source_file, file, path, patient, ecg_id; its columns are id, af",
        ),
        ("idx,af\n0,1\n1,1\n0,1\n", {}, "line 4: idx '0' is in line 2 already; keep one row for each"),
        (
            "idx,af\n7,1\n8,1\n",
            {},
            "none of its 2 rows has the idx of a recording (the table has '7', recordings have '0'); correct them",
        ),
        ("record_id,af\n0c,1\n", {}, "(the table has '0c', recordings have 'a'): zeros in front differ"),
        ("record_id,af\nx/c.hea,1\n", {}, "leave out folders and suffixes, or name the column 'file'"),
        ("idx,af\n", {}, "the table is empty"),
        ("record_id,af\na,1\n", {}, "record_id 'a' is that of recordings of 's', 't'; choose one with --sources NAME"),
        ("record_id,af\nc,1\n", {}, "record_id 'c' is that of 2 recordings; join by idx"),
        ("patient,af\n1,1\n", {}, "patient '1' is that of recordings of 's', 't'; choose one with --sources NAME"),
        ("idx,af\n0,1\n\n2,5\n", {}, "line 4: column 'af': '5' is not 0, 1"),
        ("idx,af\n0,1\n1,0,5\n", {}, "cannot be read (Error tokenizing data. C error: Expected 2 fields in line 3"),
        ("", {}, "table.csv: cannot be read (No columns to parse from file)"),
    ],
)
def test_bad_table(tmp_path, text, options, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        from_text(tmp_path, ROWS, text, **options)
    assert str(error.value).startswith(str(tmp_path / "table.csv")) and "\n" not in str(error.value)


def test_source_makes_a_key_unambiguous(tmp_path):
    labels = from_text(tmp_path, ROWS, "record_id,af\na,1\n", sources=["t"])
    np.testing.assert_array_equal(labels.values[:, 0], [np.nan, 1, np.nan, np.nan])
    labels = from_text(tmp_path, ROWS, "patient,af\n1,1\n", sources=["s", "t"])
    np.testing.assert_array_equal(labels.values[:, 0], [1, 1, np.nan, np.nan])
    labels = from_text(tmp_path, ROWS, "patient,af\n2,1\n")
    np.testing.assert_array_equal(labels.values[:, 0], [np.nan, np.nan, 1, 1])


@pytest.mark.parametrize("name", ["table.parquet", "table.csv.gz", "table.csv"])
def test_damaged_table(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b\xff")
    with pytest.raises(UserError, match=r"cannot be read \(") as error:
        labels_from_table(write_folder(tmp_path, [{}]), tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        labels_from_table(tmp_path, tmp_path / "absent.csv")


def test_rare_labels_are_dropped_and_told():
    labels = drop_rare(Labels(["l0", "l1"], np.arange(2), np.array([[0.0, 1.0], [1.0, 1.0]])), 2)
    assert labels.names == ["l1"] and labels.values.tolist() == [[1], [1]]
    assert labels.notes == ["labels with fewer than 2 positives were dropped: l0 (1)"]
    with pytest.raises(UserError, match=r"no label has 3 positive recordings \(l1 \(2\)\); lower --min-count"):
        drop_rare(labels, 3)
