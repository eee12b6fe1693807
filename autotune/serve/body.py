"""The body of a request: at most so many bytes, within a time, and the pictures in it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import PureWindowsPath

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autotune.serve.limits import MB, Limits, RequestError, busy

FIELD = "file"  # of a multipart form
UNNAMED = "picture"  # sent as the body itself


class BoundedBodies:
    """ASGI middleware that raises a RequestError where the body of a request is read: too long, too slow, or too much
    for all requests together.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._waiting_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received, limits = 0, self._limits
        end = asyncio.get_running_loop().time() + limits.body_seconds
        declared = dict(scope["headers"]).get(b"content-length", b"")
        is_complete = False

        async def bounded() -> Message:
            nonlocal received, is_complete
            if is_complete:  # waits for the client to leave
                return await receive()
            if declared.isdigit() and int(declared) > limits.n_bytes:
                raise _too_long(limits)
            message = await _received_in_time(receive, end, limits.idle_seconds)
            n_bytes = len(message.get("body", b""))
            received, self._waiting_bytes = received + n_bytes, self._waiting_bytes + n_bytes
            if received > limits.n_bytes:
                raise _too_long(limits)
            if self._waiting_bytes > limits.n_waiting_bytes:
                raise busy()
            is_complete = not message.get("more_body", False)
            return message

        try:
            await self._app(scope, bounded, send)
        finally:
            self._waiting_bytes -= received


async def _received_in_time(receive: Receive, end: float, idle_seconds: float) -> Message:
    now = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(min(end, now + idle_seconds)):
            return await receive()
    except TimeoutError as error:
        raise RequestError(408, "The request did not arrive in time.", "Send it again, or smaller pictures.") from error


def _too_long(limits: Limits) -> RequestError:
    return RequestError(
        413,
        f"The request has more than {limits.n_bytes // MB} MB.",
        "Send fewer pictures in one request, or smaller ones.",
    )


async def read_pictures(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """Return the names and contents of the pictures in a request: a multipart form, or else the body itself.

    Raises RequestError for a form without pictures or with too many, and for an empty or damaged body.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data":
        pictures = await _pictures_of_form(request, limits)
    else:
        content = await request.body()
        pictures = [(UNNAMED, content)] if content else []
    if not pictures:
        raise RequestError(
            400, "The request has no picture, or is cut off.", f"Send it as the body, or as field {FIELD!r} of a form."
        )
    return pictures


async def _pictures_of_form(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    try:
        async with request.form(max_files=limits.n_pictures, max_fields=limits.n_pictures) as form:
            return [(_name(file.filename), await file.read()) for file in _files(form)]
    except HTTPException as error:
        if "Too many files" in error.detail:
            raise RequestError(
                413,
                f"The request has more than {limits.n_pictures} pictures.",
                "Send the others in further requests.",
            ) from error
        raise RequestError(
            400, f"The form cannot be read: {error.detail.rstrip('.')}.", "Send it as multipart/form-data."
        ) from error


def _files(form: FormData) -> Sequence[UploadFile]:
    return [value for value in form.getlist(FIELD) if isinstance(value, UploadFile)]


def _name(given: str | None) -> str:
    """Return the file name without its folders, by the separators of any system."""
    name = PureWindowsPath(given or "").name.encode("utf-8", "replace").decode()  # no half of a surrogate pair
    return name or UNNAMED
