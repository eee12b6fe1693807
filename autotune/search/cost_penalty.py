"""The value that the sampler and the finals' reference go by: a score minus a penalty for the cost of the trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.data.split import VALIDATION
from autotune.search.cost import picture_operations
from autotune.search.plan import Plan
from autotune.training.params import Params

PICTURES = 5  # of the validation set: the penalty of the most expensive trials


@dataclass(frozen=True)
class CostPenalty:
    """A penalty of five validation pictures for a study's most expensive trials, and its share for cheaper ones.

    Without it, a sampler spends most of its time on the most expensive trials once one of them is a picture better.
    operations: to train on one picture, by backbone, size and number of unfrozen stages. n_validation: pictures.
    """

    operations: Mapping[tuple[str, int, int], float]
    n_validation: int

    def applied(self, value: float, params: Params) -> float:
        """Return a score minus the penalty of a trial with these hyperparameters."""
        cost = self.operations[params.backbone, params.pixels, params.depth]
        most = max(self.operations.values()) or 1  # 0: a network without a counted operation
        return value - cost / most * PICTURES / self.n_validation


def cost_penalty(plan: Plan) -> CostPenalty:
    """Return the penalty for the trials of a study."""
    operations = picture_operations(plan.selection, plan.cuts, plan.recipe)
    return CostPenalty(operations, len(plan.split.part(VALIDATION)))
