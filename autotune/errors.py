"""Errors that a user can fix, and how they are worded.

AutotuneError
├── DataError      the pictures: no such folder, one class, a class too small
├── ConfigError    study.toml or a flag: an unknown key, a value out of range
├── PluginError    a backbone: unknown, does not load, fails its check
├── WeightsError   pretrained weights: not at hand, do not fit
├── StudyError     a study: no such one, made from other data, in use, nothing finished
└── BundleError    an exported model: not proven, a part missing or changed, its runtime not installed
"""

import difflib
from collections.abc import Iterable


class AutotuneError(Exception):
    """An error that the user can fix: shown as two lines, the problem and the fix, with exit code 1."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}\n{fix}")
        self.problem = problem
        self.fix = fix


class DataError(AutotuneError):
    pass


class ConfigError(AutotuneError):
    pass


class PluginError(AutotuneError):
    pass


class WeightsError(AutotuneError):
    pass


class StudyError(AutotuneError):
    pass


class BundleError(AutotuneError):
    pass


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A fix for an unknown word: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Choose from: {', '.join(names) or '(there are none)'}."
