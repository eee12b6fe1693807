"""autotune finds the best way to fine-tune a pretrained network on a folder of labelled photos."""

from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError
from autotune.plugins import backbone

if TYPE_CHECKING:
    from autotune.face import Study, search
    from autotune.predict import load

__all__ = ["AutotuneError", "Study", "backbone", "load", "search"]
__version__ = "0.1.0"

_PLACES = {"Study": "autotune.face", "load": "autotune.predict", "search": "autotune.face"}


def __getattr__(name: str) -> Any:
    """What takes longer to import is imported when it is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module 'autotune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
