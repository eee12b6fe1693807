"""Packages that an extra of the distribution installs."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from autotune.errors import AutotuneError


def require_extra(module: str, extra: str) -> None:
    """Raise AutotuneError with the command that installs an extra, if its module is missing. Does not import it."""
    if find_spec(module) is None:
        raise AutotuneError(f"{module} is not installed.", f"Install it with: pip install 'autotune-vision[{extra}]'")


def import_extra(module: str, extra: str, error: type[AutotuneError] = AutotuneError) -> Any:
    """Import a module of an extra. Raises `error` with the command that installs it."""
    try:
        return import_module(module)
    except ImportError as missing:
        raise error(
            f"{missing.name or module} is not installed.", f"Install it with: pip install 'autotune-vision[{extra}]'"
        ) from missing
