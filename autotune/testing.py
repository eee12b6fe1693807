"""Checks to use in the tests of a custom backbone (docs/backbones.md)."""

from autotune.training.check import CheckResult, check_backbone

__all__ = ["CheckResult", "check_backbone"]
