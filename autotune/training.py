"""Training: one trial's Params become a trained tail, its curve and its validation scores."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as lightning
import safetensors.torch
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from autotune import network, probe, weights
from autotune.bank import Entry
from autotune.batches import Banked, CleanBatches, Source, TrainBatches
from autotune.files import write_whole
from autotune.lesson import Backbones, Lesson, probe_file, sources
from autotune.params import Params
from autotune.scores import WORST, answers, log_loss, score, smoothed

CHECKPOINT_SECONDS = 10
# Why a trial ended. Each but PRUNED leaves it complete, with its best epoch.
DONE, GAP, DIVERGED, PRUNED, TIMEOUT = "done", "gap", "diverged", "pruned", "timeout"


@dataclass(frozen=True)
class Epoch:
    """One row of a curve. number: from 1. train, validation: the metric, in evaluation mode, unaugmented.

    gap: train minus validation, smoothed. cycle_end: the only rows the pruner sees.
    """

    number: int
    rate: float
    loss: float
    train: float
    validation: float
    log_loss: float
    gap: float
    cycle_end: bool
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """A trained trial. value, log_loss: of its best epoch on validation. checkpoint: a file in the study's folder."""

    value: float
    log_loss: float
    best_epoch: int
    epochs: int
    ended: str
    trained_parameters: int
    checkpoint: str | None
    seconds: float
    bank_seconds: float


@dataclass(frozen=True)
class ProbeOutcome:
    value: float
    seconds: float
    bank_seconds: float


class Talk(Protocol):
    """A worker's line to the driver."""

    def epoch(self, row: Epoch) -> str | None:
        """Report an epoch. The answer is None for "go on", or why to stop: PRUNED or TIMEOUT."""

    def banking(self, done: int, total: int) -> None:
        """Report progress of the bank, in pictures."""


def run_probe(backbones: Backbones, name: str, size: int, talk: Talk) -> ProbeOutcome:
    """Fill the bank's clean view, fit a linear head and keep it for the trials that start from it."""
    lesson = backbones.lesson
    start = time.monotonic()
    bank = backbones.bank(name, size)
    bank.fill((*lesson.train.digests, *lesson.validation.digests), [0], talk.banking)
    banked = time.monotonic()
    rows = bank.rows(len(backbones.chain(name)), 0)
    parts = [rows.take(rows.places(part.digests)).astype(np.float32) for part in (lesson.train, lesson.validation)]
    labels = [np.array(part.labels) for part in (lesson.train, lesson.validation)]
    fitted = probe.fit(lesson.metric, lesson.classes, parts[0], labels[0], parts[1], labels[1])
    file = probe_file(lesson.folder, name, size)
    file.parent.mkdir(parents=True, exist_ok=True)
    head = {"weight": torch.from_numpy(fitted.weight).contiguous(), "bias": torch.from_numpy(fitted.bias).contiguous()}
    _save(head, file)
    return ProbeOutcome(fitted.value, time.monotonic() - banked, banked - start)


def run_trial(backbones: Backbones, number: int, params: Params, talk: Talk) -> Outcome:
    """Train one trial to its end. A checkpoint left by a killed run of the same trial is gone on from."""
    lesson = backbones.lesson
    start = time.monotonic()
    (lesson.folder / "checkpoints").mkdir(exist_ok=True)
    held = sources(backbones, params, talk.banking)
    banked = time.monotonic()
    net, batches = opening(backbones, params, held[0], number)
    progress = Progress(lesson, params, talk)
    unfinished = lesson.folder / "checkpoints" / f"trial-{number:04d}.unfinished.ckpt"
    trainer = trainer_on(backbones.device, net, max_epochs=lesson.epochs, callbacks=[progress, _keeper(unfinished)])
    held_out = [
        CleanBatches(held[1], lesson.validation.labels, backbones.ahead),
        CleanBatches(held[2], lesson.gap_sample.labels, backbones.ahead),
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        left = str(unfinished) if _is_whole(unfinished) else None
        trainer.fit(net, batches, held_out, ckpt_path=left, weights_only=True)
    checkpoint = None
    if progress.ended != PRUNED:
        checkpoint = f"checkpoints/trial-{number:04d}.safetensors"
        _save(progress.best_state, lesson.folder / checkpoint)
    unfinished.unlink(missing_ok=True)
    best = progress.rows[progress.best]
    return Outcome(
        value=best.validation,
        log_loss=best.log_loss,
        best_epoch=best.number,
        epochs=len(progress.rows),
        ended=progress.ended,
        trained_parameters=sum(p.numel() for p in net.trained()),
        checkpoint=checkpoint,
        seconds=time.monotonic() - start,
        bank_seconds=banked - start,
    )


def opening(backbones: Backbones, params: Params, source: Source, number: int) -> tuple[network.Network, TrainBatches]:
    """What trial `number` begins with: its network, a deep one with the probe's head, and its training batches."""
    lesson = backbones.lesson
    seed = int(np.random.SeedSequence((lesson.seed, number)).generate_state(1)[0])
    batches = TrainBatches(source, lesson.train.labels, params.batch_size, params.augment, seed, backbones.ahead)
    net = build(backbones, params, len(batches), seed, with_prefix=not isinstance(source, Banked))
    if params.depth and not _from_scratch(backbones, params):
        net.head[1] = _probed_head(lesson, params)
    net.train()  # Lightning leaves the modes as it finds them
    return net, batches


def trainer_on(device: torch.device, net: network.Network, **more: Any) -> lightning.Trainer:
    """A Trainer that shows nothing of its own, in the precision that pays."""
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision="bf16-mixed" if half_pays(net.tail, device) else "32-true",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        deterministic="warn" if device.type == "cuda" else None,
        use_distributed_sampler=False,
        **more,
    )


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Lightning tells what it finds on the machine; in a worker that goes to a log."""
    speaker = logging.getLogger("pytorch_lightning")
    before = speaker.level
    speaker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except SystemExit as leave:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from leave
    finally:
        speaker.setLevel(before)


def build(backbones: Backbones, params: Params, steps: int, seed: int, with_prefix: bool = True) -> network.Network:
    """The untrained network of a trial; its frozen prefix in front, unless a bank stands for it."""
    lesson = backbones.lesson
    entry, found = lesson.backbones[params.backbone]
    network.seed_device(seed, torch.device("cpu"))
    chain = weights.stages(entry, found).eval() if entry.traits.from_scratch else backbones.chain(params.backbone)
    front = Entry(chain[: (len(chain) - params.depth) * with_prefix], entry.traits, lesson.subject)
    features = backbones.anatomy(params.backbone, params.pixels).features
    rhythm = network.Rhythm(lesson.epochs, lesson.cycle_epochs, steps)
    return network.assemble(
        chain, front, params, lesson.classes, features, rhythm, lesson.train.labels, seed, entry.traits.from_scratch
    )


class Progress(lightning.Callback):
    """Measures every epoch, keeps the best, asks the driver, and stops on the gap."""

    def __init__(self, lesson: Lesson, params: Params, talk: Talk) -> None:
        self.rows: list[Epoch] = []
        self.best = 0
        self.best_state: dict[str, Tensor] = {}
        self.ended = DONE
        self._lesson = lesson
        self._params = params
        self._talk = talk
        self._start = time.monotonic()
        self._losses: list[Tensor] = []
        self._outputs: list[tuple[int, Tensor, Tensor]] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self._start = time.monotonic()

    def on_train_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
        self._losses.append(outputs["loss"].detach())

    def on_validation_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
        self._outputs.append(outputs)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        row = self._measured(trainer)
        self.rows.append(row)
        refit = self._lesson.refit_epochs
        if not self.best_state or refit or is_better(row, self.rows[self.best]):
            self.best = len(self.rows) - 1
            assert isinstance(module, network.Network)
            self.best_state = module.state()
        answer = self._talk.epoch(row)
        last = len(self.rows) >= (refit or self._lesson.epochs)
        if answer:
            self.ended = answer
        elif row.log_loss >= WORST:
            self.ended = DIVERGED
        elif (
            not last
            and not refit
            and stops_on_gap(self.rows, self._lesson.patience, self._lesson.cycle_epochs, self._lesson.gap)
        ):
            self.ended = GAP
        trainer.should_stop = last or self.ended != DONE

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "best": self.best, "best_state": self.best_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [Epoch(**row) for row in state["rows"]]
        self.best, self.best_state = state["best"], state["best_state"]

    def _measured(self, trainer: lightning.Trainer) -> Epoch:
        lesson, number = self._lesson, len(self.rows) + 1
        values, losses = [], []
        for which in (0, 1):
            logits = torch.cat([out[1] for out in self._outputs if out[0] == which])
            labels = torch.cat([out[2] for out in self._outputs if out[0] == which])
            values.append(score(lesson.metric, labels.cpu().numpy(), answers(logits), lesson.classes))
            losses.append(log_loss(logits, labels))
        loss = float(torch.stack(self._losses).mean()) if self._losses else float("nan")
        self._outputs, self._losses = [], []
        return Epoch(
            number=number,
            rate=float(trainer.optimizers[0].param_groups[0]["lr"]),
            loss=loss,
            train=values[1],
            validation=values[0],
            log_loss=losses[0],
            gap=smoothed_gap([*((row.train, row.validation) for row in self.rows), (values[1], values[0])])[-1],
            cycle_end=self._ends_cycle(number),
            seconds=time.monotonic() - self._start,
        )

    def _ends_cycle(self, number: int) -> bool:
        one_cycle = self._params.cycle == "one-cycle"
        return number % (self._lesson.epochs if one_cycle else self._lesson.cycle_epochs) == 0


def is_better(row: Epoch, other: Epoch) -> bool:
    """A higher metric; between equals, a lower cross-entropy."""
    return (row.validation, -row.log_loss) > (other.validation, -other.log_loss)


def smoothed_gap(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Train minus validation, each smoothed with 0.8, for a curve of (train, validation)."""
    train, validation = (smoothed([pair[i] for pair in pairs]) for i in (0, 1))
    return [a - b for a, b in zip(train, validation, strict=True)]


def stops_on_gap(rows: Sequence[Epoch], patience: int, cycle_epochs: int, most: float) -> bool:
    """Whether a trial has begun to memorise: no better validation for `patience` epochs (a cycle at least), while
    the smoothed gap is over `most` or has grown over those epochs.
    """
    waited = max(patience, cycle_epochs)
    if len(rows) <= waited:
        return False
    best_before = max(row.validation for row in rows[:-waited])
    stalled = max(row.validation for row in rows[-waited:]) <= best_before
    return stalled and (rows[-1].gap > most or rows[-1].gap > max(rows[-1 - waited].gap, 0.0))


def _from_scratch(backbones: Backbones, params: Params) -> bool:
    return backbones.lesson.backbones[params.backbone][0].traits.from_scratch


def _probed_head(lesson: Lesson, params: Params) -> nn.Linear:
    state = safetensors.torch.load_file(probe_file(lesson.folder, params.backbone, params.pixels))
    return probe.Probe(state["weight"].numpy(), state["bias"].numpy(), 0.0).head()


def half_pays(tail: nn.Module, device: torch.device) -> bool:
    """Whether training in bfloat16 is faster: it needs the hardware, and on a CPU a tail with something to do but
    without grouped convolutions, whose backward pass is up to twice as slow in it (benchmarks/precision.py).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    tests = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    has_hardware = device.type == "cpu" and any(getattr(torch.cpu, test, bool)() for test in tests)
    is_grouped = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in tail.modules())
    return has_hardware and not is_grouped and any(True for _ in tail.parameters())


def _save(state: dict[str, Tensor], file: Path) -> None:
    """On the disk before the record speaks of it."""
    write_whole(file, safetensors.torch.save(state), durable=True)


def _is_whole(file: Path) -> bool:
    """Whether a checkpoint can be gone on from. One torn, or with code in it, is deleted: the trial starts anew."""
    if not file.exists():
        return False
    try:
        torch.load(file, map_location="cpu", weights_only=True)  # it may have come with a folder from elsewhere
    except Exception:  # whatever such a file makes pickle or zipfile raise
        file.unlink()
        return False
    return True


class Keeper(ModelCheckpoint):
    """Never saves between an epoch's last batch and its validation: resumed there, Lightning would skip the latter."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any, **more: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *rest, **more)


def _keeper(file: Path) -> Keeper:
    """Saves an unfinished trial at most ten seconds apart, so that little is lost by kill -9."""
    return Keeper(
        dirpath=file.parent,
        filename=file.stem,
        train_time_interval=timedelta(seconds=CHECKPOINT_SECONDS),
        enable_version_counter=False,
    )
