"""Count every request, and add headers that keep a browser to this server."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autotune.serve.limits import stopping
from autotune.serve.metrics import Metrics

SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# Swagger's page has a script and styles in its HTML.
SAFE_DOCS = {**SAFE, "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' data:"}


class Watch:
    """ASGI middleware. paths: counted one by one, all others together. docs: the path of Swagger's page."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str], docs: str) -> None:
        self._app, self._metrics, self._paths, self._docs = app, metrics, frozenset(paths), docs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, has_started = scope["path"], False

        async def watched(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                MutableHeaders(scope=message).update(SAFE_DOCS if path == self._docs else SAFE)
                self._metrics.requests.labels(path if path in self._paths else "other", message["status"]).inc()
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:  # the time for requests that are being answered is over
            if not has_started:
                await stopping().response()(scope, receive, watched)
