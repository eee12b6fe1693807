"""The protocol of an engine: tasks, and what is reported of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.training.params import Params

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ProbeTask:
    backbone: str
    pixels: int
    log: str


@dataclass(frozen=True)
class TrialTask:
    number: int
    params: Params
    log: str


Task = ProbeTask | TrialTask


@dataclass(frozen=True)
class CacheProgress:
    """So many pictures of one view are through the frozen stages."""

    done: int
    total: int


@dataclass(frozen=True)
class Failed:
    """The task raised. error: its last line; trace: the whole traceback."""

    error: str
    trace: str


@dataclass(frozen=True)
class Refused:
    """The study cannot go on until its user mends something: a full disk."""

    problem: str
    fix: str


@dataclass(frozen=True)
class Died:
    """The worker is gone: killed, or out of memory. A new one has taken its place."""

    exit_code: int | None
