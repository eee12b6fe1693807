"""HTTP connections: no more than the system has room for, and closed when their request does not arrive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

from uvicorn.protocols.http.h11_impl import H11Protocol

from autotune.serve.limits import busy

SECONDS, ANSWER_SECONDS = 10.0, 300.0
MOST_OPEN_FILES = 65_536
BACKLOG = 128  # connections that the system holds until they are accepted, all of them at once


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, which has a timeout between two requests, with one for a request that has begun.

    Closes the connection if the head of a request is not complete within `SECONDS` after its first byte (or after
    connecting), if bytes still arrive so long after the answer, and if the answer is not read within `ANSWER_SECONDS`.
    The body of a request has its own time, see `BoundedBodies`. One connection too many is refused at once: without a
    free file number, asyncio would not accept any more.
    """

    most_connections = 500
    _deadline: asyncio.TimerHandle | None = None
    _was_answering = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.write(_busy_reply())
            transport.close()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._deadline:
            self._deadline.cancel()

    def _watch(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self._deadline and is_answering == self._was_answering:
            return
        if self._deadline:
            self._deadline.cancel()
        self._was_answering = is_answering
        self._deadline = self.loop.call_later(ANSWER_SECONDS if is_answering else SECONDS, self.transport.abort)


def _busy_reply() -> bytes:
    refused = busy()
    body = json.dumps({"error": refused.problem, "fix": refused.fix})
    return (
        f"HTTP/1.1 {refused.status} Too Many Requests\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{body}"
    ).encode()


def protocol_with_room() -> type[ImpatientProtocol]:
    """Return the protocol, for half as many connections as this process may open files."""

    class Protocol(ImpatientProtocol):
        most_connections = _most_open_files() // 2

    return Protocol


def _most_open_files() -> int:
    """Raise the number of files that this process may open as far as the system allows, and return it."""
    if sys.platform == "win32":
        return 2 * ImpatientProtocol.most_connections
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a limit beside the hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_OPEN_FILES if soft == resource.RLIM_INFINITY else min(soft, MOST_OPEN_FILES)
