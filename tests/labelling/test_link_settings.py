"""Settings of linking, and YAML files of them."""

import re

import pytest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.link_settings import LinkSettings, read_link_settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": ("7d", "-7d")}, "window 7d -7d: it ends before it begins"),
        ({"window": ("7d",)}, "window 7d: give two times"),
        ({"window": ("-7", "7d")}, "window '-7': give a number with s, min, h, d or w"),
        ({"window": ("-7y", "7d")}, "window '-7y'"),
        ({"window": ("-999999d", "7d")}, "longer than 1000 years"),
        ({"choose": "any"}, "choose 'any': give one of nearest, first, last, max, min"),
        ({"thresholds": ()}, "linking needs thresholds"),
        ({"regression": True}, "linking needs thresholds"),
        ({"thresholds": ("40",)}, "threshold '40': give a relation"),
        ({"thresholds": ("<= inf",)}, "its limit is not finite"),
        ({"label_names": ("a", "b")}, "2 label names for 1 label(s)"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        LinkSettings(**{"thresholds": ("<= 40",), **options})


def test_config_with_options_on_top(tmp_path):
    config = tmp_path / "link.yaml"
    config.write_text("value_column: lvef\nwindow: [-1d, 0]\nthresholds: ['<= 40', '<= 30']\nlabel_names: [a, b]\n")
    settings = read_link_settings(config, {"choose": "last"})
    assert (settings.value_column, settings.choose, settings.names) == ("lvef", "last", ["a", "b"])
    assert settings.offsets == (-86400 * 10**6, 0)
    assert read_link_settings(config, {"thresholds": ("<= 35",)}).names == ["lvef_le_35"]
    assert read_link_settings(config, {"regression": True}).names == ["lvef"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("windows: [-1d, 0]", "line 1: unknown key 'windows'; known are patient_column, "),
        ("choose: first\nwindow: {from: 1}", "line 2: give a text"),
        ("filter: [itemid]", "line 1: give keys and values"),
        ("filter:\n  itemid:\n  - [1]", "line 3: give a text"),
        ("filter:", "line 1: filter: give a column and its values"),
        ("value_column:", "line 1: value_column: give a text"),
        ("regression: true\nkeep_value: 1", "line 2: keep_value: '1'; give one of true, false"),
        ("thresholds: []", "line 1: give a text or a list of texts"),
        ("choose: first\nchoose: last", "line 2: 'choose' appears twice"),
        ("- a", "give keys and values"),
        ("", "give keys and values"),
        ("a: [", "cannot be read as YAML"),
        ("value_column: !!python/name:os.system ''", "line 1: value_column: give a text"),
        ("choose: any\nthresholds: ['< 1']", "choose 'any'"),
    ],
)
def test_bad_config(tmp_path, text, message):
    config = tmp_path / "link.yaml"
    config.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_link_settings(config, {})
    assert str(error.value).startswith(f"{config}: ") and "\n" not in str(error.value)
