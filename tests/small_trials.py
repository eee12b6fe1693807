"""Contexts of small real studies, and a reporter that stores epochs."""

from pathlib import Path

from autotune.backbones.registry import discover
from autotune.cache.pixels import fill_pixels, pixel_rows
from autotune.data.catalog import read_catalog
from autotune.data.split import TRAIN, VALIDATION, split_catalog
from autotune.search.candidates import select_backbones
from autotune.search.plan import Plan, build_context, make_plan
from autotune.search.settings import read_settings
from autotune.training.context import TrialContext
from autotune.training.outcome import Epoch, OutOfTimeError


class KeptEpochs:
    """A reporter that stores the rows and stops the trial after `stop_after` of them.

    most_batches: after which the time limit has passed.
    """

    def __init__(self, stop_after: int = 0, reason: str = "pruned", most_batches: float = float("inf")) -> None:
        self.rows: list[Epoch] = []
        self._stop_after = stop_after
        self._reason = reason
        self._batches_left = most_batches

    def epoch(self, row: Epoch) -> str | None:
        self.rows.append(row)
        return self._reason if len(self.rows) == self._stop_after else None

    def check_time(self) -> None:
        self._batches_left -= 1
        if self._batches_left < 0:
            raise OutOfTimeError

    def cache_progress(self, done: int, total: int) -> None:
        pass


def trial_context(root: Path, plugins: tuple[Path, ...] = (), **flags: object) -> TrialContext:
    """Return the context of a study of these pictures, and cache their pixels. flags: its settings."""
    return build_context(trial_plan(root, plugins, **flags))


def trial_plan(root: Path, plugins: tuple[Path, ...] = (), **flags: object) -> Plan:
    """Return the plan of the same study."""
    settings = read_settings(None, flags, is_writing=True)
    parts = split_catalog(read_catalog(root), settings.seed)
    chosen = select_backbones(settings, discover(plugins), None, "cpu", parts.side, print)
    pictures = (*parts.part(TRAIN), *parts.part(VALIDATION))
    for one in chosen.candidates:
        how = one.backbone.traits.interpolation
        for pixels in one.options.pixels:
            fill_pixels(pixel_rows(pixels, how), root, pictures, how, lambda *_: None)
    return make_plan(settings, parts, chosen)
