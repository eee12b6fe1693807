"""The process of a tracker: gets events from the search, which never waits for it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

from autotune.text import first_line
from autotune.trackers.base import EpochEnded, StudyBegun, StudyEnded, Tracker, TrialBegun, TrialEnded


def run(name: str, events: Connection, log: Path) -> None:
    """Pass events to a tracker until the study has ended, then send "" back, or else the reason why it failed.

    log: file for what the tracker prints.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the search, which then ends the study
    with log.open("a", encoding="utf-8") as out:
        os.dup2(out.fileno(), sys.stdout.fileno())
        os.dup2(out.fileno(), sys.stderr.fileno())
        try:
            _pass_on(import_module(f"autotune.trackers.{name}").create(), events)
            answer = ""
        except EOFError:  # the search was killed
            return
        except BaseException as error:  # a tracker may raise anything, also SystemExit
            answer = first_line(error) or type(error).__name__
            import traceback

            traceback.print_exc()
    with contextlib.suppress(OSError):  # the search has ended meanwhile
        events.send(answer)


def _pass_on(tracker: Tracker, events: Connection) -> None:
    while True:
        match events.recv():
            case StudyBegun() as event:
                tracker.begin_study(event)
            case TrialBegun() as event:
                tracker.begin_trial(event)
            case EpochEnded() as event:
                tracker.log_epoch(event)
            case TrialEnded() as event:
                tracker.end_trial(event)
            case StudyEnded() as event:
                tracker.end_study(event)
                return
            case other:
                raise TypeError(f"unknown event {other!r}")
