"""Make pages from templates; each page is one self-contained file.

A template `NAME.html.j2` extends `base.html.j2`, which has the shared stylesheet and the colours of `palette`; parts
such as the bar of a probability are macros in `pieces.html.j2`. Every value is escaped, and invisible characters are
removed; an unknown name is an error. `docs/extending.md` has an example.
"""

import base64
import functools
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from fairseq_signals_ext.common.errors import PlaceError
from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.common.palette import css_variables
from fairseq_signals_ext.pages.figures import cleaned, visible

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).with_name("templates")


def render_page(template: str, templates: Optional[Path] = None, **values: Any) -> str:
    """Render a template as a page.

    Args:
        template: its name.
        templates: a folder of further templates, searched before ours; None: only ours.
        **values: values for the template; only `Markup` is not escaped.

    Raises:
        jinja2.TemplateError: there is no such template, or it uses a value that is not given.
    """
    return _environment(templates).get_template(template).render(values)


def source_of(name: str, templates: Optional[Path] = None) -> str:
    """The text of a style sheet or script beside the templates, as included in pages."""
    environment = _environment(templates)
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def write_page(path: Path, page: str) -> None:
    """Write a page and make its folders; the file appears complete or not at all.

    Raises:
        PlaceError: the file cannot be written there, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlaceError(error.errno, error.strerror, os.fsdecode(error.filename or path)) from error
    with atomic(path) as temporary:
        temporary.write_bytes(page.encode())


@functools.lru_cache(maxsize=8)
def _environment(templates: Optional[Path]) -> "Environment":
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folders = [folder for folder in (templates, _TEMPLATES) if folder is not None]
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # style sheets and scripts are not templates, so their brackets have no special meaning
    environment.globals["source"] = lambda name: Markup(source_of(name, templates))
    environment.globals["palette"] = css_variables()
    environment.filters["line"] = cleaned
    return environment


def _shown(value: Any) -> Any:
    """A value without invisible characters, ready to be escaped; markup is unchanged."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


class DropPage(NamedTuple):
    """The drop page, and its Content-Security-Policy.

    Attributes:
        html: the page.
        policy: value of the header Content-Security-Policy.
    """

    html: str
    policy: str


@functools.lru_cache(maxsize=None)
def drop_page(note: str, formats: str) -> DropPage:
    """Make the drop page; equal arguments give the cached page.

    Args:
        note: a warning for users.
        formats: text about the accepted file formats.
    """
    html = render_page("drop.html.j2", title="ECG to probabilities", note=note, formats=formats)
    return DropPage(html, _policy(source_of("drop.js")))


def _policy(script: str) -> str:
    """A policy that allows this script, requests to the service itself, and nothing else.

    It also applies to a report in a new tab; styles in elements of its drawing cannot be allowed by hashes.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return "; ".join(
        (
            "default-src 'none'",
            "style-src 'unsafe-inline'",
            f"script-src 'sha256-{digest}'",
            "connect-src 'self'",
            "img-src data:",
            *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        )
    )
