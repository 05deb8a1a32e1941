"""Figures as files and parts of pages: the same bytes, distinct ids, one line for write errors."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from made_up import plain_recording

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.pages.ecg_paper import draw_ecg
from fairseq_signals_ext.pages.figures import save_figure, svg_text


def figure_of(seed=0):
    signal = np.random.default_rng(seed).normal(0, 0.3, (12, 400))
    return draw_ecg(plain_recording(signal, 200), np.abs(signal), title=f"number {seed}")


@pytest.mark.parametrize("suffix, beginning", [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".PDF", b"%PDF")])
def test_the_same_figure_gives_the_same_bytes(tmp_path, suffix, beginning):
    for name in "ab":
        save_figure(figure_of(), tmp_path / f"{name}{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first == second and first.startswith(beginning)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_and_a_part_of_a_page_are_the_same_drawing(tmp_path):
    figure = figure_of()
    save_figure(figure, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text() == '<?xml version="1.0" encoding="utf-8"?>\n' + svg_text(figure)


def test_several_can_stand_in_one_page():
    texts = [svg_text(figure_of(seed)) for seed in range(2)]
    ids = []
    for text in texts:
        root = ElementTree.fromstring(text)
        own = [element.get("id") for element in root.iter() if element.get("id")]
        ids += own
        used = re.findall(r'(?:href="|url\()#([^")]+)', text)
        assert used and set(used) <= set(own)
        (css,) = (element.text for element in root.iter("{http://www.w3.org/2000/svg}style"))
        assert css.startswith(f"#{root.get('id')} *"), "styles of the page stay as they are"
    assert len(ids) == len(set(ids))


def test_a_part_of_a_page_needs_nothing_else():
    text = svg_text(figure_of())
    assert text.startswith("<svg ") and text.rstrip().endswith("</svg>")
    assert "<!DOCTYPE" not in text and "<?xml" not in text
    assert set(re.findall(r"https?://[^\"<\s]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.svg.gz"])
def test_another_kind_of_file_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"give one of these suffixes$"):
        save_figure(figure_of(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    for suffix in ("svg", "png"):
        with pytest.raises(UserError, match="No such file or directory; give another place"):
            save_figure(figure_of(), tmp_path / "absent" / f"a.{suffix}")
