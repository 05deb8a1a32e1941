"""Pages from templates: values are escaped, missing values are errors, and Python has no hidden HTML."""

import re
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
from markupsafe import Markup

import fairseq_signals_ext
from fairseq_signals_ext.common.errors import PlaceError
from fairseq_signals_ext.common.palette import PALETTE, css_variables
from fairseq_signals_ext.pages.rendering import render_page, source_of, write_page

PACKAGE = Path(fairseq_signals_ext.__file__).parent
HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}{% raw %}{# #}"


@pytest.fixture()
def shown(tmp_path):
    """The page of a template's text."""

    def show(text, **values):
        (tmp_path / "page.html.j2").write_text(text)
        return render_page("page.html.j2", tmp_path, **values)

    return show


def test_values_are_escaped_and_are_no_templates(shown):
    page = shown('<p title="{{ value }}">{{ value }}</p>{{ drawing }}', value=HOSTILE, drawing=Markup("<svg></svg>"))
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;{{ 7 * 7 }}{% raw %}{# #}"
    assert page == f'<p title="{escaped}">{escaped}</p><svg></svg>'


def test_invisible_characters_become_spaces(shown):
    assert shown("{{ value }}|{{ value|line }}", value="a\x00\u202eb\n\udc80c") == "a  b  c|a b c"
    assert len(shown("{{ value|line }}", value="x" * 1000)) == 400
    assert shown("{{ value }}", value=3) == "3"


def test_missing_values_are_errors(shown):
    with pytest.raises(jinja2.UndefinedError, match="'value' is undefined"):
        shown("{{ value }}")
    with pytest.raises(jinja2.TemplateNotFound, match="nosuch"):
        render_page("nosuch.html.j2")
    with pytest.raises(jinja2.TemplateNotFound):
        render_page("../rendering.py")


def test_style_sheets_and_scripts_are_no_templates(shown, tmp_path):
    (tmp_path / "own.js").write_text("const a = '{{ 7 * 7 }}' // <b>")
    assert shown("{{ source('own.js') }}") == "const a = '{{ 7 * 7 }}' // <b>" == source_of("own.js", tmp_path)


def test_a_bar_has_a_tick_where_there_is_a_threshold(shown):
    text = "{% from 'pieces.html.j2' import bar %}{{ bar(0.25) }}{{ bar(1, 0.5) }}"
    without, with_tick = ('<i style="width:25.0%"></i>', '<i style="width:100.0%"></i><b style="left:50.0%"></b>')
    start = '<span class="bar" aria-hidden="true">'
    assert shown(text) == f"{start}{without}</span>{start}{with_tick}</span>"


def test_pages_appear_whole_or_not_at_all(tmp_path):
    write_page(tmp_path / "new" / "page.html", "<p>é</p>")
    assert (tmp_path / "new" / "page.html").read_bytes() == "<p>é</p>".encode()
    (tmp_path / "file").write_text("")
    with pytest.raises(PlaceError, match="file"):
        write_page(tmp_path / "file" / "page.html", "")


def test_colours_have_one_place():
    """Style sheets name variables that there are, and modules take theirs from the palette."""
    assert css_variables()["error-paper"] == PALETTE.error_paper
    own = ["--tables-on-screen", "--tables-on-paper"]
    for path in (PACKAGE / "pages" / "templates").iterdir():
        text = path.read_text()
        assert not re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(", text), path.name
        assert {*re.findall(r"var\((--[\w-]+)\)", text)} <= {*own, *(f"--{name}" for name in css_variables())}
    # colours of categories are chosen to be distinguishable, and are defined by the plot
    free = {PACKAGE / "common" / "palette.py", PACKAGE / "analysis" / "map_drawing.py"}
    assert not [
        path for path in PACKAGE.rglob("*.py") if path not in free and re.search("#[0-9a-f]{6}", path.read_text())
    ]


@pytest.mark.parametrize("ink", ["ink", "muted", "mark_ink", "warning"])
@pytest.mark.parametrize("paper", ["paper", "note_paper", "good_paper", "error_paper", "focus_paper", "panel"])
def test_inks_can_be_read_on_papers(ink, paper):
    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = luminance(getattr(PALETTE, paper)), luminance(getattr(PALETTE, ink))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_the_package_is_importable_without_jinja2():
    """So that a bare installation shows every command's help."""
    code = (
        "import sys; sys.modules['jinja2'] = sys.modules['markupsafe'] = None\n"
        "import fairseq_signals_ext.pages.recording_report, fairseq_signals_ext.pages.verify_page\n"
        "from fairseq_signals_ext.pages.rendering import render_page\n"
        "try: render_page('verify.html.j2')\n"
        "except ModuleNotFoundError as error: print(error.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "jinja2\n"


def test_no_markup_is_written_in_python():
    # an end, as the beginnings are looked for in files, too
    tags = re.compile(r"</(a|b|div|dl|figure|h\d|html|i|li|p|script|section|span|style|t[dhr]|table|ul)>")
    assert not [path for path in PACKAGE.rglob("*.py") if tags.search(path.read_text())]
