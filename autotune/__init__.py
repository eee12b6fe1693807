"""autotune searches for the best way to fine-tune a pretrained network on a folder of labelled pictures."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from autotune.backbones.spec import backbone
from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from autotune.api import Study, search
    from autotune.export.predict import load

__all__ = ["AutotuneError", "Study", "backbone", "load", "search"]
__version__ = "0.2.0.dev0"

_LAZY = {"Study": "autotune.api", "load": "autotune.export.predict", "search": "autotune.api"}


def __getattr__(name: str) -> Any:
    """Import slow modules on first access."""
    if name not in _LAZY:
        raise AttributeError(f"module 'autotune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


class _Package(ModuleType):
    """Keeps `autotune.search` a function: importing the subpackage `autotune/search/` would rebind the name to it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
