"""Allowed values of a setting, as declared by its field in the model: validation and description."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.fields import FieldInfo

from autotune.errors import did_you_mean
from autotune.search.ranges import Choice, Domain, Fixed, Range

BOUNDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


class FieldError(ValueError):
    """An invalid value, with a specific problem and fix for the user."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix


@dataclass(frozen=True, eq=False)
class OneOf:
    """Constraint of a field: one of the names in a table. The table is read at each check, so entries can be added."""

    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return handler.generate_schema(Annotated[source, AfterValidator(self._check)])

    def _check(self, name: str) -> str:
        if name not in self.names:
            raise ValueError("unknown name")
        return name


class Values:
    """Constraint of a range: type and limits of its values. Reads a Domain in the notation of study.toml."""

    def __init__(self, kind: type, *constraints: Any, **limits: float) -> None:
        self.kind = kind
        self.each: Any = Annotated[(kind, *constraints, Field(**limits))]  # type: ignore[call-overload]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        each: Any = self.each
        return handler.generate_schema(Annotated[list[each], WrapValidator(self._read)])

    def _read(self, given: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Domain | None:
        """Read a value as fixed, a list as a choice, a table {low, high, log, step} as a range. check: for lists."""
        name = str(info.field_name)
        if given is None or isinstance(given, Domain):
            return given
        if isinstance(given, dict):
            return self._read_table(name, given, check)
        values = list(given) if isinstance(given, (list, tuple)) else [given]
        if not values:
            raise FieldError(f"{name} is an empty list.", "Remove the line, or list at least one value.")
        check(values)
        return Fixed(values[0]) if len(values) == 1 else Choice(tuple(dict.fromkeys(values)))

    def _read_table(self, name: str, table: dict[str, Any], check: ValidatorFunctionWrapHandler) -> Domain:
        known = {"low", "high", "log", "step"}
        if unknown := [key for key in table if key not in known]:
            raise FieldError(f"{name} has no key {unknown[0]!r}.", did_you_mean(unknown[0], known))
        if not {"low", "high"} <= set(table) or self.kind is str:
            raise FieldError(
                f"{name} is not a range.", f"Write {name} = {{ low = ..., high = ... }}, a value, or a list."
            )
        low, high, log, is_whole = table["low"], table["high"], bool(table.get("log", False)), self.kind is int
        step = table.get("step", 1 if is_whole else None)
        if step is not None:
            _check_step(name, step, is_whole)
        check([low])
        check([high])
        if low > high or (log and (low <= 0 or "step" in table or is_whole)):
            raise FieldError(
                f"Invalid range for {name}: {low} to {high}{', log' if log else ''}.",
                "Put the smaller value first. A log range starts above 0 and has no step.",
            )
        if low == high:
            return Fixed(low)
        if is_whole and step != 1:
            return Choice(tuple(range(low, high + 1, int(step or 1))))
        return Range(low, high, log, step)


def _check_step(name: str, step: Any, is_whole: bool) -> None:
    kinds = int if is_whole else (int, float)
    if isinstance(step, bool) or not isinstance(step, kinds) or not 0 < step < math.inf:
        fix = f"Give a {'whole ' if is_whole else ''}number, more than 0."
        raise FieldError(f"The step of {name} cannot be {step!r}.", fix)


def choices(field: FieldInfo) -> Collection[str] | None:
    """Return the allowed names of a field, or of each value of a range; None if it is not restricted to names."""
    return next((one.names for one in _each(field).metadata if isinstance(one, OneOf)), None)


def limits(field: FieldInfo) -> str:
    """Describe the allowed values of a field, or of each value of a range: `whole number, at least 1`."""
    each = _each(field)
    kinds = {each.annotation, *get_args(each.annotation)}
    if str in kinds:
        return "string"
    bounds = [
        f"{words} {getattr(one, bound):,}"
        for one in each.metadata
        for bound, words in BOUNDS.items()
        if hasattr(one, bound)
    ]
    return f"{'whole ' if int in kinds else ''}number, {' and '.join(bounds)}"


def fix(field: FieldInfo, value: Any) -> str:
    """Return the fix for an invalid value of a field."""
    names = choices(field)
    return did_you_mean(str(value), names) if names is not None else f"Give a {limits(field)}."


def _each(field: FieldInfo) -> FieldInfo:
    """Return a field with its own constraints, or with those of each value of a range."""
    return next((FieldInfo.from_annotation(one.each) for one in field.metadata if isinstance(one, Values)), field)
