"""Pages from templates: each is one file that needs nothing else.

A template `NAME.html.j2` extends `base.html.j2`, which has the shared stylesheet and the colours of `palette`; pieces
such as the bar of a probability are macros in `pieces.html.j2`. Every value is escaped, and letters that cannot be seen
are taken out of it; an unknown name is an error. `docs/extending.md` has an example.
"""

import base64
import functools
import hashlib
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
    """A page of a template.

    Args:
        template: its name.
        templates: a folder of further templates, whose names go before ours; None: ours only.
        **values: that the template names; only `Markup` is not escaped.

    Raises:
        jinja2.TemplateError: there is no such template, or it names a value that is not given.
    """
    return _environment(templates).get_template(template).render(values)


def source_of(name: str, templates: Optional[Path] = None) -> str:
    """The text of a style sheet or script beside the templates, as it stands in a page."""
    environment = _environment(templates)
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def write_page(path: Path, page: str) -> None:
    """Write a page; it appears whole, with the folders above it.

    Raises:
        PlaceError: there is no such place, or no room.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlaceError(error.errno, error.strerror, str(path)) from error
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
    # style sheets and scripts are not templates, so no bracket in them means anything
    environment.globals["source"] = lambda name: Markup(source_of(name, templates))
    environment.globals["palette"] = css_variables()
    environment.filters["line"] = cleaned
    return environment


def _shown(value: Any) -> Any:
    """A value as it is escaped next, which markup is not."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


class DropPage(NamedTuple):
    """The page, and the policy under which it is sent.

    Attributes:
        html: the page.
        policy: value of the header Content-Security-Policy.
    """

    html: str
    policy: str


@functools.lru_cache(maxsize=None)
def drop_page(note: str, formats: str) -> DropPage:
    """The page; each is made once.

    Args:
        note: what one must know before one uses it.
        formats: of the files that one may drop, in words.
    """
    html = render_page("drop.html.j2", title="ECG to probabilities", note=note, formats=formats)
    return DropPage(html, _policy(source_of("drop.js")))


def _policy(script: str) -> str:
    """This script, requests to the service itself, and nothing else.

    A report in a tab of its own is under the same policy, and its drawing has styles in its elements, which hashes
    cannot name.
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
