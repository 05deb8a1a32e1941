"""Limits for bodies of requests to any path: size, time, and no unread rest on the connection."""

import asyncio
import contextlib
import time
from typing import Any, MutableMapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairseq_signals_ext.serving.limits import Limits, UploadError

# a body that is too large is read and discarded up to this multiple of the limit, and for this many s: a client that
# is still sending does not read the answer
_READ, _SECONDS = 4, 5.0


class Bodies:
    """Refuses bodies that are too large (413) or too slow (408), and closes the connection if more data follows.

    Args:
        app: the application to protect.
        limits: of requests.
    """

    def __init__(self, app: ASGIApp, limits: Limits):
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, Headers(scope=scope), self._limits)

        async def send_after_body(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and not await body.is_drained():
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self._app(scope, body.receive, send_after_body)


class _Body:
    """The body of a request."""

    def __init__(self, receive: Receive, headers: Headers, limits: Limits):
        self._receive = receive
        self._limits = limits
        announced = headers.get("content-length", "")[:20]
        self._announced = int(announced) if announced.isascii() and announced.isdigit() else 0
        # a request without an announced body is complete
        self._is_drained = not self._announced and "transfer-encoding" not in headers
        self._is_over = self._is_late = False
        self._bytes = 0
        # time taken by the sender, without the time that it waited for the service; and both at the last check
        self._seconds = 0.0
        self._looked = (0.0, 0)

    async def receive(self) -> Message:
        """Receive the next piece.

        Raises:
            UploadError: the body is too large or too slow.
        """
        limit = self._limits.upload_bytes
        if self._announced <= limit:
            message = await self._next()
        if max(self._bytes, self._announced) > limit:
            raise UploadError(f"upload: has more than {limit / 1e6:g} MB, the limit here; send a shorter ECG", 413)
        return message

    async def is_drained(self) -> bool:
        """Read and discard the rest of the body for a short time; returns whether it is complete."""
        # a service that ends answers without waiting for it
        with contextlib.suppress(asyncio.TimeoutError, asyncio.CancelledError, UploadError):
            if not self._is_drained and not self._is_late:
                await asyncio.wait_for(self._drain(), _SECONDS)
        return self._is_drained

    async def _drain(self) -> None:
        while not self._is_drained and self._bytes < _READ * self._limits.upload_bytes:
            await self._next()

    async def _next(self) -> Message:
        if self._is_over:
            return await self._receive()
        limits, began = self._limits, time.monotonic()
        left = limits.upload_seconds - self._seconds
        try:
            message = await asyncio.wait_for(self._receive(), max(0, min(left, limits.idle_seconds)))
        except asyncio.TimeoutError:
            raise self._late(left <= limits.idle_seconds) from None
        self._seconds += time.monotonic() - began
        self._bytes += len(message.get("body", b""))
        self._is_drained = self._is_over = not message.get("more_body", False)
        self._check_rate()
        return message

    def _check_rate(self) -> None:
        seconds, size = self._looked
        if not self._is_over and self._seconds - seconds > self._limits.idle_seconds:
            if self._bytes - size < self._limits.slowest * (self._seconds - seconds):
                raise self._late(False)
            self._looked = (self._seconds, self._bytes)

    def _late(self, is_over: bool) -> UploadError:
        self._is_late = True
        if is_over:
            return UploadError(f"upload: took more than {self._limits.upload_seconds:g} s; send it again", 408)
        return UploadError(f"upload: nearly nothing came for {self._limits.idle_seconds:g} s; send it again", 408)
