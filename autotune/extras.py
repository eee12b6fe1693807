"""Packages that an extra of the distribution installs."""

from importlib.util import find_spec

from autotune.errors import AutotuneError


def require_extra(module: str, extra: str) -> None:
    """Raise AutotuneError with the command that installs an extra, if its module is missing. Does not import it."""
    if find_spec(module) is None:
        raise AutotuneError(f"{module} is not installed.", f"Install it with: pip install 'autotune-vision[{extra}]'")
