"""The addresses of a server: the page, /predict, /model, /health, /metrics and /docs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection
from importlib.metadata import version
from time import perf_counter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from autotune.export.predict import Classifier, Prediction
from autotune.export.web import PAGE
from autotune.serve.batches import Batches
from autotune.serve.body import FIELD, BoundedBodies, read_pictures
from autotune.serve.gate import Gate
from autotune.serve.limits import Limits, RequestError, refuse
from autotune.serve.metrics import Metrics
from autotune.serve.watch import Watch

DOCS, DOCS_FILES = "/docs", "/docs-files"
PATHS = ("/", "/predict", "/model", "/health", "/metrics", DOCS, "/openapi.json")


class Label(BaseModel):
    label: str
    probability: float


class Answer(BaseModel):
    """The answer for one picture. label: "unknown" below the threshold, or if the distance is more than 1. top: the
    likeliest labels. distance: null if the model does not measure it.

    error: why the picture could not be read; label, probability and top are then null or empty.
    """

    name: str
    label: str | None
    probability: float | None
    distance: float | None
    top: list[Label]
    milliseconds: float
    error: str | None


class Answers(BaseModel):
    predictions: list[Answer]


class Problem(BaseModel):
    error: str
    fix: str


class Model(BaseModel):
    """What is served. pixels: side of the network's input. limits: of one request, and of the pixels of one picture."""

    study: str
    labels: list[str]
    threshold: float
    pixels: int
    limits: dict[str, int]


def create_app(model: Classifier, hosts: Collection[str] | None, token: str | None, limits: Limits) -> ASGIApp:
    """Return the ASGI application. hosts, token: as for `Gate`."""
    metrics = Metrics()
    batches = Batches(model, limits, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with batches.running():
            yield

    app = FastAPIOffline(
        DOCS,
        None,
        title="autotune",
        version=version("autotune-vision"),
        lifespan=lifespan,
        static_url=DOCS_FILES,
        favicon_url="/page/icon.svg",
    )
    _add_page(app)
    protected = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))] if token else [])  # told in /docs
    _add_model(protected, model, limits)
    _add_predict(protected, batches, limits, metrics)
    _add_metrics(protected, metrics)
    app.include_router(protected)
    _answer_errors(app)
    app.add_middleware(BoundedBodies, limits=limits)
    app.add_middleware(Gate, hosts=hosts, token=token)
    return Watch(app, metrics, PATHS, DOCS)  # outside of all, so that it also sees the answer to a bug


def _add_page(app: FastAPI) -> None:
    @app.get("/page/source.js", include_in_schema=False)
    async def source() -> FileResponse:
        return FileResponse(PAGE / "server.js", media_type="text/javascript")

    app.mount("/page", StaticFiles(directory=PAGE), name="page")

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}


def _add_model(app: APIRouter, model: Classifier, limits: Limits) -> None:
    @app.head("/model", include_in_schema=False)
    @app.get("/model")
    async def describe() -> Model:
        """What is served: labels, threshold and limits."""
        most = {"bytes": limits.n_bytes, "pictures": limits.n_pictures, "pixels": limits.n_pixels}
        return Model(
            study=model.study, labels=list(model.labels), threshold=model.threshold, pixels=model.pixels, limits=most
        )


def _add_predict(app: APIRouter, batches: Batches, limits: Limits, metrics: Metrics) -> None:
    picture = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: {"type": "array", "items": picture}}}
    bodies = {"multipart/form-data": {"schema": form}, "application/octet-stream": {"schema": picture}}
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (400, 401, 403, 408, 413, 429, 500)
    }

    @app.post(
        "/predict",
        response_model=Answers,
        responses={422: {"model": Answers}, **problems},
        openapi_extra={"requestBody": {"required": True, "content": bodies}},
    )
    async def predict(request: Request, top: Annotated[int, Query(ge=1)] = 5) -> JSONResponse:
        """Predict the labels of one or several pictures, sent as field `file` of a form, or one as the body itself.

        422 if none of them can be read; the answers then say why.
        """
        start = perf_counter()
        pictures = await read_pictures(request, limits)
        found = await batches.predict(pictures, top)
        metrics.seconds.observe(perf_counter() - start)
        is_readable = any(one.error is None for one, _ in found)
        return JSONResponse({"predictions": [_answer(*one) for one in found]}, 200 if is_readable else 422)


def _answer(found: Prediction, milliseconds: float) -> dict[str, Any]:
    """Return an Answer as JSON."""
    return {
        "name": found.path,
        "label": found.label,
        "probability": found.probability,
        "distance": found.distance,
        "top": [{"label": label, "probability": probability} for label, probability in found.top],
        "milliseconds": round(milliseconds, 1),
        "error": found.error,
    }


def _add_metrics(app: APIRouter, metrics: Metrics) -> None:
    @app.get("/metrics")
    async def show_metrics() -> Response:
        """Counts and times for Prometheus."""
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _answer_errors(app: FastAPI) -> None:
    """Answer each error with a problem and a fix."""
    app.add_exception_handler(RequestError, refuse)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it; nginx's number for the log

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return RequestError(400, f"{first['loc'][-1]}: {first['msg']}.", f"See {DOCS}.").response()

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSONResponse:
        what = f"{request.method} {request.url.path}"
        return RequestError(error.status_code, f"{what}: {error.detail}.", f"See {DOCS}.", error.headers).response()

    @app.exception_handler(Exception)  # a bug, whose traceback goes to the log
    async def bug(request: Request, error: Exception) -> JSONResponse:
        return RequestError(500, "The server failed on this request.", "Its log has the reason.").response()
