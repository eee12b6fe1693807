"""The recipe of a study: its first trial, with phases that study.toml states."""

from __future__ import annotations

from autotune.errors import ConfigError, did_you_mean
from autotune.search.candidates import Candidate, Selection
from autotune.search.settings import RecipePhase, Settings
from autotune.training.params import Params, Phase


def recipe_params(settings: Settings, selection: Selection) -> Params | None:
    """Return the hyperparameters of the recipe; None without one.

    Raises ConfigError if its backbone is not searched, or has fewer stages than a phase trains.
    """
    if not settings.recipe:
        return None
    one = _candidate(settings, selection)
    phases = tuple(_phase(number, phase, one) for number, phase in enumerate(settings.recipe, start=1))
    last = phases[-1]
    return Params(
        backbone=one.backbone.name,
        depth=max(phase.depth for phase in phases),
        pixels=one.options.pixels[0],
        lr_low=last.lr_low,
        lr_high=last.lr_high,
        cycle=last.cycle,
        augment=max(phase.augment for phase in phases),
        class_weight=last.class_weight,
        optimizer=last.optimizer,
        batch_size=last.batch_size,
        weight_decay=last.weight_decay,
        dropout=last.dropout,
        label_smoothing=last.label_smoothing,
        hidden=_hidden(settings),
        phases=phases,
    )


def _candidate(settings: Settings, selection: Selection) -> Candidate:
    searched = {one.backbone.name: one for one in selection.candidates}
    names = {phase.backbone for phase in settings.recipe if phase.backbone}
    if len(names) > 1:
        raise ConfigError(
            f"The phases of the recipe have different backbones: {', '.join(sorted(names))}.",
            "A recipe trains one network: name the same backbone in all phases, or in the first.",
        )
    if not names and len(searched) > 1:
        raise ConfigError(
            f"The recipe does not say which backbone it trains: {', '.join(searched)} are searched.",
            "Add backbone = NAME to its first phase.",
        )
    name = next(iter(names or searched))
    if name not in searched:
        reason = selection.left_out.get(name)
        raise ConfigError(
            f"The recipe trains {name}, which is not searched{f': {reason}' if reason else ''}.",
            did_you_mean(name, searched),
        )
    return searched[name]


def _hidden(settings: Settings) -> int:
    widths = {phase.hidden for phase in settings.recipe if phase.hidden is not None}
    if len(widths) > 1:
        raise ConfigError(
            f"The phases of the recipe have hidden layers of different widths: {', '.join(map(str, sorted(widths)))}.",
            "A recipe trains one network: state hidden once, in the first phase.",
        )
    return next(iter(widths), 0)


def _phase(number: int, given: RecipePhase, one: Candidate) -> Phase:
    from_scratch = one.backbone.traits.from_scratch
    depth = (one.n_stages if from_scratch else 0) if given.depth is None else given.depth
    if depth > one.n_stages or (from_scratch and depth < one.n_stages):
        whole = f"It has {one.n_stages} stages" + (", which are all trained from scratch" if from_scratch else "")
        raise ConfigError(
            f"Phase {number} of the recipe trains {depth} stages of {one.backbone.name}.",
            f"{whole}: omit depth." if from_scratch else f"{whole}: set depth to {one.n_stages} at most.",
        )
    plain = given.model_dump(exclude={"backbone", "hidden", "depth", "cycle_epochs"})
    return Phase(**plain, depth=depth, cycle_epochs=given.cycle_length)
