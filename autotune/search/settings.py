"""A study's definition: the settings and the search space that study.toml and flags give."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from autotune.errors import ConfigError, did_you_mean
from autotune.search.fields import FieldError, OneOf, Values, fix
from autotune.search.ranges import Choice, Domain, Fixed, Range
from autotune.search.sampler import ETA, PRUNERS, SAMPLERS
from autotune.training.metrics import METRICS
from autotune.training.optimizers import OPTIMIZERS

Finding = Mapping[str, Any]  # one of those that pydantic's ValidationError.errors() lists

CYCLES = ("triangular", "triangular2", "one-cycle")
FLIPS = ("none", "horizontal", "vertical", "both")
SMALL_PIXELS = 64  # below this, pictures are enlarged fourfold for a pretrained net, and the from-scratch CNN joins
# The string below a field is its description, which docs/study-toml.md is generated from.
DEFINITION = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class SearchSpace(BaseModel, frozen=True):
    """The domain of each of Params' fields. None: decided from the pictures, the backbone and the device."""

    model_config = DEFINITION

    backbone: Annotated[Domain | None, Values(str)] = None
    """The networks, by name. By default those whose weights are on this machine."""

    depth: Annotated[Domain | None, Values(int, ge=0)] = None
    """The number of last stages that train; 0: the head alone. By default any; on a CPU, at most 40 % of the work."""

    pixels: Annotated[Domain | None, Values(int, ge=8, le=2048)] = None
    """Side of the square that pictures are resized to. By default the backbone's, less for small pictures."""

    lr_low: Annotated[Domain | None, Values(float, gt=0)] = None
    """The lower bound of the learning-rate cycle. By default 1e-6 to 1e-4, log, times the optimizer's factor."""

    lr_high: Annotated[Domain | None, Values(float, gt=0)] = None
    """The upper bound. By default 1e-4 to 1e-2, log, times the optimizer's factor."""

    class_weight: Annotated[Domain | None, Values(float, ge=0, le=1)] = None
    """c of (1 / frequency)^c. By default searched, from 0 to 1, where classes are uneven; else 0."""

    cycle: Annotated[Domain, Values(str, OneOf(CYCLES))] = Choice(CYCLES)
    """How the learning rate moves between its bounds."""

    augment: Annotated[Domain, Values(float, ge=0, le=1)] = Range(0.0, 1.0, step=0.25)
    """Strength; 1 is shift 20 %, shear 30 %, zoom 10 %, channel shift 20 %, and the whole `angle`."""

    optimizer: Annotated[Domain, Values(str, OneOf(OPTIMIZERS))] = Choice(tuple(OPTIMIZERS))
    """Its factor multiplies the default bounds of the learning rate."""

    batch_size: Annotated[Domain, Values(int, ge=1)] = Choice((32, 64))
    """Pictures a step."""

    weight_decay: Annotated[Domain, Values(float, ge=0)] = Range(1e-6, 1e-1, log=True)
    """Of the optimizer; decoupled for adamw."""

    dropout: Annotated[Domain, Values(float, ge=0, le=0.95)] = Range(0.0, 0.5)
    """Before the head."""

    label_smoothing: Annotated[Domain, Values(float, ge=0, le=0.95)] = Range(0.0, 0.2)
    """Of the cross-entropy."""

    mixup: Annotated[Domain, Values(float, ge=0, le=4)] = Fixed(0.0)
    """Alpha of the Beta distribution that two pictures are mixed by, where the tail begins; 0 mixes none."""


class Settings(BaseModel, frozen=True):
    """A study's definition. epochs: None until `resolve_settings` has seen how many pictures there are."""

    model_config = DEFINITION

    metric: Annotated[str, OneOf(METRICS)] = "accuracy"
    """What the search maximises, and the score reported for the test set."""

    epochs: Annotated[int | None, Field(ge=1)] = None
    """The most a trial may have. By default about 6,000 pictures' worth, between 4 and 12."""

    cycle_epochs: Annotated[int | None, Field(ge=1)] = None
    """Epochs of one learning-rate cycle; trials are pruned at the ends of cycles alone. Give `epochs` too."""

    patience: Annotated[int, Field(ge=1)] = 5  # benchmarks/gap.py
    """Epochs (a cycle at least) without a better validation score before the gap can end a trial."""

    gap: Annotated[float, Field(ge=0, le=1)] = 0.05
    """How far training may run ahead of validation, smoothed, as a difference of the metric."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Decides the split, the trials and their randomness."""

    sampler: Annotated[str, OneOf(SAMPLERS)] = "tpe"
    """How the next trial is chosen, by one of Optuna's samplers."""

    pruner: Annotated[str, OneOf(PRUNERS)] = "hyperband"
    """Which trials are ended early because they fall behind, by one of Optuna's pruners."""

    validation: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """The share of the pictures that trials are compared on."""

    test: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """The share of the pictures that no trial sees; the winner is tested on it."""

    flips: Annotated[str, OneOf(FLIPS)] = "horizontal"
    """Which mirrorings do not change what a picture shows."""

    angle: Annotated[float, Field(ge=0, le=180)] = 15.0
    """The largest rotation, in degrees, that does not change what a picture shows; augmentation uses up to that."""

    space: SearchSpace = Field(default_factory=SearchSpace, strict=False)

    @field_validator("cycle_epochs")
    @classmethod
    def _whole_cycles(cls, cycle_epochs: int | None, info: ValidationInfo) -> int | None:
        epochs = info.data.get("epochs")
        if cycle_epochs is None:
            return None
        if epochs is None:
            raise FieldError("cycle_epochs is given without epochs.", "Give epochs too, a multiple of it.")
        if epochs % cycle_epochs:
            raise FieldError(
                f"{epochs} epochs are no whole number of cycles of {cycle_epochs}.",
                "Make epochs a multiple of cycle_epochs.",
            )
        return cycle_epochs

    @property
    def n_epochs(self) -> int:
        """The epochs of a study whose pictures are known."""
        assert self.epochs
        return self.epochs

    @property
    def cycle_length(self) -> int:
        """Epochs of a cycle; by default the largest divisor of epochs that leaves Hyperband three rungs."""
        if self.cycle_epochs:
            return self.cycle_epochs
        return max(n for n in range(1, max(1, self.n_epochs // ETA**2) + 1) if self.n_epochs % n == 0)


def read_settings(file: Path | None, flags: Mapping[str, Any], is_writing: bool = False) -> Settings:
    """Settings from study.toml (if there is one) and flags, which win. Raises ConfigError with all that is wrong.

    flags: names of Settings' or SearchSpace's fields; None means not given. is_writing: what may not be mirrored.
    """
    table = _toml(file)
    space = table.pop("space", {})
    if not isinstance(space, dict):
        raise ConfigError(f"`space` in {file} is not a table.", "Write [space], and the ranges below it.")
    for name, value in flags.items():
        if value is not None:
            (space if name in SearchSpace.model_fields else table)[name] = value
    if is_writing:
        table = {"flips": "none", "angle": 10.0, **table}
    try:
        return Settings.model_validate({**table, "space": space})
    except ValidationError as error:
        raise _config_error(error, [*space], [*table], file) from None


def definition(settings: Settings) -> dict[str, Any]:
    """Settings as plain values that survive JSON, for the record and for `differences`."""
    space = {name: _plain(getattr(settings.space, name)) for name in SearchSpace.model_fields}
    return {**settings.model_dump(exclude={"space"}), "space": space}


def settings_from_record(plain: Mapping[str, Any]) -> Settings:
    """Settings from what `definition` made of them."""
    space = {name: value for name, value in plain["space"].items() if value != "by default"}
    ranges = {
        name: {key: edge for key, edge in value.items() if edge is not None} if isinstance(value, dict) else value
        for name, value in space.items()
    }
    settings = {name: value for name, value in plain.items() if name != "space" and value is not None}
    return read_settings(None, {**settings, **ranges})


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two studies' definitions, in words."""
    flat_old, flat_new = _flat(old), _flat(new)
    return [
        f"{name} was {flat_old.get(name)}, is {flat_new.get(name)}"
        for name in sorted({*flat_old, *flat_new})
        if flat_old.get(name) != flat_new.get(name)
    ]


def narrow(settings: Settings, **domains: Domain) -> Settings:
    """The same settings with some ranges replaced."""
    return settings.model_copy(update={"space": settings.space.model_copy(update=domains)})


def epochs_for(n_train: int) -> int:
    """Epochs that show a trial about 6,000 pictures, between 4 and 12: small sets need more, large ones fewer."""
    return min(max(round(6000 / n_train), 4), 12)


def _toml(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {file}.", "Name a study.toml: --config FILE") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.", "Name a study.toml: --config FILE") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}", "See https://toml.io for how it is written.") from error


def _config_error(error: ValidationError, ranges: list[str], settings: list[str], file: Path | None) -> ConfigError:
    """All findings in one: on ranges, then on settings, as they were given; then on how settings go together."""

    def place(found: Finding) -> tuple[int, int]:
        if found["loc"][0] == "space":
            return 0, ranges.index(str(found["loc"][1]))
        return 2 if _refusal(found) else 1, settings.index(str(found["loc"][0]))

    found = [_problem_and_fix(one) for one in sorted(error.errors(), key=place)]
    where = f" ({file})" if file else ""
    return ConfigError(" ".join(problem for problem, _ in found) + where, " ".join(fix for _, fix in found))


def _problem_and_fix(found: Finding) -> tuple[str, str]:
    """One of pydantic's findings in autotune's words."""
    if refused := _refusal(found):
        return refused.problem, refused.fix
    is_range = found["loc"][0] == "space"
    name = str(found["loc"][1 if is_range else 0])
    settings, ranges = Settings.model_fields, SearchSpace.model_fields
    if found["type"] != "extra_forbidden":
        field = (ranges if is_range else settings)[name]
        return f"{name} cannot be {found['input']!r}.", fix(field, found["input"])
    if is_range:
        advice = "It belongs above [space]." if name in settings else did_you_mean(name, ranges)
        return f"There is nothing called {name!r} to search.", advice
    advice = "It belongs under [space]." if name in ranges else did_you_mean(name, settings)
    return f"There is no setting {name!r}.", advice


def _refusal(found: Finding) -> FieldError | None:
    error = found.get("ctx", {}).get("error")
    return error if isinstance(error, FieldError) else None


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in table.items() if name != "space"}
    return {**plain, **{f"space.{name}": value for name, value in table.get("space", {}).items()}}


def _plain(domain: Domain | None) -> Any:
    if domain is None:
        return "by default"
    if isinstance(domain, Fixed):
        return domain.value
    return list(domain.values) if isinstance(domain, Choice) else asdict(domain)
