"""How numbers are worded: percentages, durations, sizes."""

from __future__ import annotations

import time
from collections.abc import Sequence

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes, else hours and minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 / 60:.0f} min"


def ago(timestamp: float) -> str:
    """How long ago a time was, given in seconds since 1970."""
    minutes = (time.time() - timestamp) / 60
    if minutes < 120:
        return f"{max(minutes, 0):.0f} min ago"
    return f"{minutes / 60:.0f} h ago" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days ago"


def file_size(n_bytes: float) -> str:
    """A number of bytes with three digits and a unit."""
    unit = next(unit for unit in ("TB", "GB", "MB", "KB", "B") if n_bytes >= UNITS[unit] or unit == "B")
    return f"{n_bytes / UNITS[unit]:.3g} {unit}"


def either(names: Sequence[str]) -> str:
    """Names as a choice: "int8, pt2 or safetensors"."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def first_line(error: Exception) -> str:
    """The first line of an error's message; libraries append pages to theirs."""
    return str(error).partition("\n")[0]
