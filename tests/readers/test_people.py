"""Patient, age and time: placeholders become None, and two people are never taken for one."""

from datetime import date, datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_signals_ext.common.errors import without_quotes
from fairseq_signals_ext.readers.facts import age_of, patient_of, sex_of, shown, start_of

NOBODY = (
    *("X X X X", "X", "ANONYMOUS", "anonymized", "xxxxxx", "unknown", "none", "n/a", "N/A", "nan", "0", "000000"),
    *(
        "123456",
        "12345",
        "987654321",
        "123-45-6789",
        "999999",
        "",
        " ",
        "\t\n",
        "-",
        "--",
        "?",
        "_",
        "test",
        "Test^Test",
    ),
    *("de-identified", "No ID", "not available", "(null)", "#N/A", "John Doe", "-1", "-99.0", "XX-XX-XXXX", "0000-00"),
)
SOMEBODY = (
    "1",
    "10",
    "SBJ-123",
    "9999",
    "642341",
    "007",
    "1234",
    "p0",
    "x1",
    "patient 1",
    "anon17",
    "AAA",
    "00123",
    "Ж1",
)
FILLERS = st.sampled_from(
    ["x", "X", "xx", "0", "000", "unknown", "Anonymous", "TEST", "none", "-", "?", "*", "n/a", "."]
)
SIGNS = st.text(" \t-_^/.,?*#()<>", max_size=4)


@pytest.mark.parametrize("written", NOBODY)
def test_a_placeholder_id_is_none(written):
    assert patient_of(written) is None
    assert patient_of(f" {written.upper()} ") is patient_of(written.lower()) is None


@pytest.mark.parametrize("written", SOMEBODY)
def test_a_real_id_is_not_changed(written):
    assert patient_of(f" {written}\n") == written


@given(st.lists(FILLERS, max_size=6), st.lists(SIGNS, min_size=7, max_size=7))
def test_combined_placeholder_ids_are_none(words, signs):
    row = "".join(sign + word for sign, word in zip(signs, words)) if words else signs[0]
    spaced = " ".join(words)
    assert patient_of(spaced) is None
    if not any(sign == "" for sign in signs[1 : len(words)]):
        assert patient_of(row) is None


@given(st.text(max_size=500))
def test_any_id_is_one_short_line_and_idempotent(written):
    found = patient_of(written)
    assert found is None or (found.strip() and len(found) <= 264 and found.isprintable())
    if found is not None and len(found) <= 200:
        assert patient_of(found) == found


@given(st.integers(min_value=1, max_value=10**12))
def test_numbers_of_a_collection_are_valid_ids(number):
    assert patient_of(number, numbered=True) == patient_of(float(number), numbered=True) == str(number)


def test_long_ids_that_differ_at_their_end_are_two_people():
    assert patient_of("p" * 300 + "1") != patient_of("p" * 300 + "2")


@pytest.mark.parametrize("value", [None, float("nan"), 0, 0.0, -1, -9.0, 123456])
def test_placeholder_numbers_are_none(value):
    assert patient_of(value) is None


@pytest.mark.parametrize(
    ("written", "years"),
    [
        *(
            ("45Y", 45),
            ("069Y", 69),
            ("6M", 0.5),
            ("45 years", 45),
            ("45 yrs.", 45),
            ("45 years old", 45),
            ("45,5", 45.5),
        ),
        *(("90+", 90), (">89", 90), (">= 90", 90), ("over 89", 90), ("18+", None), (">40", None), ("300", None)),
        *(
            ("131Y", None),
            ("-5Y", None),
            ("12 miles", None),
            ("Y", None),
            ("inf", None),
            ("9" * 500, None),
            (10**400, None),
        ),
    ],
)
def test_ages(written, years):
    assert age_of(written) == years


def test_ages_of_the_youngest():
    assert age_of("12W") == pytest.approx(84 / 365.25) == age_of("12 weeks")
    assert age_of("3D") == pytest.approx(3 / 365.25)


@pytest.mark.parametrize(
    ("written", "sex"), [("Female.", "female"), ("w", "female"), ("Masculino", "male"), ("O", None)]
)
def test_sexes(written, sex):
    assert sex_of(written) == sex


@pytest.mark.parametrize(
    "when",
    [
        *(
            datetime(1, 1, 1),
            datetime(1600, 1, 1, 4),
            datetime(1858, 11, 17),
            datetime(1899, 12, 30),
            datetime(1900, 1, 1),
        ),
        *(datetime(1970, 1, 1), datetime(1980, 1, 1), datetime(1985, 1, 1)),
        *(datetime(2300, 1, 1), datetime(9999, 12, 31), None),
    ],
)
def test_placeholder_dates_are_none(when):
    assert start_of(when) is None


def test_dates_of_ecgs():
    assert start_of(datetime(1985, 1, 1, 9, 16)) == datetime(1985, 1, 1, 9, 16)
    assert start_of(datetime(1985, 1, 1, 9, 16), hidden=date(1985, 1, 1)) is None
    assert start_of(datetime(2150, 5, 4, 10)) == datetime(2150, 5, 4, 10)  # as MIMIC-IV-ECG shifts dates
    assert start_of(datetime(2020, 2, 3, 4, tzinfo=timezone.utc)) == datetime(2020, 2, 3, 4)


@given(st.text(alphabet="Doe^J'\"\\ 1", min_size=1))
def test_messages_have_no_quotations_of_libraries(name):
    for quote in (repr(name), repr(name.encode()), repr((name, 1))):
        text = f"could not convert {quote}"
        assert not set("DJ^") & set(without_quotes(text)) and not set("DJ^") & set(shown(ValueError(text)))
    assert without_quotes("not well-formed (invalid token): line 1, column 5") == (
        "not well-formed (invalid token): line 1, column 5"
    )
