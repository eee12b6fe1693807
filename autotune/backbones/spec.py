"""What a backbone is: the decorator that marks one, and the traits it states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from autotune.errors import PluginError, did_you_mean

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bilinear", "bicubic")

Build = TypeVar("Build", bound=Callable[..., Any])


@dataclass(frozen=True)
class Traits:
    """What the decorator states of a backbone, as literals, because discovery reads the file and does not run it.

    pixels: side of the square it takes. features: F of its output (N, F); None: measured. mean, std: per channel, for
    pixels scaled to [0, 1]. fixed_pixels: no other size works. weights: "package:PATH/IN/SITE-PACKAGES",
    "hub:REPO/FILE" on the Hugging Face Hub, or a URL. megabytes: size of the download. licence: of the weights.
    from_scratch: there are no pretrained weights; everything trains.
    """

    pixels: int
    features: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"
    fixed_pixels: bool = False
    weights: str | None = None
    megabytes: float | None = None
    licence: str | None = None
    from_scratch: bool = False


@dataclass(frozen=True)
class Backbone:
    """One backbone as read from its file, of which nothing has run.

    description: the first line of its docstring, "LABEL: what it is". file: path of the plugin. function: the name of
    its function there. takes_variant: it is named NAME:VARIANT.
    """

    name: str
    description: str
    file: str
    function: str
    takes_variant: bool
    traits: Traits

    @property
    def label(self) -> str:
        """Its name in text: what stands before the colon of the description, and the variant."""
        head, _, variant = self.name.partition(":")
        label = self.description.partition(":")[0] if ":" in self.description else head
        return f"{label} {variant}".strip()


def backbone(**traits: Any) -> Callable[[Build], Build]:
    """Mark a function that returns a chain of stages, an `nn.Sequential` from pixels (N, 3, P, P) to features (N, F).

    The keywords are those of `Traits`. The function takes `pretrained: bool`, and a second argument if it takes
    what follows a colon in its name.
    """
    checked = checked_traits(traits)

    def mark(function: Build) -> Build:
        function.__autotune__ = checked  # type: ignore[attr-defined]
        return function

    return mark


def checked_traits(given: dict[str, Any]) -> Traits:
    """Traits from the decorator's keywords. Raises PluginError where one is unknown, missing or impossible."""
    known = [field.name for field in fields(Traits)]
    for key in given:
        if key not in known:
            raise PluginError(f"@backbone has no keyword {key!r}.", did_you_mean(key, known))
    if not isinstance(given.get("pixels"), int) or given["pixels"] < 1:
        raise PluginError("@backbone needs pixels=, a whole number.", "Write the side of the square it was trained on.")
    if given.get("interpolation", "bilinear") not in INTERPOLATIONS:
        raise PluginError(
            f"@backbone has no interpolation {given['interpolation']!r}.", f"Choose from: {', '.join(INTERPOLATIONS)}."
        )
    return Traits(**given)
