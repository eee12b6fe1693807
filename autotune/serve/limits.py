"""What a request may ask for, and the refusal of one that asks for more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse

MB = 10**6


@dataclass(frozen=True)
class Limits:
    """The limits of a server. n_bytes, n_pictures: of one request. n_pixels: of one picture.

    n_waiting_bytes, n_waiting_pictures: of all requests that are not answered yet. idle_seconds: without a byte of a
    body that is not complete. body_seconds: until a body is complete. stop_seconds: for the requests that are being
    answered when the server stops. Those of connections are in `protocol`.
    """

    n_bytes: int = 64 * MB
    n_pictures: int = 32
    n_pixels: int = 50_000_000
    n_waiting_bytes: int = 256 * MB
    n_waiting_pictures: int = 256
    idle_seconds: float = 10.0
    body_seconds: float = 120.0
    stop_seconds: int = 10


class RequestError(Exception):
    """A request that is not answered, and why. headers: of the response."""

    def __init__(self, status: int, problem: str, fix: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem)
        self.status, self.problem, self.fix, self.headers = status, problem, fix, dict(headers or {})

    def response(self) -> JSONResponse:
        return JSONResponse({"error": self.problem, "fix": self.fix}, self.status, self.headers)


def busy() -> RequestError:
    """Return the refusal of a request for which there is no room at the moment."""
    return RequestError(429, "Too many pictures are waiting.", "Try again in a second.", {"Retry-After": "1"})


def stopping() -> RequestError:
    """Return the refusal of a request that is not answered yet when the server has to stop."""
    return RequestError(503, "The server stops.", "Try again when it runs again.", {"Retry-After": "10"})


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """Answer a request with a refusal: an exception handler."""
    assert isinstance(error, RequestError)
    return error.response()
