"""Connections that hold little: bounded in number, closed where nothing comes or goes, parsed a little at a time."""

import contextlib
from typing import Any, List, Optional

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

# s, for the line and headers of a request to come whole, and for an answer to be taken
_HEADER_SECONDS, _ANSWER_SECONDS = 10.0, 60.0
# connections, and files that there has to be room for beside them
_MOST, _FILES = 2000, 300
# bytes that are parsed before it is the turn of others
_AT_A_TIME = 16_384
# of a body in more than so many chunks, the bytes that each must have in the mean: parsing one takes as long as one of
# thousands of bytes
_MANY_CHUNKS, _CHUNK_BYTES = 1000, 256


class Connection(H11Protocol):
    """uvicorn's, which has a limit for neither of these."""

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
        """Take a connection, in place of the one that has been idle longest if there are too many."""
        super().connection_made(transport)
        transport.max_size = _AT_A_TIME
        self._await_headers()
        if len(self.connections) > self.most:
            idle = [one for one in self.connections if isinstance(one, Connection) and one.is_idle]
            min(idle, key=lambda one: one._began).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take data; headers have to be whole in time."""
        super().data_received(data)
        if self.is_idle:
            self._await_headers()
        else:
            self._deadline = None

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, and for the answer to be taken."""
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
    """uvicorn's, which tells the service when it begins and when it ends.

    Args:
        config: of uvicorn.
        service: a `serving.app.Service`.
    """

    def __init__(self, config: uvicorn.Config, service: Any):
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: Optional[List[Any]] = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._service.warm()

    async def shutdown(self, sockets: Optional[List[Any]] = None) -> None:
        """Answer what is in work, as far as that is soon done, and end."""
        self._service.end()
        await super().shutdown(sockets)


def allow_many_connections() -> None:
    """Let this process have as many as it may, and leave room for uploads."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MOST + _FILES if hard == resource.RLIM_INFINITY else min(_MOST + _FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        if soft != resource.RLIM_INFINITY:
            Connection.most = min(_MOST, max(soft - _FILES, soft // 2))
