"""Errors that a user can fix.

AutotuneError
├── DataError      pictures: missing folder, only one class, class too small
├── ConfigError    study.toml or an option: unknown key, value out of range
├── PluginError    a backbone: unknown, does not load, fails its check
├── WeightsError   pretrained weights: not installed, do not fit
├── StudyError     a study: unknown, made from other data, in use, no finished trial
└── BundleError    an exported model: not verified, file missing or changed, runtime not installed
"""

import difflib
from collections.abc import Iterable


class AutotuneError(Exception):
    """An error that the user can fix, shown as two lines: the problem and the fix. Commands exit with code 1."""

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
    """Return a fix for an unknown word: the closest known word, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Choose from: {', '.join(names) or '(none)'}."
