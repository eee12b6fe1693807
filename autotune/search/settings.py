"""What is searched: study.toml and flags become settings and ranges, and a trial's draw becomes Params."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    pass


from autotune.search.ranges import Choice, Fixed, Range, Ranged
from autotune.training.metrics import METRICS
from autotune.training.optimizers import OPTIMIZERS

SAMPLERS = ("tpe", "random", "gp", "qmc")
PRUNERS = ("hyperband", "successive_halving", "median", "none")
CYCLES = ("triangular", "triangular2", "one-cycle")
FLIPS = ("none", "horizontal", "vertical", "both")
ETA = 3  # Hyperband's reduction factor
SMALL_PIXELS = 64  # below this, pictures are enlarged fourfold for a pretrained net, and the from-scratch CNN joins


@dataclass(frozen=True)
class SearchSpace:
    """The range of each of Params' fields. None: decided from the pictures, the backbone and the device."""

    backbone: Ranged | None = None
    depth: Ranged | None = None
    pixels: Ranged | None = None
    lr_low: Ranged | None = None
    lr_high: Ranged | None = None
    class_weight: Ranged | None = None
    cycle: Ranged = Choice(CYCLES)
    augment: Ranged = Range(0.0, 1.0, step=0.25)
    optimizer: Ranged = Choice(tuple(OPTIMIZERS))
    batch_size: Ranged = Choice((32, 64))
    weight_decay: Ranged = Range(1e-6, 1e-1, log=True)
    dropout: Ranged = Range(0.0, 0.5)
    label_smoothing: Ranged = Range(0.0, 0.2)
    mixup: Ranged = Fixed(0.0)


@dataclass(frozen=True)
class Settings:
    """A study's definition. epochs: the most a trial may have, by default what `epochs_for` says; cycle_epochs: of one
    learning-rate cycle.

    gap: how far training may run ahead of validation, as a difference of the metric; patience: epochs without a
    better validation before the gap can end a trial. validation, test: shares of the pictures. flips, angle
    (degrees): what may be done to the pictures without changing what they show.
    """

    metric: str = "accuracy"
    epochs: int | None = None
    cycle_epochs: int | None = None
    patience: int = 5  # benchmarks/gap.py
    gap: float = 0.05
    seed: int = 0
    sampler: str = "tpe"
    pruner: str = "hyperband"
    validation: float = 0.1
    test: float = 0.1
    flips: str = "horizontal"
    angle: float = 15.0
    space: SearchSpace = field(default_factory=SearchSpace)

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

    flags: names of Settings' or Space's fields; None means not given. is_writing: what may not be mirrored.
    """
    table = _toml(file)
    space = table.pop("space", {})
    if not isinstance(space, dict):
        raise ConfigError(f"`space` in {file} is not a table.", "Write [space], and the ranges below it.")
    for name, value in flags.items():
        if value is not None:
            (space if name in _NAMES else table)[name] = value
    if is_writing:
        table = {"flips": "none", "angle": 10.0, **table}
    wrong: list[tuple[str, str]] = []
    ranges = {
        name: parsed for name, value in space.items() if (parsed := _checked_range(name, value, wrong)) is not None
    }
    plain = {name: value for name, value in table.items() if _is_right(name, value, wrong)}
    settings = Settings(space=SearchSpace(**ranges), **plain)
    _check_together(settings, wrong)
    if wrong:
        where = f" ({file})" if file else ""
        raise ConfigError(" ".join(problem for problem, _ in wrong) + where, " ".join(fix for _, fix in wrong))
    return settings


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two studies' definitions, as `asdict` gives them, in words."""
    flat_old, flat_new = _flat(old), _flat(new)
    return [
        f"{name} was {flat_old.get(name)}, is {flat_new.get(name)}"
        for name in sorted({*flat_old, *flat_new})
        if flat_old.get(name) != flat_new.get(name)
    ]


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


def _one_of(names: Collection[str]) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        return None if isinstance(value, str) and value in names else did_you_mean(str(value), names)

    return check


def _number(low: float, high: float, whole: bool = False, above: bool = False) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        kinds = int if whole else (int, float)
        right = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        if right and (low < value if above else low <= value) and value <= high:
            return None
        least = "more than" if above else "at least"
        most = f" and at most {high:g}" if high < float("inf") else ""
        return f"Give a {'whole ' if whole else ''}number, {least} {low:g}{most}."

    return check


def _anything(value: Any) -> str | None:
    return None if isinstance(value, str) else "Give a name, in quotes."


MANY = float("inf")
_SETTINGS: dict[str, Callable[[Any], str | None]] = {
    "metric": _one_of(METRICS),
    "epochs": _number(1, MANY, whole=True),
    "cycle_epochs": _number(1, MANY, whole=True),
    "patience": _number(1, MANY, whole=True),
    "gap": _number(0, 1),
    "seed": _number(0, 2**32 - 1, whole=True),
    "sampler": _one_of(SAMPLERS),
    "pruner": _one_of(PRUNERS),
    "validation": _number(0, 0.5, above=True),
    "test": _number(0, 0.5, above=True),
    "flips": _one_of(FLIPS),
    "angle": _number(0, 180),
}
_NAMES: dict[str, Callable[[Any], str | None]] = {
    "backbone": _anything,
    "depth": _number(0, MANY, whole=True),
    "pixels": _number(8, 2048, whole=True),
    "lr_low": _number(0, MANY, above=True),
    "lr_high": _number(0, MANY, above=True),
    "cycle": _one_of(CYCLES),
    "augment": _number(0, 1),
    "class_weight": _number(0, 1),
    "optimizer": _one_of(OPTIMIZERS),
    "batch_size": _number(1, MANY, whole=True),
    "weight_decay": _number(0, MANY),
    "dropout": _number(0, 0.95),
    "label_smoothing": _number(0, 0.95),
    "mixup": _number(0, 4),
}
_WHOLE = {"depth", "pixels", "batch_size"}
_WORDS = {"backbone", "cycle", "optimizer"}


def _is_right(name: str, value: Any, wrong: list[tuple[str, str]]) -> bool:
    if name not in _SETTINGS:
        elsewhere = "It belongs under [space]." if name in _NAMES else did_you_mean(name, [*_SETTINGS, "space"])
        wrong.append((f"There is no setting {name!r}.", elsewhere))
        return False
    fix = _SETTINGS[name](value)
    if fix:
        wrong.append((f"{name} cannot be {value!r}.", fix))
    return fix is None


def _checked_range(name: str, value: Any, wrong: list[tuple[str, str]]) -> Ranged | None:
    """A scalar fixes, a list offers, a table {low, high, log, step} ranges."""
    if name not in _NAMES:
        elsewhere = "It belongs above [space]." if name in _SETTINGS else did_you_mean(name, _NAMES)
        wrong.append((f"There is nothing called {name!r} to search.", elsewhere))
        return None
    if isinstance(value, dict):
        return _checked_table(name, value, wrong)
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    fixes = [(one, fix) for one in values if (fix := _NAMES[name](one))]
    wrong.extend((f"{name} cannot be {one!r}.", fix) for one, fix in fixes)
    if not values:
        wrong.append((f"{name} is an empty list.", "Leave the line out, or name what to choose from."))
    if fixes or not values:
        return None
    return Fixed(values[0]) if len(values) == 1 else Choice(tuple(dict.fromkeys(values)))


def _checked_table(name: str, table: dict[str, Any], wrong: list[tuple[str, str]]) -> Ranged | None:
    known = {"low", "high", "log", "step"}
    if unknown := [key for key in table if key not in known]:
        wrong.append((f"{name} has no {unknown[0]!r}.", did_you_mean(unknown[0], known)))
        return None
    if not {"low", "high"} <= set(table) or name in _WORDS:
        wrong.append((f"{name} is not a range.", f"Write {name} = {{ low = ..., high = ... }}, a value, or a list."))
        return None
    low, high, log = table["low"], table["high"], bool(table.get("log", False))
    step = table.get("step", 1 if name in _WHOLE else None)
    if step is not None and (fix := _number(0, MANY, whole=name in _WHOLE, above=True)(step)):
        wrong.append((f"The step of {name} cannot be {step!r}.", fix))
        return None
    for edge in (low, high):
        if fix := _NAMES[name](edge):
            wrong.append((f"{name} cannot be {edge!r}.", fix))
            return None
    if low > high or (log and (low <= 0 or "step" in table or name in _WHOLE)):
        wrong.append((f"{name} cannot range from {low} to {high}{', log' if log else ''}.",
                      "Put the smaller first; a log range starts above 0 and has no step."))  # fmt: skip
        return None
    if low == high:
        return Fixed(low)
    if name in _WHOLE and step != 1:
        return Choice(tuple(range(low, high + 1, int(step or 1))))
    return Range(low, high, log, step)


def _check_together(settings: Settings, wrong: list[tuple[str, str]]) -> None:
    epochs, cycle = settings.epochs, settings.cycle_epochs
    if cycle and epochs is None:
        wrong.append(("cycle_epochs is given without epochs.", "Give epochs too, a multiple of it."))
    elif cycle and epochs and epochs % cycle:
        wrong.append(
            (f"{epochs} epochs are no whole number of cycles of {cycle}.", "Make epochs a multiple of cycle_epochs.")
        )


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in table.items() if name != "space"}
    return {**plain, **{f"space.{name}": value for name, value in table.get("space", {}).items()}}


def definition(settings: Settings) -> dict[str, Any]:
    """Settings as plain values that survive JSON, for the record and for `differences`."""
    return {**asdict(settings), "space": {f.name: _plain(getattr(settings.space, f.name)) for f in fields(SearchSpace)}}


def settings_from_record(plain: Mapping[str, Any]) -> Settings:
    """Settings from what `definition` made of them."""
    space = {name: value for name, value in plain["space"].items() if value != "by default"}
    ranges = {
        name: {key: edge for key, edge in value.items() if edge is not None} if isinstance(value, dict) else value
        for name, value in space.items()
    }
    settings = {name: value for name, value in plain.items() if name != "space" and value is not None}
    return read_settings(None, {**settings, **ranges})


def _plain(ranged: Ranged | None) -> Any:
    if ranged is None:
        return "by default"
    if isinstance(ranged, Fixed):
        return ranged.value
    return list(ranged.values) if isinstance(ranged, Choice) else asdict(ranged)


def epochs_for(n_train: int) -> int:
    """Epochs that show a trial about 6,000 pictures, between 4 and 12: small sets need more, large ones fewer."""
    return min(max(round(6000 / n_train), 4), 12)


def narrow(settings: Settings, **ranges: Ranged) -> Settings:
    """The same settings with some ranges replaced."""
    return replace(settings, space=replace(settings.space, **ranges))
