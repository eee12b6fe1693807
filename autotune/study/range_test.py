"""The range test: the learning rate rises while a network trains, and the loss shows which rates a trial should cycle
between.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import tomlkit
from numpy.typing import NDArray
from optuna.trial import FixedTrial
from pytorch_lightning.tuner.tuning import Tuner
from scipy.ndimage import gaussian_filter1d

from autotune.cache import eviction
from autotune.errors import ConfigError, StudyError
from autotune.files import write_whole
from autotune.search.candidates import Selection, select_backbones
from autotune.search.plan import build_context, make_plan
from autotune.search.ranges import Choice, Domain, Fixed
from autotune.search.settings import SearchSpace, Settings
from autotune.search.space import BackboneOptions, suggest
from autotune.search.warm_start import first_trials
from autotune.study.checks import has_begun
from autotune.study.listener import StudyListener
from autotune.study.prepare import decode_pictures, prepare, study_folder
from autotune.study.request import SearchRequest
from autotune.training.context import LoadedBackbones, open_sources
from autotune.training.optimizers import find_optimizer
from autotune.training.outcome import Epoch
from autotune.training.params import Params, describe
from autotune.training.trainer import build_trainer, quiet_lightning
from autotune.training.trial import prepare_training, probe_file_name, run_probe

LEAST, MOST = 1e-7, 10.0  # the rates tried with AdamW; another optimizer's are these times its factor
STEPS = 100  # with more of them the loss falls before the rate that would make it fall is reached
STILL = STEPS // 5  # the first steps, whose rates change next to nothing
SMOOTHING = 3.0  # the standard deviation of a Gaussian, in steps
BEGUN, SLOWED = 0.1, 0.8  # of the fall
CLEAR = 5.0  # standard errors: a curve has many low points that the least of them could be

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class LossCurve:
    """The training loss of each step (S,), at a rate (S,) that rises from step to step."""

    rates: Numbers
    losses: Numbers

    @property
    def level(self) -> float:
        """The loss before the rates change it."""
        return float(np.median(self.losses[:STILL]))

    @property
    def capped(self) -> Numbers:
        """Without single bursts, which are no trend."""
        return np.asarray(np.minimum(np.nan_to_num(self.losses, nan=np.inf), 2 * self.level))

    @property
    def smoothed(self) -> Numbers:
        """By a centred filter: a running mean would lag behind the rate."""
        return np.asarray(gaussian_filter1d(self.capped, SMOOTHING))

    @property
    def error(self) -> float:
        """The standard error of a smoothed loss, from how single batches differ."""
        return float(np.std(self.capped[:STILL])) / math.sqrt(2 * math.sqrt(math.pi) * SMOOTHING)


@dataclass(frozen=True)
class RateBounds:
    """The rates at a tenth and at four fifths of the way from the loss's level down to its least."""

    low: float
    high: float
    least: float


@dataclass(frozen=True)
class TestedTrial:
    """The trial that a range test trains: one backbone, at one size and depth, with one optimizer. words: these."""

    params: Params
    from_scratch: bool
    words: str


@dataclass(frozen=True)
class RangeTestResult:
    """A measured curve. folder: the study's, if there is one. bounds: None where the loss does not clearly fall."""

    folder: Path
    has_begun: bool
    tested: TestedTrial
    device: str
    seed: int
    curve: LossCurve
    bounds: RateBounds | None

    @property
    def plot_name(self) -> str:
        return f"lr-find-{self.tested.params.backbone.replace(':', '-')}.png"

    def clear_bounds(self, plot: Path) -> RateBounds:
        """The bounds. Raises StudyError where there are none; plot: the file that shows why."""
        if self.bounds is None:
            raise _no_fall(self.curve, self.tested, plot)
        return self.bounds

    def to_json(self, plot: Path, written: Path | None) -> dict[str, Any]:
        """What `lr-find --json` prints. plot: the file of the curve; written: the study.toml with the bounds."""
        bounds = self.clear_bounds(plot)
        chosen = ("backbone", "depth", "pixels", "optimizer", "batch_size")
        return {
            "study": self.folder.name,
            **{name: getattr(self.tested.params, name) for name in chosen},
            "device": self.device,
            "seed": self.seed,
            "lr_low": bounds.low,
            "lr_high": bounds.high,
            "rates": self.curve.rates.tolist(),
            "losses": self.curve.losses.tolist(),
            "smoothed": self.curve.smoothed.tolist(),
            "plot": str(plot.resolve()),
            "written": str(written.resolve()) if written else None,
        }


def run_range_test(request: SearchRequest, listener: StudyListener) -> RangeTestResult:
    """Test the one backbone that `request` names. Raises StudyError where the loss is no number from the start."""
    folder = study_folder(request)
    with eviction.in_use(), tempfile.TemporaryDirectory() as place:
        backbones, tested = prepare_range_test(request, listener)
        curve = _measure(backbones, tested.params, Path(place), listener)
    if not math.isfinite(curve.level):
        raise StudyError("The training loss is no number, even at the lowest rate.", "Test another --backbone.")
    device, seed = str(backbones.device), backbones.context.seed
    return RangeTestResult(folder, has_begun(folder), tested, device, seed, curve, bounds_of(curve))


def prepare_range_test(request: SearchRequest, listener: StudyListener) -> tuple[LoadedBackbones, TestedTrial]:
    """All that a trial of the study would train on, and the trial."""
    ready = prepare(request, listener)
    selection = select_backbones(
        ready.settings, ready.registry, request.weights, ready.device, ready.split.side, listener.say
    )
    first = selection.candidates[0]
    one = replace(first, profiles=first.profiles[:1], depths=first.depths[:1])
    scratch, asked = one.backbone.traits.from_scratch, (request.flags or {}).get("depth")
    if scratch and asked not in (None, one.n_stages):
        raise ConfigError(
            f"{one.backbone.name} trains from scratch, all {one.n_stages} stages of it.", "Leave out --depth."
        )
    plan = make_plan(ready.settings, ready.split, Selection((one,), {}, ready.device))
    decode_pictures(ready.split, ready.root, plan.selection, listener)
    params = _params(plan.settings, one.options)
    words = describe(params, one.backbone.label, one.n_stages, scratch)
    words = f"{words.partition(f', {params.optimizer} ')[0]}, {params.optimizer}, batch {params.batch_size}"
    return LoadedBackbones(build_context(plan, 1)), TestedTrial(params, scratch, words)


def refuse_to_write(request: SearchRequest) -> None:
    """Raise an error where the bounds could not be written, or where no search would read them."""
    folder = study_folder(request)
    if has_begun(folder):
        raise StudyError(
            f"Study {folder.name} has begun, so its definition cannot change.", "Write for another: --study NAME"
        )
    if request.config:
        raise ConfigError(
            f"--write changes {folder / 'study.toml'}, which a search with --config does not read.",
            "Leave out --config or --write.",
        )


def write_bounds(folder: Path, tested: TestedTrial, bounds: RateBounds) -> Path:
    """Fix the bounds in the study's own study.toml, and what they were measured with; the rest of it is kept."""
    file = folder / "study.toml"
    document = tomlkit.parse(file.read_bytes().decode()) if file.is_file() else tomlkit.document()
    ranges = cast(MutableMapping[str, Any], document.setdefault("space", tomlkit.table()))
    ranges.update(fixed_with_bounds(tested), lr_low=bounds.low, lr_high=bounds.high)
    write_whole(file, tomlkit.dumps(document))
    return file


def fixed_with_bounds(tested: TestedTrial) -> dict[str, Any]:
    """What bounds depend on most. It is fixed with them: they do not fit another backbone, depth or optimizer."""
    params = tested.params
    depth = {} if tested.from_scratch else {"depth": params.depth}
    return {"backbone": params.backbone, **depth, "optimizer": params.optimizer}


def bounds_of(curve: LossCurve) -> RateBounds | None:
    """The bounds that a curve suggests; None where it does not fall by more than chance would have it.

    After Smith (2017, section 3.3): from where training begins to gain to where the gain slows, which is here a tenth
    and four fifths of the way down. The least loss itself lies where training is about to diverge or, on few
    pictures, has memorised them; a tenth of its rate (fastai's `minimum`) is one or the other at random.
    """
    smoothed, level = curve.smoothed, curve.level
    end = int(smoothed.argmin())
    fall = level - float(smoothed[end])
    if end < STILL or not fall > CLEAR * curve.error:
        return None

    def rate_below(loss: float) -> float:
        """The first rate from which the curve stays below a loss, until its least."""
        above = np.flatnonzero(smoothed[:end] > loss)
        return float(f"{curve.rates[above[-1] + 1 if above.size else 0]:.1e}")

    return RateBounds(rate_below(level - BEGUN * fall), rate_below(level - SLOWED * fall), level - fall)


def _params(settings: Settings, backbone: BackboneOptions) -> Params:
    """The choices of the first trial of a search, as far as study.toml allows them, and the whole span of rates."""
    recipe = first_trials(settings.space, (backbone,))[0]

    def fixed(name: str, ranged: Domain) -> Domain:
        if name in recipe:
            return Fixed(recipe[name])
        return Fixed(ranged.values[0]) if isinstance(ranged, Choice) else ranged

    ranges = {name: fixed(name, getattr(settings.space, name)) for name in SearchSpace.model_fields}
    optimizer = ranges["optimizer"]
    assert isinstance(optimizer, Fixed)
    rate = find_optimizer(str(optimizer.value)).learning_rate_factor
    ranges |= {"lr_low": Fixed(LEAST * rate), "lr_high": Fixed(MOST * rate)}
    # All ranges are fixed, so that the trial is asked for nothing.
    return suggest(FixedTrial({}), SearchSpace(**ranges), (backbone,))  # type: ignore[arg-type]


class _Reporter:
    """Takes the place of a driver: lets the probe run to its end."""

    def __init__(self, listener: StudyListener) -> None:
        self._listener = listener

    def epoch(self, row: Epoch) -> str | None:
        return None

    def cache_progress(self, done: int, total: int) -> None:
        self._listener.progress("Feature cache")(done, total)


def _measure(backbones: LoadedBackbones, params: Params, place: Path, listener: StudyListener) -> LossCurve:
    """Train as trial 0 would, at rates that rise from params.lr_low to lr_high, until the loss diverges."""
    reporter = _Reporter(listener)
    files = {}
    if backbones.context.starts_from_probe(params):
        probe = run_probe(backbones, params.backbone, params.pixels, reporter)
        files = {probe_file_name(params.backbone, params.pixels): probe.head}
    sources = open_sources(backbones, params, reporter.cache_progress)
    net, batches = prepare_training(backbones, params, sources.train, 0, files)
    losses: list[float] = []
    step = net.training_step

    # Lightning gives a running mean only, which lags by a decade, and whose first values are far too small.
    def recorded_step(*batch: Any) -> Any:
        loss = step(*batch)
        losses.append(float(loss))
        listener.progress("Range test")(len(losses), STEPS)
        net.trainer.should_stop = _has_diverged(losses)
        return loss

    net.training_step = recorded_step  # type: ignore[assignment, method-assign]
    with quiet_lightning(), contextlib.redirect_stderr(io.StringIO()):  # which has a bar of its own
        trainer = build_trainer(
            backbones.device, net, max_epochs=STEPS, enable_checkpointing=False, default_root_dir=place
        )
        # Its own early stop is off: a head that fits from the start varies fourfold from batch to batch.
        try:
            finder = Tuner(trainer).lr_find(
                net, batches, min_lr=params.lr_low, max_lr=params.lr_high, num_training=STEPS,
                early_stop_threshold=None, update_attr=False,
            )  # fmt: skip
        except SystemExit as leave:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from leave
    listener.close()
    assert finder
    return LossCurve(np.array(finder.results["lr"][: len(losses)]), np.array(losses))


def _has_diverged(losses: list[float]) -> bool:
    """Whether the loss, apart from single bursts, is twice what it was at first, or no number."""
    return len(losses) > STILL and not np.median(losses[-7:]) <= 2 * np.median(losses[:STILL])


def _no_fall(curve: LossCurve, tested: TestedTrial, plot: Path) -> StudyError:
    least, most = curve.rates[0], curve.rates[-1]
    if _has_diverged(list(curve.losses)):
        problem = f"The loss, {curve.level:.2g}, never clearly fell before it ran away, by a rate of {most:.1e}"
    else:
        problem = f"The loss stayed about {curve.level:.2g} at all rates from {least:.1e} to {most:.1e}"
    if tested.params.depth and not tested.from_scratch:
        fix = "The head it starts with fits already: leave lr_low and lr_high to the search, or test another --depth."
    else:
        fix = "Look whether the labels are right (autotune data), or test another --backbone or --depth."
    return StudyError(f"{problem} (see {plot}).", fix)
