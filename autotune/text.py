"""Format text for messages: percentages, durations, sizes, counts, names from strangers."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Sequence

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


_INVISIBLE = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x061C, *range(0x200B, 0x2010),
                 *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF)
}  # fmt: skip


def visible(text: str) -> str:
    """Return a text in which control characters are shown as escapes like \\x1b; line breaks and tabs are kept.

    Names come from strangers: a terminal would execute such characters, and others reverse what is read.
    """
    return text.translate(_INVISIBLE)


def plain_name(text: object) -> str:
    """Return a name from strangers as text of Markdown: no HTML, link, picture, cell or heading."""
    plain = html.escape(visible(str(text)).replace("\n", " "))
    return re.sub(r"([\\`*_\[\]()!|#~])", r"\\\1", plain)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def points_apart(share: float, other: float) -> float:
    """Return the difference of two shares in percentage points, of the digits that `percent` shows."""
    return round(round(100 * share, 1) - round(100 * other, 1), 1)


def duration(seconds: float) -> str:
    """Format a duration: "119 s" below two minutes, "59 min" below an hour, else "1 h 58 min"."""
    if round(seconds) < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def ago(timestamp: float) -> str:
    """Format the time since a timestamp, which is in seconds since 1970."""
    minutes = (time.time() - timestamp) / 60
    if minutes < 60:
        return f"{max(minutes, 0):.0f} min ago"
    return f"{minutes / 60:.0f} h ago" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days ago"


def file_size(n_bytes: float) -> str:
    """Format a number of bytes with three digits and a unit."""
    unit = next(unit for unit in ("TB", "GB", "MB", "KB", "B") if n_bytes >= UNITS[unit] or unit == "B")
    return f"{n_bytes / UNITS[unit]:.3g} {unit}"


def plural(n: int, noun: str) -> str:
    """Format a count with its noun: "1 picture", "2 pictures", "2 classes", "2 studies"."""
    if n == 1:
        return f"1 {noun}"
    if noun.endswith(("s", "x", "tch", "sh")):
        return f"{n} {noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{n} {noun[:-1]}ies"
    return f"{n} {noun}s"


def in_parts(n: int) -> str:
    """Say that a batch had to be divided."""
    return f"out of memory, so each batch was computed in {n} parts"


def either(names: Sequence[str]) -> str:
    """Join names into a choice: "int8, pt2 or safetensors"."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; some libraries append pages to theirs."""
    return str(error).partition("\n")[0]
