"""Checks for the tests of a backbone of your own (docs/backbones.md)."""

from autotune.training.check import CheckResult, check_backbone

__all__ = ["CheckResult", "check_backbone"]
