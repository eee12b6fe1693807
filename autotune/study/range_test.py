"""The range test: rates rise while a network trains, and its loss says between which of them a trial should cycle."""

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
import plotext
import tomlkit
from matplotlib.figure import Figure
from numpy.typing import NDArray
from optuna.trial import FixedTrial
from pytorch_lightning.tuner.tuning import Tuner
from scipy.ndimage import gaussian_filter1d

from autotune.backbones.registry import discover
from autotune.cache import eviction
from autotune.data import datasets
from autotune.errors import ConfigError, StudyError
from autotune.files import write_whole
from autotune.search.candidates import Candidate, Selection, fixed_names, select_backbones
from autotune.search.plan import build_context, choose_cuts, pick_device, resolve_settings
from autotune.search.ranges import Choice, Domain, Fixed
from autotune.search.settings import SearchSpace, Settings, read_settings
from autotune.search.space import BackboneOptions, suggest
from autotune.search.warm_start import first_trials
from autotune.study.checks import has_begun
from autotune.study.listener import StudyListener
from autotune.study.request import SearchRequest
from autotune.study.run import decode_pictures, read_pictures, study_config, study_folder
from autotune.training.context import LoadedBackbones, open_sources
from autotune.training.optimizers import LEARNING_RATE_FACTORS
from autotune.training.outcome import Epoch
from autotune.training.params import Params, describe
from autotune.training.trainer import build_trainer, quiet_lightning
from autotune.training.trial import prepare_training, run_probe

LEAST, MOST = 1e-7, 10.0  # the rates tried with AdamW; `RATES` moves them for another optimizer
STEPS = 100  # with more of them the loss falls before the rate that would make it fall has come
STILL = STEPS // 5  # the first steps, whose rates change next to nothing
SMOOTHING = 3.0  # the standard deviation of a Gaussian, in steps
BEGUN, SLOWED = 0.1, 0.8  # of the fall
CLEAR = 5.0  # standard errors: a curve has many low points that the least of them could be
WIDTH, HEIGHT = 80, 16  # of the plot in the terminal

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
        """One burst is no trend."""
        return np.asarray(np.minimum(np.nan_to_num(self.losses, nan=np.inf), 2 * self.level))

    @property
    def smoothed(self) -> Numbers:
        """Centred: a running mean would blame a rate for those before it."""
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
    """What a range test is of: one backbone, at one size and depth, with one optimizer."""

    one: Candidate
    params: Params
    words: str


def run_range_test(request: SearchRequest, write: bool, listener: StudyListener) -> dict[str, Any]:
    """Test the one backbone that `request` names; show and save the curve. Returns bounds and curve as plain values.

    write: fix the bounds in the study's own study.toml. Raises StudyError where the loss does not clearly fall, or
    where a study that has begun should be written to.
    """
    folder = study_folder(request)
    if write:
        _refuse_to_write(request, folder)
    with eviction.in_use(), tempfile.TemporaryDirectory() as place:
        backbones, tested = _prepared(request, folder, Path(place), listener)
        curve = _ridden(backbones, tested.params, Path(place), listener)
    if not math.isfinite(curve.level):
        raise StudyError("The training loss is no number, even at the lowest rate.", "Test another --backbone.")
    bounds = bounds_of(curve)
    home = folder if write or folder.is_dir() else Path()
    home.mkdir(parents=True, exist_ok=True)
    image = home / f"lr-find-{tested.params.backbone.replace(':', '-')}.png"
    _save(curve, bounds, tested.words, image)
    listener.say(_drawn(curve, bounds))
    if bounds is None:
        raise _no_fall(curve, tested, image)
    _say(curve, bounds, tested, image, listener)
    written = _write(folder, tested, bounds) if write else None
    if written:
        listener.say(_words_of_writing(written, tested))
    elif not has_begun(folder):
        listener.say(f"With --write they go into {folder / 'study.toml'}.")
    return _plain(folder, backbones, tested, curve, bounds, image, written)


def bounds_of(curve: LossCurve) -> RateBounds | None:
    """The bounds that a curve suggests; None where it does not fall by more than chance would have it.

    After Smith (2017, section 3.3): from where training begins to gain to where the gain slows, which is here a tenth
    and four fifths of the way down. The least loss itself lies where training is about to run away or, on few
    pictures, has learnt them by heart; a tenth of its rate (fastai's `minimum`) is one or the other at random.
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


def _refuse_to_write(request: SearchRequest, folder: Path) -> None:
    if has_begun(folder):
        raise StudyError(
            f"Study {folder.name} has begun, so its definition cannot change.", "Write for another: --study NAME"
        )
    if request.config:
        raise ConfigError(
            f"--write changes {folder / 'study.toml'}, which a search with --config does not read.",
            "Leave out --config or --write.",
        )


def _prepared(
    request: SearchRequest, folder: Path, place: Path, listener: StudyListener
) -> tuple[LoadedBackbones, TestedTrial]:
    """All that a trial of the study would train on; what it leaves on disk goes to `place`, being no trial's."""
    given = request.flags or {}
    settings = read_settings(study_config(request, folder), given, is_writing=datasets.is_writing(request.data))
    registry = discover(request.plugins)
    for name in fixed_names(settings.space.backbone):
        registry.find(name)
    device = pick_device(request.device)
    parts, root = read_pictures(request, folder, settings, registry, listener)
    settings = resolve_settings(settings, parts)
    made = select_backbones(settings, registry, request.weights, device, parts.side, listener.say)
    one = replace(made.candidates[0], profiles=made.candidates[0].profiles[:1], depths=made.candidates[0].depths[:1])
    scratch, stages = one.backbone.traits.from_scratch, one.profiles[0].stages
    if scratch and given.get("depth") not in (None, stages):
        raise ConfigError(f"{one.backbone.name} trains from scratch, all {stages} stages of it.", "Leave out --depth.")
    chosen = Selection((one,), {}, device)
    decode_pictures(parts, root, chosen, listener)
    params = _params(settings, one.arm)
    words = describe(vars(params), {"label": one.backbone.label, "stages": stages, "from_scratch": scratch})
    words = f"{words.partition(f', {params.optimizer} ')[0]}, {params.optimizer}, batch {params.batch_size}"
    context = build_context(settings, parts, chosen, 1, place, choose_cuts(chosen, settings, parts))
    return LoadedBackbones(context), TestedTrial(one, params, words)


def _params(settings: Settings, arm: BackboneOptions) -> Params:
    """The choices of an old hand's first trial, as far as study.toml allows them, and the whole span of rates."""
    recipe = first_trials(settings.space, (arm,))[0]

    def fixed(name: str, ranged: Domain) -> Domain:
        if name in recipe:
            return Fixed(recipe[name])
        return Fixed(ranged.values[0]) if isinstance(ranged, Choice) else ranged

    ranges = {name: fixed(name, getattr(settings.space, name)) for name in SearchSpace.model_fields}
    optimizer = ranges["optimizer"]
    assert isinstance(optimizer, Fixed)
    rate = LEARNING_RATE_FACTORS[str(optimizer.value)]
    ranges |= {"lr_low": Fixed(LEAST * rate), "lr_high": Fixed(MOST * rate)}
    return suggest(FixedTrial({}), SearchSpace(**ranges), (arm,))  # type: ignore[arg-type]  # all is fixed: none is asked


class _Reporter:
    """Hears what a trial tells its driver."""

    def __init__(self, listener: StudyListener) -> None:
        self._listener = listener

    def epoch(self, row: Epoch) -> str | None:
        return None

    def banking(self, done: int, total: int) -> None:
        self._listener.progress("Bank")(done, total)


def _ridden(backbones: LoadedBackbones, params: Params, place: Path, listener: StudyListener) -> LossCurve:
    """Train as trial 0 would, at rates that rise from params.lr_low to lr_high, until the loss has run away."""
    reporter = _Reporter(listener)
    if params.depth and not backbones.context.backbones[params.backbone][0].traits.from_scratch:
        run_probe(backbones, params.backbone, params.pixels, reporter)
    source, *_ = open_sources(backbones, params, reporter.banking)
    net, batches = prepare_training(backbones, params, source, 0)
    losses: list[float] = []
    step = net.training_step

    # Lightning hands out a running mean alone, which lags by a decade, and whose first values are far too small.
    def watched(*batch: Any) -> Any:
        loss = step(*batch)
        losses.append(float(loss))
        listener.progress("Range test")(len(losses), STEPS)
        net.trainer.should_stop = _has_run_away(losses)
        return loss

    net.training_step = watched  # type: ignore[assignment, method-assign]
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


def _has_run_away(losses: list[float]) -> bool:
    """Whether the loss, other than in bursts, is twice what it was, or no number."""
    return len(losses) > STILL and not np.median(losses[-7:]) <= 2 * np.median(losses[:STILL])


def _no_fall(curve: LossCurve, tested: TestedTrial, image: Path) -> StudyError:
    least, most = curve.rates[0], curve.rates[-1]
    if _has_run_away(list(curve.losses)):
        problem = f"The loss, {curve.level:.2g}, never clearly fell before it ran away, by a rate of {most:.1e}"
    else:
        problem = f"The loss stayed about {curve.level:.2g} at all rates from {least:.1e} to {most:.1e}"
    if tested.params.depth and not tested.one.backbone.traits.from_scratch:
        fix = "The head it starts with fits already: leave lr_low and lr_high to the search, or test another --depth."
    else:
        fix = "Look whether the labels are right (autotune data), or test another --backbone or --depth."
    return StudyError(f"{problem} (see {image}).", fix)


def _say(curve: LossCurve, bounds: RateBounds, tested: TestedTrial, image: Path, listener: StudyListener) -> None:
    listener.say(f"Tested: {tested.words}")
    listener.say(f"Suggested: lr_low {bounds.low:.1e}, lr_high {bounds.high:.1e}")
    listener.say(
        f"Chosen so: the smoothed training loss falls from {curve.level:.3g} to {bounds.least:.3g}; a tenth of that "
        "is done at lr_low, where the fall begins, four fifths at lr_high, before it slows (Smith 2017)."
    )
    listener.say(f"Plot: {image.resolve()}")


def _write(folder: Path, tested: TestedTrial, bounds: RateBounds) -> Path:
    """Fix the bounds in study.toml, and what they were measured with; all else in it stays as it is."""
    file = folder / "study.toml"
    document = tomlkit.parse(file.read_bytes().decode()) if file.is_file() else tomlkit.document()
    ranges = cast(MutableMapping[str, Any], document.setdefault("space", tomlkit.table()))
    ranges.update(_fixed(tested), lr_low=bounds.low, lr_high=bounds.high)
    write_whole(file, tomlkit.dumps(document))
    return file


def _fixed(tested: TestedTrial) -> dict[str, Any]:
    """What bounds depend on most, and which study.toml would else search at rates measured for another."""
    params = tested.params
    depth = {} if tested.one.backbone.traits.from_scratch else {"depth": params.depth}
    return {"backbone": params.backbone, **depth, "optimizer": params.optimizer}


def _words_of_writing(file: Path, tested: TestedTrial) -> str:
    also = ", ".join(f"{name} = {value}" for name, value in _fixed(tested).items())
    return (
        f"Written to {file}, under [space]: lr_low and lr_high, which stand for every trial, and therefore also what "
        f"they were measured with: {also}."
    )


def _plain(folder: Path, backbones: LoadedBackbones, tested: TestedTrial, curve: LossCurve, bounds: RateBounds,
           image: Path, written: Path | None) -> dict[str, Any]:  # fmt: skip
    chosen = ("backbone", "depth", "pixels", "optimizer", "batch_size")
    return {
        "study": folder.name,
        **{name: getattr(tested.params, name) for name in chosen},
        "device": str(backbones.device),
        "seed": backbones.context.seed,
        "lr_low": bounds.low,
        "lr_high": bounds.high,
        "rates": curve.rates.tolist(),
        "losses": curve.losses.tolist(),
        "smoothed": curve.smoothed.tolist(),
        "plot": str(image.resolve()),
        "written": str(written.resolve()) if written else None,
    }


def _drawn(curve: LossCurve, bounds: RateBounds | None) -> str:
    """The curve in characters."""
    figure, rates = plotext.figure, np.log10(curve.rates)
    figure.clear()
    figure.plot_size(WIDTH, HEIGHT)
    figure.draw(figure.signal(rates.tolist(), curve.smoothed.tolist()).lines())
    for rate in (bounds.low, bounds.high) if bounds else ():
        figure.line(math.log10(rate), "vertical")
    decades = list(range(math.ceil(rates[0] - 1e-9), math.floor(rates[-1] + 1e-9) + 1))
    figure.ruler("x").ticks(decades, [f"1e{decade}" for decade in decades])
    figure.title("training loss, smoothed, by learning rate")
    return str(plotext.uncolorize(figure.build()))


def _save(curve: LossCurve, bounds: RateBounds | None, words: str, image: Path) -> None:
    figure = Figure((9, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, ".", color="0.7", label="each step")
    axes.plot(curve.rates, curve.smoothed, color="C0", label="smoothed")
    if bounds:
        axes.axvspan(bounds.low, bounds.high, color="C2", alpha=0.15)
        for name, rate in (("lr_low", bounds.low), ("lr_high", bounds.high)):
            axes.axvline(rate, color="C2", label=f"{name} {rate:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", ylim=(0, 2 * curve.level))
    axes.set_title(words)
    axes.legend()
    figure.savefig(image, dpi=120)
