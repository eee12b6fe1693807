"""What a server counts, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from autotune.export.bundle import UNKNOWN
from autotune.export.predict import Prediction

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one server, beside those of its process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter("autotune_requests", "Answered requests.", ["path", "status"], registry=self._registry)
        self.seconds = Histogram(
            "autotune_predict_seconds", "Time to answer /predict.", buckets=SECONDS, registry=self._registry
        )
        self.batch = Histogram(
            "autotune_batch_pictures",
            "Pictures computed together.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        self.waiting = Gauge("autotune_waiting_pictures", "Pictures not answered yet.", registry=self._registry)
        self._pictures = Counter(
            "autotune_pictures", "Pictures: labelled, unknown or unreadable.", ["outcome"], registry=self._registry
        )

    def count(self, found: Prediction) -> None:
        outcome = "unreadable" if found.error is not None else "unknown" if found.label == UNKNOWN else "labelled"
        self._pictures.labels(outcome).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
