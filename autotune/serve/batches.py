"""Compute together what arrives together: pictures are decoded in parallel and wait for the network in one queue."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from autotune.export.predict import BATCH, Classifier, Prediction, read_square
from autotune.formats.onnx_session import Output
from autotune.serve.limits import Limits, busy
from autotune.serve.metrics import Metrics

MOST_DECODERS = 4  # threads: a picture of 25 megapixels takes up to 400 MB while it is decoded


class Batches:
    """A model that is asked by several requests at once. Use `running` as its lifespan."""

    def __init__(self, model: Classifier, limits: Limits, metrics: Metrics) -> None:
        self._model, self._limits, self._metrics = model, limits, metrics
        self._decoders = ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_DECODERS), "decode")
        self._network = ThreadPoolExecutor(1, "network")
        self._squares: asyncio.Queue[tuple[NDArray[np.uint8], asyncio.Future[Output]]] = asyncio.Queue()
        self._n_waiting = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        worker = asyncio.create_task(self._compute_forever())
        try:
            yield
        finally:
            worker.cancel()
            for pool in (self._decoders, self._network):
                pool.shutdown(wait=False, cancel_futures=True)  # a decoder may take minutes

    async def predict(self, pictures: Sequence[tuple[str, bytes]], top: int) -> list[tuple[Prediction, float]]:
        """Predict pictures (name, content), in order, each with its milliseconds. An unreadable one has `error`.

        Raises RequestError if too many pictures are waiting.
        """
        if self._n_waiting + len(pictures) > self._limits.n_waiting_pictures:
            raise busy()
        self._count(len(pictures))
        try:
            return await asyncio.gather(*(self._predict(name, content, top) for name, content in pictures))
        finally:
            self._count(-len(pictures))

    def _count(self, n: int) -> None:
        self._n_waiting += n
        self._metrics.waiting.set(self._n_waiting)

    async def _predict(self, name: str, content: bytes, top: int) -> tuple[Prediction, float]:
        start, loop = perf_counter(), asyncio.get_running_loop()
        square = await loop.run_in_executor(self._decoders, read_square, self._model, content, self._limits.n_pixels)
        if isinstance(square, str):
            found = Prediction(name, None, None, (), square)
        else:
            row: asyncio.Future[Output] = loop.create_future()
            self._squares.put_nowait((square, row))
            found = self._model.answer(name, await row, top)
        self._metrics.count(found)
        return found, 1000 * (perf_counter() - start)

    async def _compute_forever(self) -> None:
        while True:
            batch = [await self._squares.get()]
            while len(batch) < BATCH and not self._squares.empty():
                batch.append(self._squares.get_nowait())
            await self._compute([(square, row) for square, row in batch if not row.done()])  # done: cancelled

    async def _compute(self, batch: Sequence[tuple[NDArray[np.uint8], asyncio.Future[Output]]]) -> None:
        if not batch:
            return
        self._metrics.batch.observe(len(batch))
        loop = asyncio.get_running_loop()
        try:
            pixels = np.stack([square for square, _ in batch])
            found = await loop.run_in_executor(self._network, self._model.run, pixels)
        except Exception as error:  # of any runtime: those who wait are told, and the next batch is computed
            for _, row in batch:
                if not row.done():
                    row.set_exception(error)
            return
        for (_, row), output in zip(batch, found.rows(), strict=True):
            if not row.done():
                row.set_result(output)
