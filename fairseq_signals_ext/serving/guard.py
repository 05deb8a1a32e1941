"""Protect the service in browsers: only its own pages may use it.

A page of another site in the same browser can send requests to this machine. Its `Origin` shows it; a site that made
its own name point to this machine (DNS rebinding) is recognised by `Host`.
"""

import ipaddress
import socket
from typing import Any, MutableMapping, NamedTuple, Optional, Set
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_LOCAL = {"localhost", "127.0.0.1", "::1"}
# a browser can only display answers: no scripts, no frames
_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Hosts(NamedTuple):
    """Host names that requests may use.

    Attributes:
        names: in lower case.
        any_address: whether any IP address is accepted; DNS rebinding needs a name.
    """

    names: Set[str]
    any_address: bool


def is_local(host: str) -> bool:
    """Whether only this machine can reach a service on this host."""
    return host.lower() in _LOCAL or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def hosts_of(host: str) -> Hosts:
    """Host names for a service on this host."""
    names = {*_LOCAL, host.lower()}
    if not is_local(host):
        names.add(socket.gethostname().lower())
    return Hosts(names, not is_local(host))


class Guard:
    """Refuses other hosts with 400 and writing requests from other origins with 403, and sets safe headers.

    Args:
        app: the application to protect.
        hosts: of the service.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts):
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""

        async def send_safely(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send_safely)
        else:
            await refusal(scope, receive, send_safely)

    def _refusal(self, method: str, headers: Headers) -> Optional[JSONResponse]:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host):
            return JSONResponse({"error": "this service is not called so; use the address that it printed"}, 400)
        # a sandboxed page has the origin "null", which never matches
        if method not in ("GET", "HEAD") and origin is not None and origin.partition("://")[2].lower() != host.lower():
            return JSONResponse({"error": "pages of other sites may not use this service"}, 403)
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts.names or (self._hosts.any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
