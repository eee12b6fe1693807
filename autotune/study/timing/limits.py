"""Time limits that are kept even if a task does not stop by itself: its worker is killed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from autotune.engines.base import Engine
from autotune.errors import StudyError

GRACE = 10.0  # seconds after its limit within which a task has to stop by itself
SECONDS_OVER = 8.0  # that reading, planning, the probes and the refit may take after the deadline
CHECKED_EVERY = 1.0  # seconds
TOO_SHORT = "The time limit left no time for a trial.", "Allow more time with --timeout; finished work is not repeated."


class TimeLimits:
    """The limits of the tasks on an engine. deadline: of the study, on time.monotonic's clock. most: seconds a task.

    At its limit, a task stops within a batch. One that does not, like a plugin that never returns, is killed after
    GRACE. kept_back: the seconds before the deadline at which tasks stop, for the work that follows them.
    """

    def __init__(self, engine: Engine, deadline: float | None, most: float | None) -> None:
        self.kept_back = 0.0
        self._engine = engine
        self._deadline = deadline
        self._most = most

    def with_grace(self) -> TimeLimits:
        """Return limits that are a little longer: without its probes or the refit, a search has no model to show."""
        deadline = None if self._deadline is None else max(self._deadline, time.monotonic()) + SECONDS_OVER
        return TimeLimits(self._engine, deadline, self._most)

    def without_deadline(self) -> TimeLimits:
        """Return the limits of work that takes seconds and that the final model cannot do without."""
        return TimeLimits(self._engine, None, self._most)

    @property
    def until_deadline(self) -> float | None:
        """Seconds until the study has to end; None without a deadline, negative after it."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    @property
    def left(self) -> float | None:
        """Seconds that tasks may still take; None without a deadline."""
        time_left = self.until_deadline
        return None if time_left is None else time_left - self.kept_back

    @property
    def is_late(self) -> bool:
        """Whether no task may run any longer."""
        left = self.left
        return left is not None and left < 0

    @property
    def seconds(self) -> float | None:
        """The seconds to wait for events before the limits are checked again; None without limits."""
        return None if self._deadline is None and self._most is None else CHECKED_EVERY

    def enforce(self) -> None:
        """Kill the workers of tasks that exceed a limit."""
        left = self.left
        for place in self._engine.working:
            if self._most is not None and (place.seconds or 0.0) > self._most:
                place.kill(f"it took longer than {self._most:.0f} s")
            elif left is not None and left < -GRACE:
                place.kill("it did not stop at the time limit of the study")


class TimeIsUpError(Exception):
    """The deadline of a study has passed. No TimeoutError, because code that handles an OSError would swallow it."""


@contextmanager
def alarm(deadline: float | None) -> Iterator[None]:
    """Raise TimeIsUpError in this context at the deadline, in the code that runs then: a plugin may never return.

    Only in the main thread, and not on Windows, which has no such signal. Raises StudyError if it was no plugin.
    """
    if deadline is None or not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> NoReturn:
        raise TimeIsUpError("the time limit of the study was reached")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0) + SECONDS_OVER)
    try:
        yield
    except TimeIsUpError as error:
        raise StudyError(*TOO_SHORT) from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
