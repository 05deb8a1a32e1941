"""Limits for connections: their number, their idle time, and the bytes parsed at a time."""

import contextlib
from typing import Any, List, Optional

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

# s, until the line and headers of a request are complete, and until the client has read the answer
_HEADER_SECONDS, _ANSWER_SECONDS = 10.0, 60.0
# largest number of connections, and file descriptors to keep for other files
_MOST, _FILES = 2000, 300
# bytes that are parsed before other connections get their turn
_AT_A_TIME = 16_384
# a body with more chunks than this must have this many bytes per chunk on average: parsing a tiny chunk takes as long
# as parsing one of thousands of bytes
_MANY_CHUNKS, _CHUNK_BYTES = 1000, 256


class Connection(H11Protocol):
    """uvicorn's connection with these limits."""

    most = _MOST

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._began = self.loop.time()
        self._deadline: Optional[float] = None
        self._chunks = self._chunk_bytes = 0
        self._parsed_event = self.conn.next_event
        self.conn.next_event = self._next_event  # type: ignore[method-assign]

    @property
    def is_idle(self) -> bool:
        """Whether no request is in work."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Accept a connection; if there are too many, close the one that has been idle longest."""
        super().connection_made(transport)
        transport.max_size = _AT_A_TIME
        self._await_headers()
        if len(self.connections) > self.most:
            idle = [one for one in self.connections if isinstance(one, Connection) and one.is_idle]
            min(idle, key=lambda one: one._began).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Receive data; headers must be complete in time."""
        super().data_received(data)
        if self.is_idle:
            self._await_headers()
        else:
            self._deadline = None

    def on_response_complete(self) -> None:
        """Wait for the next request, and for the client to read the answer."""
        self._began = self.loop.time()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(_ANSWER_SECONDS, self._end_if_not_taken, self._began)
        super().on_response_complete()

    def _end_if_not_taken(self, answered: float) -> None:
        if answered == self._began and self.transport.get_write_buffer_size():
            self.transport.abort()

    def _await_headers(self) -> None:
        if not self.transport.is_closing():
            now = self.loop.time()
            self._deadline = self._deadline or now + _HEADER_SECONDS
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self._deadline - now, self.timeout_keep_alive_handler)

    def _next_event(self) -> Any:
        event = self._parsed_event()
        if isinstance(event, h11.Request):
            self._chunks = self._chunk_bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += 1
            self._chunk_bytes += len(event.data)
            if self._chunks > _MANY_CHUNKS and self._chunk_bytes < _CHUNK_BYTES * self._chunks:
                raise h11.RemoteProtocolError("chunks are too small")
        return event


class Server(uvicorn.Server):
    """uvicorn's server, which starts and ends the service.

    Args:
        config: configuration of uvicorn.
        service: a `serving.app.Service`.
    """

    def __init__(self, config: uvicorn.Config, service: Any):
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: Optional[List[Any]] = None) -> None:
        """Start to answer requests."""
        await super().startup(sockets)
        self._service.warm()

    async def shutdown(self, sockets: Optional[List[Any]] = None) -> None:
        """Finish requests in work if that is soon possible, and end."""
        self._service.end()
        await super().shutdown(sockets)


def allow_many_connections() -> None:
    """Raise this process's limit of open files, for connections and uploads."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MOST + _FILES if hard == resource.RLIM_INFINITY else min(_MOST + _FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        if soft != resource.RLIM_INFINITY:
            Connection.most = min(_MOST, max(soft - _FILES, soft // 2))
