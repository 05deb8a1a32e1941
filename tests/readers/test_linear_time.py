"""Expressions and parsers that meet text from outside take time in proportion to its length: twice the text, at most
about twice the time."""

import time

import numpy as np
import pytest
from fuzz_seeds import aecg, kardia, mortara, muse, philips

from fairseq_signals_ext.common import errors, leads
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.training_curve import _LINE
from fairseq_signals_ext.labelling import events, link_settings
from fairseq_signals_ext.prepared import split_assigning
from fairseq_signals_ext.readers import (
    facts,
    formats,
    read_ecg,
    single_lead,
    table_layout,
    tables,
    wfdb_header,
    wfdb_remarks,
)
from fairseq_signals_ext.sources import text_tables

# a text, of so many pieces of the kind that makes expressions go back and forth
FAMILIES = {
    **{f"{name} {'end' if end else ''}".strip(): (lambda n, piece=piece, end=end: piece * n + end)
       for end in ("", "!")
       for name, piece in {"blanks": " ", "tabs": "\t", "controls": "\x1f", "digits": "1", "letters": "a", "v": "v",
                           "commas": ",", "colons": ":", "dots": ".", "signs": "-", "pluses": "+", "open": "(",
                           "close": ")", "square": "[", "angles": "<", "comments": "<!--", "doctypes": "<!A",
                           "underlines": "_", "slashes": "/", "quotes": '"', "percent": "%", "e": "1e", "hashes": "#",
                           "words": "a ", "numbers": "1 ", "fields": "1:", "rows": "[valid", "half": "1.",
                           "times": "t ", "units": " (mV", "names": "<a "}.items()},
    "name, blanks": lambda n: "a" + " " * n + "!",
    "number, blanks": lambda n: "1" + " " * n + "!",
    "key, blanks": lambda n: "a" + " " * n + ":" + " " * n + "!",
    "header": lambda n: "r.dat 16 " + "1" * n + "!",
    "name of a lead": lambda n: "r.dat 16 200 16 0 0 0 0 I" + " " * n + "!",
    "record": lambda n: "r 1 " + "1" * n + " " * n + "!",
    "document type": lambda n: "<!DOCTYPE a" + " " * n + "!",
    "time": lambda n: "time (" + " " * n + "!",
    "lead": lambda n: "mdc_" + "_" * n + "!",
}  # fmt: skip


def header_text(text):
    return f"r 1 500 5\n{text}\n#{text}\n".encode("ascii", "replace")


def parsed_leads(text):
    try:
        return leads.parse_leads(text)
    except UserError as error:
        return str(error)


def parsed_header(text):
    found = []
    for content in (header_text(text), text.encode(), f"r/1 1 500 5\n{text}\n".encode()):
        try:
            found.append(wfdb_header.parse_header(content, "r.hea"))
        except UserError as error:
            found.append(str(error))
    return found


PARSERS = {
    "leads.parse_leads": parsed_leads,
    "facts.lead_position": facts.lead_position,
    "facts.millivolts": facts.millivolts,
    "facts.age_of": facts.age_of,
    "facts.shown": facts.shown,
    "formats._root_of": lambda text: facts.shown(formats._root_of("<" + text), 40),
    "wfdb_header.is_record_line": wfdb_header.is_record_line,
    "formats._NUMBERS": formats._NUMBERS.fullmatch,
    "tables._LINE": tables._LINE.fullmatch,
    "facts.patient_of": facts.patient_of,
    "errors.without_quotes": errors.without_quotes,
    "table_layout.layout_of": lambda text: table_layout.layout_of("utf-8", [text, "1,2"]),
    "table_layout.STAMP": table_layout.STAMP.fullmatch,
    "single_lead": lambda text: single_lead.single_lead_layout("utf-8", [f"a,{text}", "b,mV", "1", "2", "3"]),
    "tables names": lambda text: [tables._TIME.fullmatch(text[:64]), tables._name_and_unit(text[:64])],
    "tables._EMPTY_CELL": tables._EMPTY_CELL[","].search,
    "wfdb_remarks.facts_of": lambda text: wfdb_remarks.facts_of([text, f"Age: {text}", f"Dx: {text}", "age:" * 500]),
    "wfdb_header.parse_header": parsed_header,
    "wfdb_header.named_files": lambda text: wfdb_header.named_files(header_text(text)),
    "text_tables.as_id": text_tables.as_id,
    "text_tables.as_cell": text_tables.as_cell,
    "labelling.events._VALUE": events._VALUE.fullmatch,
    "labelling.events._RANGE": events._RANGE.fullmatch,
    "labelling.link_settings._DURATION": link_settings._DURATION.fullmatch,
    "labelling.link_settings._THRESHOLD": link_settings._THRESHOLD.fullmatch,
    "split_assigning._RANGE": split_assigning._RANGE.fullmatch,
    "training_curve._LINE": _LINE.search,
}
# quick where it is linear, and seconds where it is not
SHORT = 20_000
SLOWEST = 0.25  # seconds for the short text; a quadratic expression takes more


def seconds(parse, text, repeats=3):
    best = float("inf")
    for _ in range(repeats):
        before = time.process_time()
        parse(text)
        best = min(best, time.process_time() - before)
    return best


def check_doubling(parse, family, short):
    """Check that time per letter does not grow; very short times are not compared."""
    once = seconds(parse, family(short), 1)
    assert once < SLOWEST * short / SHORT
    if once > 0.004:
        once, twice = seconds(parse, family(short)), seconds(parse, family(2 * short))
        assert twice < 3 * once


@pytest.mark.parametrize("name", PARSERS)
def test_expressions_are_linear(name):
    for family in FAMILIES.values():
        check_doubling(PARSERS[name], family, SHORT)


def _read(path, content, **keywords):
    path.write_bytes(content)
    try:
        return read_ecg(path, **keywords)
    except UserError as error:
        return str(error)


DOCUMENTS = {
    "wfdb header": ("r.hea", lambda text: header_text(text), {}),
    "wfdb segments": ("r.hea", lambda text: f"r/1 1 500 5\n{text}\n".encode(), {}),
    "csv column": ("r.csv", lambda text: f"I,{text}\n0.5,0.5\n0.5,0.5\n".encode(), {"sample_rate": 500}),
    "csv cell": ("r.csv", lambda text: f"I,II\n0.5,{text}\n0.5,0.5\n".encode(), {"sample_rate": 500}),
    "muse": ("r.xml", lambda text: muse(_attribute(text)), {}),
    "philips": ("r.xml", lambda text: philips(b"\0" * 480).replace(b"<waveforms>", _attribute(text).encode()), {}),
    "aecg": ("r.xml", lambda text: aecg(_attribute(text)), {}),
    "mortara": ("r.xml", lambda text: mortara(_attribute(text)).replace(b'DATA="', b'DATA="' + _plain(text), 1), {}),
    "json": ("r.json", lambda text: kardia().replace(b'"patientID": "7"', b'"patientID": "%b"' % _plain(text)), {}),
}


def _plain(text):
    return "".join(letter for letter in text if letter.isprintable() and letter not in "<>&\"'\\").encode()


def _attribute(text):
    words = _plain(text).decode()
    return f'<TestDemographics a="{words}">{words}<AcquisitionDate>{words}</AcquisitionDate></TestDemographics>'


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_read_in_linear_time(name, tmp_path):
    """With all libraries behind."""
    file, content, keywords = DOCUMENTS[name]
    (tmp_path / "r.dat").write_bytes(np.zeros(5, "<i2").tobytes())

    def parse(text):
        return _read(tmp_path / file, content(text), **keywords)

    parse("")
    for family in FAMILIES.values():
        check_doubling(parse, family, 4 * SHORT)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_long_texts_in_documents_take_no_time(name, tmp_path):
    file, content, keywords = DOCUMENTS[name]
    (tmp_path / "r.dat").write_bytes(np.zeros(5, "<i2").tobytes())
    for family in ("blanks end", "name, blanks", "key, blanks", "header", "number, blanks"):
        before = time.process_time()
        _read(tmp_path / file, content(FAMILIES[family](40_000)), **keywords)
        assert time.process_time() - before < 5
