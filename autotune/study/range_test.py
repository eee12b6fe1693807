"""The learning rate range test: train at a rising learning rate, and choose lr_low and lr_high from the loss."""

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
from autotune.search.plan import build_context, make_plan, pick_device
from autotune.search.ranges import Choice, Domain, Fixed
from autotune.search.settings import SearchSpace, Settings
from autotune.search.space import BackboneOptions, suggest
from autotune.search.warm_start import first_trials
from autotune.study.check_request import study_folder
from autotune.study.checks import has_started
from autotune.study.listener import StudyListener
from autotune.study.prepare import decode_pictures, prepare
from autotune.study.request import SearchRequest
from autotune.training.context import LoadedBackbones, open_sources
from autotune.training.lightning.trainer import build_trainer, quiet_lightning
from autotune.training.optimizers import find_optimizer
from autotune.training.outcome import Epoch
from autotune.training.params import Params, describe
from autotune.training.probe import probe_file_name
from autotune.training.trial import prepare_trial, run_probe

LEAST, MOST = 1e-7, 10.0  # learning rates with AdamW; multiplied by the factor of another optimizer
STEPS = 100  # with more, the many steps at low learning rates already lower the loss
STILL = STEPS // 5  # the first steps, whose learning rates are too low to change the loss
SMOOTHING = 3.0  # the standard deviation of the Gaussian filter, in steps
STARTED, SLOWED = 0.1, 0.8  # shares of the fall in loss, reached at lr_low and lr_high
CLEAR = 5.0  # standard errors, because the lowest of many noisy points is low by chance

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class LossCurve:
    """The learning rate (S,), which rises from step to step, and the training loss (S,) of each step."""

    rates: Numbers
    losses: Numbers

    @property
    def level(self) -> float:
        """The loss before the learning rate changes it."""
        return float(np.median(self.losses[:STILL]))

    @property
    def capped(self) -> Numbers:
        """The losses without isolated spikes."""
        return np.asarray(np.minimum(np.nan_to_num(self.losses, nan=np.inf), 2 * self.level))

    @property
    def smoothed(self) -> Numbers:
        """The losses after a centred filter; a running mean would lag behind the learning rate."""
        return np.asarray(gaussian_filter1d(self.capped, SMOOTHING))

    @property
    def error(self) -> float:
        """The standard error of a smoothed loss, from the differences between batches."""
        return float(np.std(self.capped[:STILL])) / math.sqrt(2 * math.sqrt(math.pi) * SMOOTHING)


@dataclass(frozen=True)
class RateBounds:
    """The learning rates at a tenth and at four fifths of the fall from the initial loss to the lowest, `least`."""

    low: float
    high: float
    least: float


@dataclass(frozen=True)
class TestedTrial:
    """The trial that a range test trains: one backbone, size, depth and optimizer. words: these as text."""

    params: Params
    from_scratch: bool
    words: str


@dataclass(frozen=True)
class RangeTestResult:
    """A measured curve. folder: of the study; it may not exist. bounds: None if the loss does not clearly fall."""

    folder: Path
    has_started: bool
    tested: TestedTrial
    device: str
    seed: int
    curve: LossCurve
    bounds: RateBounds | None

    @property
    def plot_name(self) -> str:
        return f"lr-find-{self.tested.params.backbone.replace(':', '-')}.png"

    def clear_bounds(self, plot: Path) -> RateBounds:
        """Return the bounds. Raises StudyError if there are none; plot: the file with the curve."""
        if self.bounds is None:
            raise _no_fall(self.curve, self.tested, plot)
        return self.bounds

    def to_json(self, plot: Path, written: Path | None) -> dict[str, Any]:
        """Return the object that `lr-find --json` prints. plot: the file with the curve; written: the study.toml."""
        bounds = self.clear_bounds(plot)
        names = ("backbone", "depth", "pixels", "optimizer", "batch_size")
        return {
            "study": self.folder.name,
            **{name: getattr(self.tested.params, name) for name in names},
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
    """Test the backbone of a request. Raises StudyError if the loss is not finite from the start."""
    folder = study_folder(request)
    with eviction.in_use(), tempfile.TemporaryDirectory() as place:
        backbones, tested = prepare_range_test(request, listener)
        curve = _measure(backbones, tested.params, Path(place), listener)
    if not math.isfinite(curve.level):
        raise StudyError(
            "The training loss is not finite, even at the lowest learning rate.", "Test another --backbone."
        )
    device, seed = str(backbones.device), backbones.context.seed
    return RangeTestResult(folder, has_started(folder), tested, device, seed, curve, bounds_of(curve))


def prepare_range_test(request: SearchRequest, listener: StudyListener) -> tuple[LoadedBackbones, TestedTrial]:
    """Return what the trials of the study would train on, and the trial to test."""
    ready = prepare(request, listener, pick_device(request.device))
    selection = select_backbones(
        ready.settings, ready.registry, request.weights, ready.device, ready.split.side, listener.say
    )
    first = selection.candidates[0]
    one = replace(first, profiles=first.profiles[:1], depths=first.depths[:1])
    scratch, asked = one.backbone.traits.from_scratch, (request.flags or {}).get("depth")
    if scratch and asked not in (None, one.n_stages):
        raise ConfigError(
            f"{one.backbone.name} trains from scratch, so all {one.n_stages} stages are trained.", "Remove --depth."
        )
    settings = ready.settings.model_copy(update={"recipe": ()})  # it may train another backbone
    plan = make_plan(settings, ready.split, Selection((one,), {}, ready.device))
    decode_pictures(ready.split, ready.root, plan.selection, listener)
    params = _params(plan.settings, one.options)
    words = describe(params, one.backbone.label, one.n_stages, scratch)
    words = f"{words.partition(f', {params.optimizer} ')[0]}, {params.optimizer}, batch {params.batch_size}"
    return LoadedBackbones(build_context(plan)), TestedTrial(params, scratch, words)


def refuse_to_write(request: SearchRequest) -> None:
    """Raise an error if the bounds cannot be written, or if a search would not read them."""
    folder = study_folder(request)
    if has_started(folder):
        raise StudyError(
            f"Study {folder.name} has started, so its settings cannot change.", "Write to another study: --study NAME"
        )
    if request.config:
        raise ConfigError(
            f"--write changes {folder / 'study.toml'}, which a search with --config does not read.",
            "Remove --config or --write.",
        )


def write_bounds(folder: Path, tested: TestedTrial, bounds: RateBounds) -> Path:
    """Write the bounds, and what they were measured with, to the study's study.toml. Its other content is kept."""
    file = folder / "study.toml"
    document = tomlkit.parse(file.read_bytes().decode()) if file.is_file() else tomlkit.document()
    ranges = cast(MutableMapping[str, Any], document.setdefault("space", tomlkit.table()))
    ranges.update(fixed_with_bounds(tested), lr_low=bounds.low, lr_high=bounds.high)
    write_whole(file, tomlkit.dumps(document))
    return file


def fixed_with_bounds(tested: TestedTrial) -> dict[str, Any]:
    """Return what bounds depend on most. It is fixed with them: each backbone, depth and optimizer needs its own."""
    params = tested.params
    depth = {} if tested.from_scratch else {"depth": params.depth}
    return {"backbone": params.backbone, **depth, "optimizer": params.optimizer}


def bounds_of(curve: LossCurve) -> RateBounds | None:
    """Return the bounds that a curve suggests; None if it falls no more than by chance.

    After Smith (2017, section 3.3): from where the loss starts to fall to where the fall slows, here a tenth and four
    fifths of the way down. At the lowest loss, training is about to diverge or, with few pictures, has memorised them;
    a tenth of that learning rate (fastai's `minimum`) is one or the other at random.
    """
    smoothed, level = curve.smoothed, curve.level
    end = int(smoothed.argmin())
    fall = level - float(smoothed[end])
    if end < STILL or not fall > CLEAR * curve.error:
        return None

    def rate_below(loss: float) -> float:
        """Return the first learning rate from which the curve stays below a loss until its minimum."""
        above = np.flatnonzero(smoothed[:end] > loss)
        return float(f"{curve.rates[above[-1] + 1 if above.size else 0]:.1e}")

    return RateBounds(rate_below(level - STARTED * fall), rate_below(level - SLOWED * fall), level - fall)


def _params(settings: Settings, backbone: BackboneOptions) -> Params:
    """Return the hyperparameters of a search's first trial, with all learning rates from LEAST to MOST."""
    first = first_trials(settings.space, (backbone,))[0]

    def fixed(name: str, ranged: Domain) -> Domain:
        if name in first:
            return Fixed(first[name])
        return Fixed(ranged.values[0]) if isinstance(ranged, Choice) else ranged

    ranges = {name: fixed(name, getattr(settings.space, name)) for name in SearchSpace.model_fields}
    optimizer = ranges["optimizer"]
    assert isinstance(optimizer, Fixed)
    factor = find_optimizer(str(optimizer.value)).learning_rate_factor
    ranges |= {"lr_low": Fixed(LEAST * factor), "lr_high": Fixed(MOST * factor), "phases": Fixed(1)}
    # All ranges are fixed, so Optuna's trial has nothing to suggest.
    return suggest(FixedTrial({}), SearchSpace(**ranges), (backbone,))  # type: ignore[arg-type]


class _Reporter:
    """Replaces a driver; never stops the probe."""

    def __init__(self, listener: StudyListener) -> None:
        self._listener = listener

    def epoch(self, row: Epoch) -> str | None:
        return None

    def check_time(self) -> None:
        """There is no time limit."""

    def cache_progress(self, done: int, total: int) -> None:
        self._listener.progress("Feature cache")(done, total)


def _measure(backbones: LoadedBackbones, params: Params, place: Path, listener: StudyListener) -> LossCurve:
    """Train as trial 0 would, at a learning rate rising from params.lr_low to lr_high, until the loss diverges."""
    reporter = _Reporter(listener)
    files = {}
    if backbones.context.starts_from_probe(params):
        probe = run_probe(backbones, params.backbone, params.pixels, reporter)
        files = {probe_file_name(params.backbone, params.pixels): probe.head}
    sources = open_sources(backbones, params, backbones.context.train, (), reporter.cache_progress)
    net, batches = prepare_trial(backbones, params, sources.train, 0, files)
    losses: list[float] = []
    step = net.training_step

    # Lightning returns only a running mean, which lags by a decade and starts far too small.
    def recorded_step(*batch: Any) -> Any:
        loss = step(*batch)
        losses.append(float(loss))
        listener.progress("Range test")(len(losses), STEPS)
        net.trainer.should_stop = _has_diverged(losses)
        return loss

    net.training_step = recorded_step  # type: ignore[assignment, method-assign]
    with quiet_lightning(), contextlib.redirect_stderr(io.StringIO()):  # hides Lightning's progress bar
        trainer = build_trainer(backbones.device, net, max_epochs=STEPS, default_root_dir=place)
        # No early stopping by Lightning: the loss of a head that fits from the start varies fourfold between batches.
        try:
            finder = Tuner(trainer).lr_find(
                net, batches, min_lr=params.lr_low, max_lr=params.lr_high, num_training=STEPS,
                early_stop_threshold=None, update_attr=False,
            )  # fmt: skip
        except SystemExit as leave:  # Lightning replaces KeyboardInterrupt on Ctrl-C
            raise KeyboardInterrupt from leave
    listener.close()
    assert finder
    return LossCurve(np.array(finder.results["lr"][: len(losses)]), np.array(losses))


def _has_diverged(losses: list[float]) -> bool:
    """Return whether the loss, apart from isolated spikes, has doubled since the start or is NaN."""
    return len(losses) > STILL and not np.median(losses[-7:]) <= 2 * np.median(losses[:STILL])


def _no_fall(curve: LossCurve, tested: TestedTrial, plot: Path) -> StudyError:
    least, most = curve.rates[0], curve.rates[-1]
    if _has_diverged(list(curve.losses)):
        problem = f"The loss never clearly fell below {curve.level:.2g} before it diverged at learning rate {most:.1e}"
    else:
        problem = f"The loss stayed at about {curve.level:.2g} at all learning rates from {least:.1e} to {most:.1e}"
    if tested.params.depth and not tested.from_scratch:
        fix = "The initial head already fits: let the search choose lr_low and lr_high, or test another --depth."
    else:
        fix = "Check the labels with `autotune data`, or test another --backbone or --depth."
    return StudyError(f"{problem} (see {plot}).", fix)
