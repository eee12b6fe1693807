"""Backbones of a study, with their sizes and depths."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.backbones.profile import StageProfile, profile_stages
from autotune.backbones.recommended import with_recommended
from autotune.backbones.registry import Registry
from autotune.backbones.spec import Backbone
from autotune.backbones.weights import (
    WeightsSource,
    find_weights,
    load_or_download,
    stages_digest,
    weights_file_name,
)
from autotune.errors import AutotuneError, ConfigError, PluginError, WeightsError
from autotune.search.budget import Budget, OverBudgetError
from autotune.search.ranges import Choice, Domain, values_of
from autotune.search.settings import SMALL_PIXELS, Settings, narrow
from autotune.search.space import BackboneOptions


@dataclass(frozen=True)
class Candidate:
    """A backbone of a study. profiles: one per size. digest: of its pretrained weights and structure; "" if it has
    none or they are not loaded.
    """

    backbone: Backbone
    weights: WeightsSource
    profiles: tuple[StageProfile, ...]
    depths: tuple[int, ...]
    digest: str

    @property
    def options(self) -> BackboneOptions:
        sizes = tuple(one.pixels for one in self.profiles)
        return BackboneOptions(self.backbone.name, sizes, self.depths, self.backbone.traits.from_scratch)

    @property
    def n_stages(self) -> int:
        return self.profiles[0].stages

    @property
    def cuts(self) -> tuple[int, ...]:
        """Numbers of frozen stages whose output can be cached: all, and those of each depth; none from scratch."""
        if self.backbone.traits.from_scratch:
            return ()
        return tuple(sorted({self.n_stages, *(self.n_stages - depth for depth in self.depths)} - {0}))


@dataclass(frozen=True)
class Selection:
    """The backbones of a study. left_out: why others are skipped, by name, or by file for a plugin that does not load.

    without_weights: names of those skipped because their weights are not installed.
    """

    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]
    device: str
    without_weights: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[BackboneOptions, ...]:
        return tuple(candidate.options for candidate in self.candidates)


def select_backbones(settings: Settings, registry: Registry, folder: Path | None, device: str, side: int,
                     say: Callable[[str], None], only: Mapping[str, BackboneOptions] | None = None,
                     download: bool = True, budget: Budget | None = None) -> Selection:  # fmt: skip
    """Choose the backbones of a study and build each once, to report errors before the first trial.

    folder: of weights. side: median shorter side of the pictures, in pixels. only: the backbones of an earlier run, all
    of which are required. download: download missing weights; otherwise, use random ones in their place. budget: of a
    new study.
    Raises PluginError, WeightsError or ConfigError if a backbone named by the user cannot be used, or if none can.
    """
    asked = list(only) if only else fixed_names(settings.space.backbone)
    opener = _Opener(settings, device, side, say, only or {}, download, budget)
    candidates: list[Candidate] = []
    without_weights: list[str] = []
    left_out = {} if only else {broken.file: broken.reason for broken in registry.broken}
    for backbone in [registry.find(name) for name in asked] if asked else default_backbones(registry, side):
        weights = find_weights(backbone, folder)
        if not weights.installed and not asked:
            left_out[backbone.name] = weights.reason
            without_weights.append(backbone.name)
            continue
        try:
            candidates.append(opener.open(backbone, weights))
        except OverBudgetError as error:
            left_out[backbone.name] = error.problem
        except AutotuneError as error:
            if only or len(asked) == 1:  # a study resumes only with all its backbones
                raise
            left_out[backbone.name] = error.problem
    if not candidates and budget and (problem := budget.nothing_fits()):
        raise problem
    if folder and not only:
        _check_folder_is_used(folder, candidates)
    if not candidates:
        reasons = first_few([with_name(name, reason) for name, reason in left_out.items()], "; ")
        raise PluginError(
            f"No backbone can be used ({reasons}).", "Put weights into a folder and pass it with --weights DIR."
        )
    return Selection(tuple(candidates), left_out, device, tuple(without_weights))


def default_backbones(registry: Registry, side: int) -> list[Backbone]:
    """Return the backbones searched by default; those trained from scratch only for small pictures."""
    return [b for b in registry.backbones if not b.takes_variant and (side < SMALL_PIXELS or not b.traits.from_scratch)]


def expand_recommended(settings: Settings, device: str) -> Settings:
    """Return the settings with the names of the recommended backbones in place of `recommended`."""
    asked = fixed_names(settings.space.backbone)
    names = with_recommended(asked, device)
    return settings if names == asked else narrow(settings, backbone=Choice(tuple(names)))


def fixed_names(ranged: Domain | None) -> list[str]:
    """Return the values of a domain as text, e.g. the names of the requested backbones."""
    return [str(value) for value in values_of(ranged)]


def sizes_for(backbone: Backbone, asked: Domain | None, side: int) -> tuple[int, ...]:
    """Return the requested sizes if the backbone supports them; else its own, or four times the pictures', if less."""
    own = backbone.traits.pixels
    if backbone.traits.fixed_pixels or (backbone.traits.from_scratch and not asked):
        return (own,)
    if asked:
        return tuple(int(size) for size in values_of(asked))
    enlarged = max(SMALL_PIXELS, -(-4 * side // 32) * 32)
    return (min(own, enlarged),)


def first_few(names: Sequence[str], separator: str = ", ", most: int = 3) -> str:
    """Join the first names and count the others: "a, b, c and 10 more"."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + rest


def with_name(name: str, reason: str) -> str:
    """Return why a backbone is skipped, with its name, unless the reason contains it."""
    return reason if re.search(rf"\b{re.escape(name)}\b", reason) else f"{name}: {reason}"


@dataclass(frozen=True)
class _Opener:
    """Builds the candidates of one study. earlier: backbones of an earlier run, by name."""

    settings: Settings
    device: str
    side: int
    say: Callable[[str], None]
    earlier: Mapping[str, BackboneOptions]
    download: bool
    budget: Budget | None

    def open(self, backbone: Backbone, weights: WeightsSource) -> Candidate:
        """Build a backbone with its weights. Raises AutotuneError."""
        chain = load_or_download(backbone, weights, self.say, self.download)
        has_digest = (self.download or weights.installed) and not backbone.traits.from_scratch
        earlier = self.earlier.get(backbone.name)
        sizes = earlier.pixels if earlier else sizes_for(backbone, self.settings.space.pixels, self.side)
        if self.budget and not earlier:
            sizes = self.budget.affordable(backbone, chain, sizes)
        profiles = tuple(profile_stages(backbone, chain, size) for size in sizes)
        depths = earlier.depths if earlier else self._depths(backbone, profiles[0])
        self._say_fixed_pixels(backbone)
        return Candidate(backbone, weights, profiles, depths, stages_digest(chain) if has_digest else "")

    def _depths(self, backbone: Backbone, profile: StageProfile) -> tuple[int, ...]:
        asked = self.settings.space.depth
        if backbone.traits.from_scratch:
            return (profile.stages,)
        if asked is None:
            on_cpu = self.device == "cpu"
            return profile.cpu_depths(backbone.traits.pixels) if on_cpu else profile.depths(most=float("inf"))
        depths = tuple(depth for depth in (int(value) for value in values_of(asked)) if depth <= profile.stages)
        if not depths:
            raise ConfigError(
                f"{backbone.name} has {profile.stages} stages, fewer than the smallest depth in the settings.",
                f"Set depth to at most {profile.stages} in study.toml.",
            )
        return depths

    def _say_fixed_pixels(self, backbone: Backbone) -> None:
        others = {*fixed_names(self.settings.space.pixels)} - {str(backbone.traits.pixels)}
        if backbone.traits.fixed_pixels and others and not self.earlier:
            self.say(f"{backbone.name} uses {backbone.traits.pixels} pixels: it supports no other size.")


def _check_folder_is_used(folder: Path, candidates: list[Candidate]) -> None:
    """Raise WeightsError if the folder of weights contains none for these backbones."""
    if not any(one.weights.file for one in candidates):
        names = " or ".join(f"{weights_file_name(one.backbone)}.safetensors" for one in candidates)
        raise WeightsError(f"{folder} contains no weights of the searched backbones.", f"Add {names}, or .pth files.")
