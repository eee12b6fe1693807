"""autotune finds the best way to fine-tune a pretrained network on a folder of labelled photos."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from autotune.backbones.spec import backbone
from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from autotune.api import Study, search
    from autotune.export.predict import load

__all__ = ["AutotuneError", "Study", "backbone", "load", "search"]
__version__ = "0.1.0"

_PLACES = {"Study": "autotune.api", "load": "autotune.export.predict", "search": "autotune.api"}


def __getattr__(name: str) -> Any:
    """What takes longer to import is imported when it is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module 'autotune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)


class _Package(ModuleType):
    """Keeps `autotune.search` a function: Python would bind that name to the room `autotune/search/` on its import."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
