"""The page on which one drops ECG files: one answer, with style and script inside it, and nothing from elsewhere."""

import base64
import functools
import hashlib
from typing import NamedTuple

from fairseq_signals_ext.pages.rendering import render_page, source_of


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
