"""The definition of a backbone: the decorator and its traits."""

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
    """The keywords of the decorator. They must be literals, because discovery parses the file without running it.

    pixels: side of the square input. features: F of the output (N, F); None: measured. mean, std: per channel, for
    pixels scaled to [0, 1]. fixed_pixels: no other size works. weights: "package:PATH/IN/SITE-PACKAGES",
    "hub:REPO/FILE" on the Hugging Face Hub, or a URL. megabytes: size of the download. licence: of the weights.
    from_scratch: no pretrained weights; all stages are trained.
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
    """One backbone, parsed from its file without running it.

    description: the first line of its docstring, "LABEL: description". file: path of the plugin. function: name of
    the function in the file. takes_variant: the backbone is selected as NAME:VARIANT.
    """

    name: str
    description: str
    file: str
    function: str
    takes_variant: bool
    traits: Traits

    @property
    def label(self) -> str:
        """The display name: the description up to the colon, and the variant."""
        head, _, variant = self.name.partition(":")
        label = self.description.partition(":")[0] if ":" in self.description else head
        return f"{label} {variant}".strip()


def backbone(**traits: Any) -> Callable[[Build], Build]:
    """Declare a backbone: a function that returns an `nn.Sequential` of stages, pixels (N, 3, P, P) to features (N, F).

    The keywords are the fields of `Traits`. The function takes `pretrained: bool` and, if the backbone has variants, a
    second argument: the part of the name after the colon.
    """
    checked = checked_traits(traits)

    def mark(function: Build) -> Build:
        function.__autotune__ = checked  # type: ignore[attr-defined]
        return function

    return mark


def checked_traits(given: dict[str, Any]) -> Traits:
    """Return traits from the decorator's keywords. Raises PluginError if one is unknown, missing or invalid."""
    known = [field.name for field in fields(Traits)]
    for key in given:
        if key not in known:
            raise PluginError(f"@backbone has no keyword {key!r}.", did_you_mean(key, known))
    if not isinstance(given.get("pixels"), int) or given["pixels"] < 1:
        raise PluginError("@backbone requires pixels=, an integer.", "Set it to the side of the square input.")
    if given.get("interpolation", "bilinear") not in INTERPOLATIONS:
        raise PluginError(
            f"@backbone has no interpolation {given['interpolation']!r}.", f"Choose from: {', '.join(INTERPOLATIONS)}."
        )
    return Traits(**given)
