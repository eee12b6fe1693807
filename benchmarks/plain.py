"""Compare the time of a trial in autotune with the same trial in a plain script without a feature cache.

    python benchmarks/plain.py PHOTOS [--pixels 160] [--depths 0,1,2,3] [--trials 2]

The plain script uses torchvision's ImageFolder and transforms.v2, DataLoaders with one persistent worker per core,
Lightning, and the whole network, with frozen stages in evaluation mode and without gradients. It repeats the trials of
autotune studies, one study per depth: same split, same hyperparameters, same number of epochs, with the validation set
and the gap sample evaluated after each epoch. Every trial runs once in the script and once in autotune, alternating.
The seconds of autotune are those of its record plus a share of reading, decoding, feature cache and probe with an empty
cache, which a study at the start measures: a fiftieth, because 50 trials are the default. The bound is counted, not
timed: the operations of the plain trial over those of a trial whose frozen stages cost nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from autotune.backbones.profile import profile_stages
from autotune.backbones.weights import load_stages
from autotune.cli.live.console import PlainConsole
from autotune.data.split import TRAIN, VALIDATION
from autotune.engines.base import CacheProgress, Engine, ProbeTask, TrialTask
from autotune.engines.local import LocalEngine
from autotune.study.reopen import FinishedTrial, reopen_trial
from autotune.study.request import Resources
from autotune.study.storage.record import open_record
from autotune.study.storage.rows import COMPLETE
from autotune.training.context import TrialContext
from autotune.training.lightning.trainable import class_weights
from autotune.training.optimizers import build_optimizer
from autotune.training.outcome import Epoch, ProbeOutcome, TrialOutcome
from autotune.training.params import Params
from autotune.training.probe import probe_file_name

BACKBONE = "efficientnet_lite0"
STUDY_TRIALS = 50
TARGET_HEAD, TARGET_OF_BOUND = 20.0, 0.7


@dataclass(frozen=True)
class Job:
    """A finished trial to run again. chain: the pretrained stages. folders: contains links to the pictures."""

    params: Params
    epochs: int
    chain: nn.Sequential
    context: TrialContext
    folders: Path


# The plain script


class ChannelShift(nn.Module):
    """Adds a random number to each channel, like the channel shift of Keras' ImageDataGenerator."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, image: Tensor) -> Tensor:
        return (image + (torch.rand(3, 1, 1) * 2 - 1) * self.most).clamp(0, 1)


def transform(job: Job, strength: float) -> v2.Compose:
    traits = job.context.backbones[BACKBONE][0].traits
    how = v2.InterpolationMode[traits.interpolation.upper()]
    steps: list[Any] = [v2.Resize(job.params.pixels, how), v2.CenterCrop(job.params.pixels)]
    if strength:
        moved = v2.RandomAffine(
            degrees=job.context.invariances.angle * strength,
            translate=(0.2 * strength, 0.2 * strength),
            scale=(1 - 0.1 * strength, 1 + 0.1 * strength),
            shear=math.degrees(math.atan(0.3 * strength)),
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        steps += [v2.RandomHorizontalFlip(), moved]  # on Pillow images, where these are fastest
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    steps += [ChannelShift(0.2 * strength)] if strength else []
    return v2.Compose([*steps, v2.Normalize(traits.mean, traits.std)])


def loader(job: Job, part: str, strength: float, batch_size: int) -> DataLoader[Any]:
    pictures = ImageFolder(str(job.folders / part), transform(job, strength))
    is_train = part == "train"
    return DataLoader(
        pictures, batch_size, shuffle=is_train, drop_last=is_train and len(pictures) % batch_size == 1,
        num_workers=os.cpu_count() or 1, persistent_workers=True,
    )  # fmt: skip


class Plain(lightning.LightningModule):
    """The whole network; its frozen stages run in every step."""

    def __init__(self, job: Job, steps: int) -> None:
        super().__init__()
        self.params, self.total, self.epochs = job.params, job.context.epochs * steps, job.context.epochs
        self.half_cycle = max(job.context.cycle_epochs * steps / 2, 0.5)
        cut = len(job.chain) - job.params.depth
        self.prefix = copy.deepcopy(job.chain[:cut]).eval().requires_grad_(False)
        self.tail = copy.deepcopy(job.chain[cut:]).requires_grad_(True)
        features = job.context.backbones[BACKBONE][0].traits.features
        assert features is not None
        self.head = nn.Sequential(nn.Dropout(job.params.dropout), nn.Linear(features, job.context.classes))
        self.weigh = class_weights(job.context.train.labels, job.context.classes, job.params.class_weight)
        self.right: list[list[Tensor]] = [[], []]
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Plain:
        super().train(mode)
        self.prefix.eval()
        for module in self.tail.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.prefix(image.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head(self.tail(x))
        return logits

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        image, labels = batch
        loss = functional.cross_entropy(
            self(image), labels, reduction="none", label_smoothing=self.params.label_smoothing
        )
        return (loss * self.weigh[labels]).mean()

    def validation_step(self, batch: list[Tensor], _: int, dataloader_idx: int = 0) -> None:
        image, labels = batch
        self.right[dataloader_idx].append(self(image).argmax(1) == labels)

    def on_validation_epoch_end(self) -> None:
        for which, name in enumerate(("validation", "train")):
            self.log(name, torch.cat(self.right[which]).float().mean())
            self.right[which].clear()

    def configure_optimizers(self) -> Any:
        params, trained = self.params, [*self.tail.parameters(), *self.head.parameters()]
        optimizer = build_optimizer(params.optimizer, trained, params.lr_high, params.weight_decay)
        schedules = torch.optim.lr_scheduler
        if self.params.cycle == "one-cycle":
            rate: Any = schedules.OneCycleLR(optimizer, self.params.lr_high, self.total + 1, cycle_momentum=False)
        else:
            rate = schedules.CyclicLR(
                optimizer, self.params.lr_low, self.params.lr_high, self.half_cycle,  # type: ignore[arg-type]
                mode=self.params.cycle, cycle_momentum=False,  # type: ignore[arg-type]
            )  # fmt: skip
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


def plain_seconds(job: Job, half: bool) -> float:
    """Return the seconds of one trial of the plain script, including its data loaders."""
    start = time.perf_counter()
    train = loader(job, "train", job.params.augment, job.params.batch_size)
    clean = [loader(job, part, 0.0, 128) for part in ("validation", "gap")]
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=job.epochs, precision="bf16-mixed" if half else "32-true", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Plain(job, len(train)), train, clean)
    return time.perf_counter() - start


def half_pays(job: Job) -> bool:
    """Return whether the whole network trains faster in bfloat16: best of two steps each, after a warm-up step."""
    net, image = Plain(job, 1), torch.randn(job.params.batch_size, 3, job.params.pixels, job.params.pixels)
    taken: dict[bool, list[float]] = {False: [], True: []}
    net.train()
    for _ in range(3):
        for half, found in taken.items():
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                net(image).float().square().mean().backward()
            found.append(time.perf_counter() - start)
    return min(taken[True][1:]) < min(taken[False][1:])


# The same trials in autotune


def study(folder: Path, photos: Path, name: str, trials: int, space: dict[str, Any], epochs: int | None) -> Path:
    """Run a real study and return its folder."""
    config = folder / f"{name}.toml"
    ranges = "\n".join(f"{key} = {json.dumps(value)}" for key, value in space.items())
    config.write_text(f'pruner = "none"\n{f"epochs = {epochs}" if epochs else ""}\n[space]\n{ranges}\n')
    machine.search(
        folder, folder / "cache", photos, "--study", name, "--trials", str(trials), "--config", str(config),
        "--device", "cpu",
    )  # fmt: skip
    return folder / "studies" / name


def shared_seconds(folder: Path) -> float:
    """Return the seconds of reading, decoding, feature cache and probe of a study with an empty cache."""
    with open_record(folder) as record:
        caching = sum(row.cache_seconds or 0.0 for row in record.trials())
        probes = sum(row.cache_seconds + row.seconds for row in record.probes())
        return float(record.facts().seconds["read"] + caching + probes)


def links(one: FinishedTrial, folder: Path) -> Path:
    """Link the study's pictures in the layout of ImageFolder: part/class/picture."""
    parts = {"train": one.parts.part(TRAIN), "validation": one.parts.part(VALIDATION), "gap": one.parts.gap_sample}
    for part, pictures in parts.items():
        for number, picture in enumerate(pictures):
            link = folder / part / picture.label / f"{number}{Path(picture.path).suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(one.root / picture.path)
    return folder


def outcome(engine: Engine, task: ProbeTask | TrialTask, files: Mapping[str, bytes]) -> Any:
    """Run a task without stopping it early, and return its outcome."""
    while not engine.idle:
        list(engine.events())
    engine.idle[0].give(task, files)
    while True:
        for place, _, message in engine.events():
            if isinstance(message, Epoch):
                place.answer(None)
            elif isinstance(message, (TrialOutcome, ProbeOutcome)):
                return message
            elif not isinstance(message, CacheProgress):
                sys.exit(f"A repeated trial failed: {message}")


def compare(folder: Path, photos: Path, depth: int, options: argparse.Namespace, share: float) -> list[float]:
    """Print the row of one depth; return the mean seconds of the script and of autotune, and the counted bound."""
    space = {"backbone": BACKBONE, "pixels": options.pixels, "depth": depth}
    place = study(folder, photos, f"depth{depth}", options.trials, space, options.epochs)
    with open_record(place) as record:
        one = reopen_trial(place, record, Resources(device="cpu"), PlainConsole(quiet=True))
        trials = sorted((row for row in record.trials() if row.state == COMPLETE), key=lambda r: r.number)
    again = folder / "again" / place.name
    again.mkdir(parents=True)
    context = one.context
    chain = load_stages(*context.backbones[BACKBONE]).eval()
    folders = links(one, folder / "links" / place.name)
    plain, own, half = [], [], False
    with LocalEngine(["cpu"], again) as engine:
        engine.configure(context)
        probe = outcome(engine, ProbeTask(BACKBONE, options.pixels), {})
        files = {probe_file_name(BACKBONE, options.pixels): probe.head}
        for row in trials:
            job = Job(row.params, row.epochs or 0, chain, context, folders)
            half = half_pays(job)
            plain.append(plain_seconds(job, half))
            own.append(outcome(engine, TrialTask(row.number, job.params), files).seconds)
    bound = counted(context, depth, options.pixels, chain)
    found = [float(np.mean(plain)), float(np.mean(own)) + share, bound]
    ratio = found[0] / found[1]
    print(
        f"{depth:5} {len(trials):6} {sum(row.epochs or 0 for row in trials):6} {'bf16' if half else 'fp32':>5} "
        f"{found[0]:8.2f} {found[1] - share:10.2f} {found[1]:10.2f} {ratio:6.1f} {bound:8.1f} {ratio / bound:11.2f}",
        flush=True,
    )
    return found


def counted(context: TrialContext, depth: int, pixels: int, chain: nn.Sequential) -> float:
    """Return the operations of a plain epoch over one without frozen stages. A step counts as three forward passes."""
    body = profile_stages(context.backbones[BACKBONE][0], chain, pixels)
    head = 2 * body.features * context.classes
    whole, tail = sum(body.operations) + head, body.tail_operations(depth) + head
    n_train, n_clean = len(context.train), len(context.validation) + len(context.gap_sample)
    return (n_train * (whole + 2 * tail) + n_clean * whole) / (n_train * 3 * tail + n_clean * tail)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--pixels", type=int, default=160)
    parser.add_argument("--depths", type=machine.numbers, default=(0, 1, 2, 3))
    parser.add_argument("--trials", type=int, default=2, help="per depth")
    parser.add_argument("--epochs", type=int, help="epochs per trial; default: as in a study")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ["AUTOTUNE_CACHE"] = str(folder / "cache")
        whole = {"backbone": BACKBONE, "pixels": options.pixels, "depth": list(options.depths), "augment": 1.0}
        cold = shared_seconds(study(folder, options.photos, "cold", 1, whole, options.epochs))
        share = cold / STUDY_TRIALS
        print(machine.line(f"{options.trials} trials per depth"))
        print(
            f"{BACKBONE} at {options.pixels} pixels; mean seconds per trial; reading, decoding, feature cache and probe"
        )
        print(f"with an empty cache: {cold:.1f} s, of which the share per trial is {share:.2f} s (1/{STUDY_TRIALS})")
        print(
            f"{'depth':>5} {'trials':>6} {'epochs':>6} {'plain':>5} {'plain s':>8} {'autotune s':>10} "
            f"{'with share':>10} {'ratio':>6} {'bound':>8} {'ratio/bound':>11}"
        )
        rows = {depth: compare(folder, options.photos, depth, options, share) for depth in options.depths}
    for depth, (plain, own, bound) in rows.items():
        if depth == 0:
            print(f"depth 0: ratio {machine.verdict(plain / own, TARGET_HEAD)}")
        else:
            print(f"depth {depth}: ratio over bound {machine.verdict(plain / own / bound, TARGET_OF_BOUND)}")


if __name__ == "__main__":
    main()
