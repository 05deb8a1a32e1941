"""Code maps, against the tables of the Challenge and of PTB-XL."""

import re
from pathlib import Path

import pandas as pd
import pytest

import fairseq_signals_ext.labelling.from_codes as module
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.from_codes import CODE_MAPS, read_code_map


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("cinc2021", 26),
        ("cinc2021-all", 133),
        ("ptbxl-all", 71),
        ("ptbxl-diagnostic", 44),
        ("ptbxl-super", 5),
        ("ptbxl-sub", 23),
        ("ptbxl-form", 19),
        ("ptbxl-rhythm", 12),
        ("code15", 6),
    ],
)
def test_maps_have_as_many_labels_as_published(name, labels):
    assert len(read_code_map(name).labels) == labels


def test_every_map_is_listed():
    files = (Path(module.__file__).parent / "maps").glob("*.csv")
    assert sorted(CODE_MAPS) == sorted(path.stem for path in files)


def test_cinc2021_is_the_challenges_own_table(ecg_data):
    scoring = ecg_data / "cinc2021" / "scoring"
    names = pd.read_csv(scoring / "weights_abbreviations.csv", index_col=0).columns
    codes = pd.read_csv(scoring / "weights.csv", index_col=0).columns
    code_map = read_code_map("cinc2021")
    assert code_map.labels == tuple(names)
    for name, merged in zip(names, codes):
        for code in merged.split("|"):
            assert code_map[code] == (name,)
        for abbreviation in name.split("|"):
            assert code_map[abbreviation] == code_map[abbreviation.lower()] == (name,)
    scored = pd.read_csv(scoring / "dx_mapping_scored.csv", dtype=str)
    for code, abbreviation in zip(scored["SNOMEDCTCode"], scored["Abbreviation"]):
        assert code_map[code] == code_map[abbreviation]
    unscored = pd.read_csv(scoring / "dx_mapping_unscored.csv", dtype=str)
    assert not any(code_map[code] for code in unscored["SNOMEDCTCode"])


@pytest.mark.parametrize(
    ("name", "column"), [("ptbxl-super", "diagnostic_class"), ("ptbxl-sub", "diagnostic_subclass")]
)
def test_ptbxl_groups_are_those_of_its_table(ecg_data, name, column):
    statements = pd.read_csv(ecg_data / "ptbxl" / "scp_statements.csv", index_col=0)
    wanted = {code: (group,) for code, group in statements[column].dropna().items()}
    found = read_code_map(name)
    if name == "ptbxl-super":  # its classes stand for themselves, too
        wanted.update((label, (label,)) for label in statements[column].dropna())
    assert found.labels_of == wanted


@pytest.mark.parametrize("kind", ["diagnostic", "form", "rhythm"])
def test_ptbxl_kinds_are_those_of_its_table(ecg_data, kind):
    statements = pd.read_csv(ecg_data / "ptbxl" / "scp_statements.csv", index_col=0)
    assert read_code_map(f"ptbxl-{kind}").labels == tuple(statements.index[statements[kind] == 1])
    assert read_code_map("ptbxl-all").labels == tuple(statements.index)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("code;label\n", "needs the columns code and label; its columns are code;label"),
        ("", "its columns are none"),
        ("code,label\n", "the code map is empty"),
        ("code,label\nI48,af\nI48,af\n", "line 3: code 'I48' has the label 'af' already"),
        ("code,label\nI48,\n", "line 2: code or label is empty"),
        ("code,label\nI48\n", "line 2: code or label is empty"),
    ],
)
def test_malformed_map(tmp_path, text, message):
    path = tmp_path / "map.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_code_map(path)
    assert str(error.value).startswith(f"{path}: ")


def test_map_in_another_encoding(tmp_path):
    path = tmp_path / "map.csv"
    path.write_bytes(b"code,label\nI48,\xff\n")
    with pytest.raises(UserError, match="cannot be read as a CSV file in UTF-8"):
        read_code_map(path)
    with pytest.raises(UserError, match=r"code map 'nothing': .*cinc2021"):
        read_code_map("nothing")
