"""The budget of a study: what a network may cost on a device, applied before the search.

Optuna prunes trials of one objective only, so the limits are a filter, and the report draws the scores against the
costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from autotune.backbones.registry import build_stages
from autotune.backbones.spec import Backbone
from autotune.errors import ConfigError
from autotune.formats.cost import DeviceProfile, NetworkCost, this_device
from autotune.formats.measure import measure_cost
from autotune.formats.table import find_format
from autotune.search.settings import Settings

ADVICE = "Raise the limit with --max-ms or --max-mb, or search other backbones or smaller sizes: --pixels."
SMALLER = (192, 160, 128, 96, 64, 48, 32)  # sizes that are suggested


class OverBudgetError(ConfigError):
    """A backbone is over the limits at every size."""


@dataclass
class Budget:
    """The limits of a study, and what its networks cost. profile: of another device; None: this one is measured.

    n_labels: classes of the study. costs: of the networks asked for so far.
    """

    settings: Settings
    n_labels: int
    say: Callable[[str], None]
    profile: DeviceProfile | None = None
    costs: list[NetworkCost] = field(default_factory=list)
    _over: list[Backbone] = field(default_factory=list, init=False)

    @property
    def is_limited(self) -> bool:
        return self.settings.max_ms is not None or self.settings.max_mb is not None

    @property
    def measured(self) -> DeviceProfile:
        """The costs of the networks asked for so far."""
        return DeviceProfile(self.profile.device if self.profile else this_device(), tuple(self.costs))

    def cost(self, backbone: Backbone, chain: nn.Sequential, pixels: int) -> NetworkCost:
        """Return the cost of a network. Raises ConfigError if the profile does not contain it."""
        format = find_format(self.settings.format)
        if self.profile is None:
            found = measure_cost(backbone, chain, pixels, format)
        elif (known := self.profile.find(backbone.name, pixels, format.name)) is None:
            raise ConfigError(
                f"The device profile has no {backbone.name} at {pixels} pixels as {format.name}.",
                f"Add it on the device: autotune profile --backbone {backbone.name} --pixels {pixels} --format "
                f"{format.name} --out FILE",
            )
        else:
            found = known
        if found not in self.costs:
            self.costs.append(found)
        return found

    def fits(self, cost: NetworkCost) -> bool:
        max_ms, max_mb = self.settings.max_ms, self.settings.max_mb
        is_fast = max_ms is None or cost.milliseconds <= max_ms
        return is_fast and (max_mb is None or cost.megabytes(self.n_labels) <= max_mb)

    def affordable(self, backbone: Backbone, chain: nn.Sequential, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sizes within the limits. Raises OverBudgetError if there is none."""
        if not self.is_limited:
            return sizes
        costs = [self.cost(backbone, chain, size) for size in sizes]
        kept = tuple(cost.pixels for cost in costs if self.fits(cost))
        over = ", ".join(self.words(cost) for cost in costs if not self.fits(cost))
        if not kept:
            self._over.append(backbone)
            raise OverBudgetError(f"{over}, more than {self.limits}", ADVICE)
        if over:
            self.say(f"Skipped: {backbone.name} at some sizes: {over}, more than {self.limits}")
        return kept

    @property
    def limits(self) -> str:
        """The limits in words."""
        given = ((self.settings.max_ms, "ms"), (self.settings.max_mb, "MB"))
        return " and ".join(f"{value:g} {unit}" for value, unit in given if value is not None)

    def words(self, cost: NetworkCost) -> str:
        return f"{cost.milliseconds:.1f} ms and {cost.megabytes(self.n_labels):.1f} MB at {cost.pixels} pixels"

    def nothing_fits(self) -> ConfigError | None:
        """Return the error of a study without backbones, if the limits are the reason. It says what would fit."""
        if not self._over:
            return None
        names = {one.name: one for one in self._over}
        found = [cost for cost in self.costs if cost.backbone in names]
        is_timed = self.settings.max_ms is not None
        nearest = min(found, key=lambda one: one.milliseconds if is_timed else one.megabytes(self.n_labels))
        name, which = nearest.backbone, "fastest" if is_timed else "smallest"
        smaller = self._smaller(names[name], nearest.pixels) if is_timed else None
        return ConfigError(
            f"No backbone fits into {self.limits} as {nearest.format}. The {which} is {name}: {self.words(nearest)}.",
            f"{self.words(smaller)} fit: --backbone {name} --pixels {smaller.pixels}" if smaller else ADVICE,
        )

    def _smaller(self, backbone: Backbone, pixels: int) -> NetworkCost | None:
        """Return the cost at the largest smaller size that would fit; None if it cannot be found."""
        if self.profile or backbone.traits.fixed_pixels or backbone.traits.from_scratch:
            return None
        chain = build_stages(backbone, pretrained=False)
        costs = (self.cost(backbone, chain, size) for size in SMALLER if size < pixels)
        return next(filter(self.fits, costs), None)
