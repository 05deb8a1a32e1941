"""Values and times of events, as tables have them."""

import numpy as np
import pandas as pd
import pytest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.events import BOUNDS, clock_times, parse_values


@pytest.mark.parametrize(
    ("text", "number", "bound"),
    [
        ("0.01", 0.01, ""),
        (" -.5 ", -0.5, ""),
        ("1e-3", 0.001, ""),
        ("=5", 5, ""),
        ("<0.01", 0.01, "<"),
        ("≤ 0.01", 0.01, "<="),
        (">=100 %", 100, ">="),
        (">100", 100, ">"),
        ("55-60%", 57.5, ""),
        ("55% – 60%", 57.5, ""),
        ("20 to 25", 22.5, ""),
        ("", None, ""),
        ("60-55", None, ""),
        ("~50", None, ""),
        ("1,5", 1.5, ""),
        ("<0,012", 0.012, "<"),
        ("55,5-60,5%", 58.0, ""),
        ("1,500", None, ""),
        ("1.000,5", None, ""),
        ("1,2,3", None, ""),
        ("5 ng/mL", None, ""),
        ("< 5-10", None, ""),
        ("1e999", None, ""),
        ("nan", None, ""),
        ("<", None, ""),
    ],
)
def test_values(text, number, bound):
    numbers, bounds, _ = parse_values(pd.Series([text]))
    np.testing.assert_array_equal(numbers, [np.nan if number is None else number])
    assert bounds.tolist() == [BOUNDS[bound]]


def test_times():
    texts = ["2150-03-01", "2150-03-01T10:00", "2150-03-01 10:00:00.5", "01/03/2150", "2150", "205003", "", None, "x"]
    found = clock_times(pd.Series(texts), None)
    wanted = ["2150-03-01 00:00", "2150-03-01 10:00", "2150-03-01 10:00:00.5"]
    pd.testing.assert_series_equal(found.iloc[:3], pd.Series(pd.to_datetime(wanted, format="ISO8601")))
    assert found.iloc[3:].isna().all()


def test_times_in_other_ways_that_cannot_be_misread():
    texts = ["26.09.2019 12:00", "2017/09/22", "20180220030000", "03/04/2019", "2150-03-01", "31.02.2019", "20190922"]
    wanted = [
        *("2019-09-26 12:00", "2017-09-22 00:00", "2018-02-20 03:00", None, "2150-03-01 00:00", None),
        "2019-09-22",
    ]
    wanted = pd.Series(pd.to_datetime(wanted, format="ISO8601"))
    pd.testing.assert_series_equal(clock_times(pd.Series(texts), None), wanted)


def test_times_of_a_format():
    texts = ["03/04/2019 10:30", "2019-04-03 10:30", ""]
    wanted = pd.Series([pd.Timestamp(2019, 4, 3, 10, 30), pd.NaT, pd.NaT])
    pd.testing.assert_series_equal(clock_times(pd.Series(texts), None, "%d/%m/%Y %H:%M"), wanted, check_dtype=False)
    zoned = pd.Series(["03/04/2019 10:30 +0200"])
    assert clock_times(zoned, "UTC", "%d/%m/%Y %H:%M %z").tolist() == [pd.Timestamp(2019, 4, 3, 8, 30)]


def test_times_with_a_timezone():
    texts = ["2150-07-01T10:00:00Z", "2150-01-01 10:00:00+05:00", "2150-07-01 10:00:00", "2150-07-01 10:00:00-0500"]
    wanted = pd.to_datetime(["2150-07-01 12:00", "2150-01-01 06:00", "2150-07-01 10:00", "2150-07-01 17:00"])
    aware = pd.Series(pd.to_datetime(texts[:1], utc=True))
    with pytest.raises(UserError, match="times have a timezone.*--timezone"):
        clock_times(pd.Series(texts), None)
    with pytest.raises(UserError, match="times have a timezone"):
        clock_times(aware, None)
    with pytest.raises(UserError, match="timezone 'Europe/Nowhere': not known"):
        clock_times(aware, "Europe/Nowhere")
    # until 2037 zones are tables; later their rules go on (Berlin: +1 h in winter, +2 h in summer)
    texts, wanted = [text.replace("2150", "2030") for text in texts], wanted.map(lambda time: time.replace(year=2030))
    np.testing.assert_array_equal(clock_times(pd.Series(texts), "Europe/Berlin"), wanted)
    assert clock_times(aware, "UTC").tolist() == [pd.Timestamp(2150, 7, 1, 10)]
