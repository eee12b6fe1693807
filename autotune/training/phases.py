"""The phases of a trial: what is trained, and for how many epochs, one after another on one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from autotune.training.params import Params

HEAD_SHARE = 1 / 3  # of the epochs, if the head is trained first
HEAD_FACTOR = 27.0  # of the highest learning rate: a head alone needs higher ones than pretrained stages


@dataclass(frozen=True)
class PlannedPhase:
    """A phase of a trial. A trial that is no recipe has one, or two with n_phases = 2.

    params: of this phase. Its depth is the number of last stages that this phase or an earlier one trains: the stages
    before them compute what the feature cache holds. n_trained: the last stages that this phase trains.
    """

    params: Params
    n_trained: int
    epochs: int
    cycle_epochs: int

    def ends_cycle(self, epoch: int) -> bool:
        """Return whether a cycle ends with this epoch of the phase, counted from 1."""
        return epoch % (self.epochs if self.params.cycle == "one-cycle" else self.cycle_epochs) == 0


def planned_phases(params: Params, epochs: int, cycle_epochs: int) -> tuple[PlannedPhase, ...]:
    """Return the phases of a trial. epochs, cycle_epochs: of a trial that is no recipe."""
    if not params.is_recipe and params.trains_head_first and epochs > 1:
        return _head_first(params, epochs, cycle_epochs)
    if not params.is_recipe:
        return (PlannedPhase(params, params.depth, epochs, cycle_epochs),)
    found, deepest = [], 0
    for one in params.phases:
        deepest = max(deepest, one.depth)
        own = {name: value for name, value in asdict(one).items() if name not in ("epochs", "cycle_epochs")}
        its_params = replace(params, **{**own, "depth": deepest, "phases": ()})
        found.append(PlannedPhase(its_params, one.depth, one.epochs, one.cycle_epochs))
    return tuple(found)


def _head_first(params: Params, epochs: int, cycle_epochs: int) -> tuple[PlannedPhase, PlannedPhase]:
    n = max(1, round(HEAD_SHARE * epochs))
    head = replace(params, depth=0, lr_high=HEAD_FACTOR * params.lr_high)
    return PlannedPhase(head, 0, n, cycle_epochs), PlannedPhase(params, params.depth, epochs - n, cycle_epochs)


def total_epochs(phases: Sequence[PlannedPhase]) -> int:
    return sum(one.epochs for one in phases)


def phase_of(phases: Sequence[PlannedPhase], epoch: int) -> tuple[int, int]:
    """Return the index of the phase that contains an epoch of the trial, and its number in the phase. Both epochs are
    counted from 1.
    """
    for index, one in enumerate(phases):
        if epoch <= one.epochs:
            return index, epoch
        epoch -= one.epochs
    raise ValueError(f"the phases end {epoch} epochs earlier")
