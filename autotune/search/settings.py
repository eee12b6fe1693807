"""Settings and search space of a study, from study.toml and command line flags."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from autotune.data.visits import AUTO
from autotune.errors import ConfigError, did_you_mean
from autotune.formats.table import ONNX, timed_formats
from autotune.search.fields import FieldError, OneOf, Values, fix, limits
from autotune.search.ranges import Choice, Domain, Fixed, Range
from autotune.search.sampler import ETA, PRUNERS, SAMPLERS
from autotune.training.metrics import METRICS
from autotune.training.optimizers import OPTIMIZERS

Finding = Mapping[str, Any]  # an entry of pydantic's ValidationError.errors()

CYCLES = ("triangular", "triangular2", "one-cycle")
FLIPS = ("none", "horizontal", "vertical", "both")
FINALS = ("soup", "refit", "trial")
SMALL_PIXELS = 64  # smaller pictures are enlarged up to fourfold if pretrained, and small_cnn is searched
BY_DEFAULT = "by default"  # in records: a range that was not given
CONFIG_FIX = "Pass the path of a study.toml with --config FILE."
# The string below a field is its description; docs/study-toml.md is generated from it.
DEFINITION = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class SearchSpace(BaseModel, frozen=True):
    """Domains of the fields of Params. None: depends on the pictures, the backbone and the device."""

    model_config = DEFINITION

    backbone: Annotated[Domain | None, Values(str)] = None
    """Names of the backbones; `recommended`: a list for the device. Default: those with installed weights."""

    depth: Annotated[Domain | None, Values(int, ge=0)] = None
    """Last stages to unfreeze; 0: head only. Default: any; on a CPU, 40 % of the FLOPs at most, 75 % if small."""

    pixels: Annotated[Domain | None, Values(int, ge=8, le=2048)] = None
    """Input size: side of the centre square after resizing. Default: the backbone's, smaller for small pictures."""

    lr_low: Annotated[Domain | None, Values(float, gt=0)] = None
    """Lower limit of the learning rate cycle. Default: 1e-6 to 1e-4, log, times the optimizer's factor."""

    lr_high: Annotated[Domain | None, Values(float, gt=0)] = None
    """Upper limit of the learning rate cycle. Default: 3e-4 to 5e-3, log, times the optimizer's factor; times 8 for
    head only, 0.3 for pretrained stages, 2 from scratch."""

    class_weight: Annotated[Domain | None, Values(float, ge=0, le=1)] = None
    """Exponent c of the class weights (1 / frequency)^c. Default: 0 to 1 for imbalanced classes, otherwise 0."""

    cycle: Annotated[Domain, Values(str, OneOf(CYCLES))] = Choice(CYCLES)
    """Schedule of the learning rate between lr_low and lr_high."""

    augment: Annotated[Domain, Values(float, ge=0, le=1)] = Range(0.0, 1.0, step=0.25)
    """Augmentation strength; 1 means shift 20 %, shear 30 %, zoom 10 %, channel shift 20 % and rotation by `angle`."""

    optimizer: Annotated[Domain, Values(str, OneOf(OPTIMIZERS))] = Choice(tuple(OPTIMIZERS))
    """Optimizer. Its factor multiplies the default lr_low and lr_high."""

    batch_size: Annotated[Domain, Values(int, ge=1)] = Choice((32, 64))
    """Pictures per step."""

    weight_decay: Annotated[Domain, Values(float, ge=0)] = Range(1e-6, 1e-1, log=True)
    """Weight decay of the optimizer; decoupled for adamw."""

    dropout: Annotated[Domain, Values(float, ge=0, le=0.95)] = Range(0.0, 0.5)
    """Dropout before the head."""

    label_smoothing: Annotated[Domain, Values(float, ge=0, le=0.95)] = Range(0.0, 0.2)
    """Label smoothing of the cross-entropy."""

    mixup: Annotated[Domain, Values(float, ge=0, le=4)] = Fixed(0.0)
    """Alpha of the Beta distribution for mixing two pictures at the input of the unfrozen stages; 0: no mixup."""

    hidden: Annotated[Domain, Values(int, ge=0, le=8192)] = Fixed(0)
    """Width of a hidden layer of the head, with ReLU; 0: a linear head."""

    phases: Annotated[Domain, Values(int, ge=1, le=2)] = Fixed(1)
    """2: the head is trained alone first, in a third of the epochs, then with the unfrozen stages. 1: together."""


class RecipePhase(BaseModel, frozen=True):
    """A phase of the recipe, which is the first trial of a study. The phases are trained one after another."""

    model_config = DEFINITION

    backbone: Annotated[str | None, Field(min_length=1)] = None
    """Name of the backbone, the same in all phases. Default: the only backbone of the study."""

    hidden: Annotated[int | None, Field(ge=0, le=8192)] = None
    """Width of a hidden layer of the head, the same in all phases. Default: none."""

    depth: Annotated[int | None, Field(ge=0)] = None
    """Last stages to train; 0: head only. Default: all of a network from scratch, otherwise 0."""

    epochs: Annotated[int, Field(ge=1)]
    """Number of epochs. A recipe is trained to its end: neither the pruner nor the gap stops it."""

    cycle_epochs: Annotated[int | None, Field(ge=1)] = None
    """Epochs per learning rate cycle; divides `epochs`. Default: as for trials."""

    lr_low: Annotated[float, Field(gt=0)]
    """Lower limit of the learning rate cycle."""

    lr_high: Annotated[float, Field(gt=0)]
    """Upper limit of the learning rate cycle; the same as `lr_low` for a constant learning rate."""

    cycle: Annotated[str, OneOf(CYCLES)] = "triangular"
    """Schedule of the learning rate between lr_low and lr_high."""

    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "adamw"
    """Optimizer."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    """Pictures per step."""

    class_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Exponent c of the class weights (1 / frequency)^c."""

    augment: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Augmentation strength, as in [space]."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of the optimizer; decoupled for adamw."""

    dropout: Annotated[float, Field(ge=0, le=0.95)] = 0.0
    """Dropout before the head."""

    label_smoothing: Annotated[float, Field(ge=0, le=0.95)] = 0.0
    """Label smoothing of the cross-entropy."""

    @model_validator(mode="after")
    def _consistent(self) -> RecipePhase:
        if self.lr_low > self.lr_high:
            raise FieldError(
                f"In the recipe, lr_low ({self.lr_low:g}) is more than lr_high ({self.lr_high:g}).", "Exchange them."
            )
        if self.cycle_epochs and self.epochs % self.cycle_epochs:
            raise FieldError(
                f"In the recipe, epochs ({self.epochs}) is not a multiple of cycle_epochs ({self.cycle_epochs}).",
                "Set epochs to a multiple of cycle_epochs.",
            )
        return self

    @property
    def cycle_length(self) -> int:
        """Epochs per cycle."""
        return self.cycle_epochs or default_cycle(self.epochs)


class Settings(BaseModel, frozen=True):
    """Settings of a study. epochs: can be None until `resolve_settings` sets it by the number of pictures."""

    model_config = DEFINITION

    metric: Annotated[str, OneOf(METRICS)] = "accuracy"
    """Metric that the search maximises and that is reported for the test set."""

    epochs: Annotated[int | None, Field(ge=1)] = None
    """Maximum number of epochs per trial. Default: 4 to 12, fewer for many pictures and for costly backbones."""

    cycle_epochs: Annotated[int | None, Field(ge=1)] = None
    """Epochs per learning rate cycle; trials are pruned only at its end. Requires `epochs`, and divides it."""

    patience: Annotated[int, Field(ge=1)] = 5  # benchmarks/gap.py
    """Epochs (at least one cycle) without a better one before the gap can stop a trial."""

    gap: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Maximum gap: training metric minus validation metric, smoothed."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Random seed of the split, the sampler and training."""

    sampler: Annotated[str, OneOf(SAMPLERS)] = "tpe"
    """Optuna sampler that chooses the next trial."""

    pruner: Annotated[str, OneOf(PRUNERS)] = "hyperband"
    """Optuna pruner that stops weak trials early."""

    validation: Annotated[float | None, Field(gt=0, le=0.5)] = None
    """Fraction of the pictures in the validation set, which trials are compared on. Default: 500 pictures, but at least
    a tenth and at most a fifth of those outside the test set."""

    test: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Fraction of the pictures in the test set. No trial uses it; the final model is evaluated on it."""

    group_by: Annotated[str, Field(min_length=1)] = AUTO
    """Keeps the pictures of one visit in one set: auto, none, time (EXIF), name (of the file), folder (below the class)
    or a regular expression, whose first group in a path names the visit. auto: the first clear one, if any. The column
    `group` of a table comes first."""

    flips: Annotated[str, OneOf(FLIPS)] = "horizontal"
    """Flips that do not change what a picture shows. Default: none for datasets of digits, letters and signs."""

    angle: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Largest rotation, in degrees, that does not change what a picture shows. 10 for digits, letters and signs."""

    trial_timeout: Annotated[float | None, Field(gt=0)] = None
    """Seconds after which a probe, a trial or a network of the finals is stopped and fails. Default: no limit."""

    max_ms: Annotated[float | None, Field(gt=0)] = None
    """Leave out backbones and sizes that take more milliseconds for a picture: median on one thread, without decoding.
    Default: no limit."""

    max_mb: Annotated[float | None, Field(gt=0)] = None
    """Leave out backbones whose exported file is larger, in MB. Default: no limit."""

    format: Annotated[str, OneOf(timed_formats())] = ONNX.name
    """Format of the exported model that `max_ms` and `max_mb` are measured in."""

    final: Annotated[str, OneOf(FINALS)] = "soup"
    """Final model: average of the winner's networks on all folds, one network refitted on all, or the best trial's."""

    recipe: Annotated[tuple[RecipePhase, ...], Field(strict=False)] = ()
    """Phases of the first trial: a list of [[recipe]] tables."""

    space: SearchSpace = Field(default_factory=SearchSpace, strict=False)

    @field_validator("cycle_epochs")
    @classmethod
    def _whole_cycles(cls, cycle_epochs: int | None, info: ValidationInfo) -> int | None:
        epochs = info.data.get("epochs")
        if cycle_epochs is None:
            return None
        if epochs is None:
            raise FieldError("cycle_epochs requires epochs.", "Set epochs to a multiple of cycle_epochs.")
        if epochs % cycle_epochs:
            raise FieldError(
                f"epochs ({epochs}) is not a multiple of cycle_epochs ({cycle_epochs}).",
                "Set epochs to a multiple of cycle_epochs.",
            )
        return cycle_epochs

    @property
    def n_epochs(self) -> int:
        """Maximum number of epochs, after `resolve_settings`."""
        assert self.epochs
        return self.epochs

    @property
    def cycle_length(self) -> int:
        """Epochs per cycle."""
        return self.cycle_epochs or default_cycle(self.n_epochs)


def default_cycle(epochs: int) -> int:
    """Return the largest divisor of epochs that gives Hyperband three rungs."""
    return max(n for n in range(1, max(1, epochs // ETA**2) + 1) if epochs % n == 0)


def read_settings(file: Path | None, flags: Mapping[str, Any], is_writing: bool = False) -> Settings:
    """Read settings from study.toml, if given, and from flags, which override it. Raises ConfigError with all errors.

    flags: fields of Settings or SearchSpace by name; None: not given. is_writing: pictures of writing, not flipped.
    """
    table = _toml(file)
    space = table.pop("space", {})
    if not isinstance(space, dict):
        raise ConfigError(f"`space` in {file} is not a table.", "Write [space] on one line, and the ranges below it.")
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
    """Return settings as JSON values, for the record and for `differences`."""
    space = {name: _plain(getattr(settings.space, name)) for name in SearchSpace.model_fields}
    return {**settings.model_dump(mode="json", exclude={"space"}), "space": space}


def settings_from_record(plain: Mapping[str, Any]) -> Settings:
    """Return the settings of a `definition`."""
    space = {name: value for name, value in plain["space"].items() if value != BY_DEFAULT}
    ranges = {
        name: {key: edge for key, edge in value.items() if edge is not None} if isinstance(value, dict) else value
        for name, value in space.items()
    }
    settings = {name: value for name, value in plain.items() if name != "space" and value is not None}
    return read_settings(None, {**settings, **ranges})


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describe the differences between the definition of a study and a new one."""
    flat_old, flat_new = _flat(old), _flat(new)
    if flat_new.get("validation") is None:  # the study's manifest holds its split; 0.1.0 recorded its default, 0.1
        flat_old["validation"] = None
    flat_old.setdefault("group_by", flat_new.get("group_by"))  # 0.1.0 had none
    flat_old = {**_flat(definition(Settings())), **flat_old}  # settings that the study's version did not have
    for name in ("final", "trial_timeout"):  # may change: no trial's result depends on it
        flat_old[name] = flat_new.get(name)
    return [
        f"{name} was {_shown(flat_old.get(name))}, is {_shown(flat_new.get(name))}"
        for name in sorted({*flat_old, *flat_new})
        if flat_old.get(name) != flat_new.get(name)
    ]


def _shown(value: Any) -> Any:
    return "automatic" if value in (None, BY_DEFAULT) else value


def narrow(settings: Settings, **domains: Domain) -> Settings:
    """Return the settings with some ranges replaced."""
    return settings.model_copy(update={"space": settings.space.model_copy(update=domains)})


def _toml(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"Configuration file {file} does not exist.", CONFIG_FIX) from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.", CONFIG_FIX) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}", "See https://toml.io for the syntax.") from error


def _config_error(error: ValidationError, ranges: list[str], settings: list[str], file: Path | None) -> ConfigError:
    """Merge all errors: of ranges, then of settings, in the given order; then of combinations. No fix is repeated."""

    def place(found: Finding) -> tuple[int, int]:
        if found["loc"][0] == "space":
            return 0, ranges.index(str(found["loc"][1]))
        return 2 if _own_error(found) else 1, settings.index(str(found["loc"][0]))

    found = [_problem_and_fix(one) for one in sorted(error.errors(), key=place)]
    where = f" ({file})" if file else ""
    fixes = dict.fromkeys(fix for _, fix in found)
    return ConfigError(" ".join(problem for problem, _ in found) + where, " ".join(fixes))


def _problem_and_fix(found: Finding) -> tuple[str, str]:
    """Convert one of pydantic's errors."""
    if own := _own_error(found):
        return own.problem, own.fix
    if found["loc"][0] == "recipe":
        return _recipe_problem_and_fix(found)
    is_range = found["loc"][0] == "space"
    name = str(found["loc"][1 if is_range else 0])
    settings, ranges = Settings.model_fields, SearchSpace.model_fields
    if found["type"] != "extra_forbidden":
        field = (ranges if is_range else settings)[name]
        return f"{name} cannot be {found['input']!r}.", fix(field, found["input"])
    if is_range:
        advice = "It belongs above [space]." if name in settings else did_you_mean(name, ranges)
        return f"No hyperparameter named {name!r}.", advice
    advice = "It belongs under [space]." if name in ranges else did_you_mean(name, settings)
    return f"No setting named {name!r}.", advice


def _recipe_problem_and_fix(found: Finding) -> tuple[str, str]:
    if len(found["loc"]) < 3:
        return "recipe is not a list of tables.", "Write [[recipe]] above each phase."
    phase, name = int(found["loc"][1]) + 1, str(found["loc"][2])
    fields = RecipePhase.model_fields
    if found["type"] == "extra_forbidden":
        return f"Phase {phase} of the recipe has no setting named {name!r}.", did_you_mean(name, fields)
    if found["type"] == "missing":
        return f"Phase {phase} of the recipe has no {name}.", f"Give {name} a {limits(fields[name])}."
    return f"In phase {phase} of the recipe, {name} cannot be {found['input']!r}.", fix(fields[name], found["input"])


def _own_error(found: Finding) -> FieldError | None:
    error = found.get("ctx", {}).get("error")
    return error if isinstance(error, FieldError) else None


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in table.items() if name != "space"}
    return {**plain, **{f"space.{name}": value for name, value in table.get("space", {}).items()}}


def _plain(domain: Domain | None) -> Any:
    if domain is None:
        return BY_DEFAULT
    if isinstance(domain, Fixed):
        return domain.value
    return list(domain.values) if isinstance(domain, Choice) else asdict(domain)
