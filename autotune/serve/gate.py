"""Access: the right host, no page of another site, and the token where there is one."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from autotune.serve.limits import RequestError

# Need no token: the page asks for it, and the API's description says nothing about the study.
OPEN = ("/", "/health", "/openapi.json", "/docs")
OPEN_FOLDERS = ("/page/", "/docs/", "/docs-files/")


class Gate:
    """ASGI middleware that refuses requests. hosts: names that the server answers to, None for any.

    A browser sends the name by which a page has reached the server (Host), and the site of the page that asks (Origin).
    Both are checked: a page of a stranger could otherwise reach a server that only this machine can reach.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, token: str | None) -> None:
        self._app, self._hosts, self._token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope["path"], Headers(scope=scope)) if scope["type"] == "http" else None
        await (refusal.response() if refusal else self._app)(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> RequestError | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts is not None and _hostname(host) not in self._hosts:
            return RequestError(
                400, "The request is for another host.", f"Use one of these names: {', '.join(sorted(self._hosts))}."
            )
        if origin is not None and _netloc(origin) != host.lower():
            return RequestError(403, "The request comes from a page of another site.", "Use the page of this server.")
        if self._token is not None and not _is_open(path) and not self._has_token(headers):
            return RequestError(
                401,
                "The token is missing or wrong.",
                "Send it as a header, Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )
        return None

    def _has_token(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        assert self._token is not None
        return kind.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), self._token.encode())


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_FOLDERS)


def _netloc(origin: str) -> str | None:
    """Return HOST:PORT of an origin, lower case; None if it is malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _hostname(netloc: str) -> str:
    """Return the host of HOST:PORT, lower case; "" if it is malformed."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""
