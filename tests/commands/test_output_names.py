"""File names made from any names of labels and recordings."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.commands._entry import distinct_names
from fairseq_signals_ext.common.files import safe_name

NAMES = {
    "AF/flutter": "AF_flutter",
    "../../etc/passwd": "_.._etc_passwd",
    "..": "recording",
    "a\\b:c*?": "a_b_c_",
    "": "recording",
    "con": "_con",
    "Nul.txt": "_Nul.txt",
    "Vorhofflimmern (häufig)": "Vorhofflimmern_häufig_",
    "u\u0308": "\u00fc",
    "line\nbreak\0": "line_break_",
    "ends.": "ends",
}


@pytest.mark.parametrize(("text", "name"), NAMES.items())
def test_names(text, name):
    assert safe_name(text) == name


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=300), st.sampled_from(["a/b", "a:b", "A_B", "..", "ß", "SS", "ä" * 200]))))
def test_any_texts_make_files_of_their_own(texts):
    names = distinct_names(texts)
    assert len({name.casefold() for name in names}) == len(texts)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            with open(Path(folder) / f"{name}.csv", "xb"):
                pass
        assert len(list(Path(folder).iterdir())) == len(texts)
