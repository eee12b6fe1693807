"""autotune finds the best way to fine-tune a pretrained network on a folder of labelled photos."""

from autotune.plugins import backbone

__all__ = ["backbone"]
__version__ = "0.1.0"
