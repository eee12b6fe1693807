"""Time limits that are kept even if a task does not answer: its worker is killed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from autotune.engines.base import Engine
from autotune.errors import StudyError

GRACE = 60.0  # seconds that a task may work on after the study's deadline, at least
SECONDS_TO_PLAN = 10.0  # that a study may use before its first trial, even if its time limit is shorter
CHECKED_EVERY = 1.0  # seconds


class TimeLimits:
    """The limits of the tasks on an engine. deadline: of the study, on time.monotonic's clock. most: seconds a task.

    At the deadline, a task stops at the end of its epoch. One that does not, like a plugin that never returns, is
    killed after GRACE, or after twice its longest time between two reports if that is longer.
    """

    def __init__(self, engine: Engine, deadline: float | None, most: float | None) -> None:
        self._engine = engine
        self._deadline = deadline
        self._most = most

    def for_probes(self) -> TimeLimits:
        """Return the limits of probes. They also run after the deadline: without them, there is no trial."""
        left = None if self._deadline is None else max(self._deadline - time.monotonic(), 0) + GRACE
        return TimeLimits(self._engine, None, min((one for one in (self._most, left) if one is not None), default=None))

    def for_soup(self) -> TimeLimits:
        """Return the limits of averaging networks, which also runs after the deadline: it takes seconds."""
        return TimeLimits(self._engine, None, self._most)

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return self._deadline is not None and time.monotonic() > self._deadline

    @property
    def seconds(self) -> float | None:
        """The seconds to wait for events before the limits are checked again; None without limits."""
        return None if self._deadline is None and self._most is None else CHECKED_EVERY

    def enforce(self) -> None:
        """Kill the workers of tasks that exceed a limit."""
        for place in self._engine.working:
            timing = place.timing
            if timing and self._most is not None and timing.total > self._most:
                place.kill(f"it took longer than {self._most:.0f} s")
            elif timing and self._deadline is not None:
                over = time.monotonic() - self._deadline
                if over > max(GRACE, 2 * timing.longest):
                    place.kill("it did not stop at the time limit of the study")


@contextmanager
def alarm(deadline: float | None) -> Iterator[None]:
    """Raise TimeoutError in this context at the deadline, in the code that runs then: a plugin may never return.

    Only in the main thread, and not on Windows, which has no such signal. Raises StudyError if it was no plugin.
    """
    if deadline is None or not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> NoReturn:
        raise TimeoutError("the time limit of the study was reached")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0) + SECONDS_TO_PLAN)
    try:
        yield
    except TimeoutError as error:
        raise StudyError("The time limit left no time for a trial.", "Allow more time with --timeout.") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
