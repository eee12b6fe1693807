r"""Measure what single changes of a training recipe are worth, on pictures that come later.

    python benchmarks/levers.py PHOTOS... --work WORK [--levers NAMES] [--seeds 0,1,2]
    python benchmarks/levers.py --work WORK --report

For each folder and seed, 40 % of the pictures are the user's and 60 % come later, as in selection.py. Each lever is one
network, trained on all of the user's pictures with one change of the same recipe (`base`), and judged on the later
pictures. Results are appended to WORK/results.jsonl, and only missing ones are computed.

The report compares each lever with the base, with intervals as in selection.py. The last table chooses a lever for each
folder by the other folders only, so that no folder judges a choice that it made.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MethodType
from typing import Any

import machine
import numpy as np
import pytorch_lightning as lightning
import torch
from numpy.typing import NDArray
from selection import SPLIT, Results, Row, compare, keep, keep_splits, read_rows
from torch import Tensor, nn

from autotune.backbones.registry import discover
from autotune.cache import features
from autotune.cache.features import FrozenPrefix
from autotune.cache.pixels import read_square
from autotune.data.catalog import read_catalog
from autotune.data.split import TRAIN, VALIDATION, Split
from autotune.search.candidates import select_backbones
from autotune.search.plan import build_context, make_plan
from autotune.search.ranges import Choice, Fixed
from autotune.search.settings import SearchSpace, Settings
from autotune.study.listener import StudyListener
from autotune.study.prepare import decode_pictures
from autotune.training import batches
from autotune.training.batches import LabelledPictures
from autotune.training.context import LoadedBackbones, TrialSources, open_sources
from autotune.training.context import _pixel_sources as pixel_sources
from autotune.training.fold import mean_state, predict_logits
from autotune.training.lightning.phased import prepare_phase, training_seed
from autotune.training.lightning.trainable import TrainableNetwork
from autotune.training.lightning.trainer import build_trainer, quiet_lightning
from autotune.training.optimizers import OPTIMIZERS, build_optimizer
from autotune.training.params import Params
from autotune.training.phases import planned_phases
from autotune.training.probe import LinearProbe, choose_probe, fit_probe, last_features
from autotune.training.trial import initial_network

SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
BACKBONE = "efficientnet_lite0"
DEEPEST = 4
HEAD_RATE = 1e-2  # the best of a random head alone
FOLDS = 5
SOUPS = {"folds": (5, 0), "folds and one of all": (5, 1), "folds and five of all": (5, 5), "all": (0, 5)}
BATCH = 128
BASE = Params(
    backbone=BACKBONE, depth=2, pixels=SIZES[BACKBONE], lr_low=1e-5, lr_high=1e-3, cycle="one-cycle", augment=0.5,
    class_weight=0.0, optimizer="adamw", batch_size=32, weight_decay=1e-2, dropout=0.2, label_smoothing=0.0,
)  # fmt: skip

Change = Callable[[TrainableNetwork], Sequence[lightning.Callback]]


def nothing(_: TrainableNetwork) -> Sequence[lightning.Callback]:
    return ()


@dataclass(frozen=True)
class Lever:
    """One change of the recipe. epochs: a factor on the base's. penalty: a factor on the inverse penalty of the probe.

    change: changes a network before it is trained. mirror: average the probabilities of a picture and its mirror image.
    from_probe: the head starts from the probe, which is otherwise so only if stages are unfrozen. views: augmented
    views per picture in the cache; 0: a new view of every picture in every epoch, which no cache can hold.
    head_first: two phases: a random head is trained alone first, and the stages go on with that one.
    pixels: another size than the backbone's in SIZES. soup: average the weights of several networks:
    how many lack a fifth of the pictures each, as in the finals, and how many are trained on all of them.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    epochs: float = 1.0
    penalty: float = 1.0
    change: Change = nothing
    mirror: bool = False
    from_probe: bool = False
    head_first: bool = False
    views: int = features.N_VIEWS
    backbone: str = BACKBONE
    pixels: int = 0
    soup: tuple[int, int] | None = None

    @property
    def network(self) -> tuple[str, int]:
        return self.backbone, self.pixels or SIZES[self.backbone]


# Changes of a network


def falling_rates(factor: float) -> Change:
    """Multiply the learning rate by a factor per stage, from the head towards the input (ULMFiT: Howard 2018)."""

    def change(net: TrainableNetwork) -> Sequence[lightning.Callback]:
        def configure(own: TrainableNetwork) -> Any:
            params = own.params
            optimizer = build_optimizer(params.optimizer, own.trained(), params.lr_high, params.weight_decay)
            (group,) = optimizer.param_groups
            parts: list[nn.Module] = [own.head, *reversed(own.tail)]
            optimizer.param_groups = [{**group, "params": list(part.parameters())} for part in parts]
            schedule = own._schedule(optimizer)
            for number, one in enumerate(optimizer.param_groups):
                for name in ("initial_lr", "max_lr", "min_lr", "lr"):
                    one[name] *= factor**number
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        net.configure_optimizers = MethodType(configure, net)  # type: ignore[method-assign]
        return ()

    return change


def near_the_start(alpha: float) -> Change:
    """Pull the unfrozen stages towards their pretrained weights (L2-SP: Li et al. 2018)."""

    def change(net: TrainableNetwork) -> Sequence[lightning.Callback]:
        starts = [one.detach().clone() for one in net.tail.parameters()]
        own_loss = net._loss

        def loss(own: TrainableNetwork, logits: Tensor, labels: Tensor) -> Tensor:
            pairs = zip(own.tail.parameters(), starts, strict=True)
            return own_loss(logits, labels) + alpha / 2 * torch.stack([((a - b) ** 2).sum() for a, b in pairs]).sum()

        net._loss = MethodType(loss, net)  # type: ignore[method-assign]
        return ()

    return change


class WeightAverage(lightning.Callback):
    """Keeps an exponential moving average of the trained weights, and uses it in the end."""

    def __init__(self, net: TrainableNetwork, decay: float) -> None:
        self._decay = decay
        self._mean = [one.detach().clone() for one in net.trained()]

    def on_train_batch_end(self, _: Any, net: Any, *__: Any) -> None:
        with torch.no_grad():
            for mean, one in zip(self._mean, net.trained(), strict=True):
                mean.lerp_(one, 1 - self._decay)

    def on_train_end(self, _: Any, net: Any) -> None:
        with torch.no_grad():
            for mean, one in zip(self._mean, net.trained(), strict=True):
                one.copy_(mean)


def moving_average(decay: float) -> Change:
    return lambda net: [WeightAverage(net, decay)]


# Rates that equal the base's and a third of it, by the factors of the optimizers.
RATES = [
    (name, rate * one.learning_rate_factor)
    for name, one in OPTIMIZERS.items()
    for rate in (BASE.lr_high, 3e-4)
    if name != BASE.optimizer
]

VIEWS = {"": features.N_VIEWS, ", 8 views": 8, ", new views": 0}
LEVERS: dict[str, Lever] = {
    "base": Lever(),
    **{f"depth {depth}": Lever({"depth": depth}) for depth in (1, 3, 4)},
    **{f"head only, lr_high {rate:g}": Lever({"depth": 0, "lr_high": rate}) for rate in (1e-3, 3e-3, 1e-2, 3e-2)},
    **{
        f"head only from the probe, lr_high {rate:g}": Lever({"depth": 0, "lr_high": rate}, from_probe=True)
        for rate in (1e-4, 1e-3, 1e-2)
    },
    **{f"depth 1, lr_high {rate:g}": Lever({"depth": 1, "lr_high": rate}) for rate in (3e-4, 3e-3)},
    **{f"lr_high {rate:g}": Lever({"lr_high": rate}) for rate in (1e-4, 3e-4, 3e-3)},
    **{f"depth 3, lr_high {rate:g}": Lever({"depth": 3, "lr_high": rate}) for rate in (1e-4, 3e-4)},
    **{f"epochs x {factor:g}": Lever(epochs=factor) for factor in (0.4, 0.6, 1.6, 2.4)},
    **{f"rates x {factor:g} per stage": Lever(change=falling_rates(factor)) for factor in (0.3, 0.6)},
    **{f"moving average {decay:g}": Lever(change=moving_average(decay)) for decay in (0.95, 0.99)},
    **{f"near the start {alpha:g}": Lever(change=near_the_start(alpha)) for alpha in (1e-2, 1e-1)},
    **{f"probe penalty / {factor:g}": Lever(penalty=factor) for factor in (0.1, 10)},
    "mirror": Lever(mirror=True),
    "head first": Lever(head_first=True),
    **{f"augment {strength:g}": Lever({"augment": strength}) for strength in (0.0, 0.25, 1.0)},
    "label smoothing 0.1": Lever({"label_smoothing": 0.1}),
    "mixup 0.2": Lever({"mixup": 0.2}),
    **{f"depth 4, lr_high 0.0003{name}": Lever({"depth": 4, "lr_high": 3e-4}, views=n) for name, n in VIEWS.items()},
    **{f"dropout {share:g}": Lever({"dropout": share}) for share in (0.0, 0.5)},
    **{cycle: Lever({"cycle": cycle}) for cycle in ("triangular", "triangular2")},
    **{f"{name}, lr_high {rate:g}": Lever({"optimizer": name, "lr_high": rate}) for name, rate in RATES},
    **{f"{name}, lr_high 0.0003": Lever({"lr_high": 3e-4}, backbone=name) for name in SIZES if name != BACKBONE},
    **{
        f"depth {depth}, lr_high 0.0003, 128 pixels": Lever({"depth": depth, "lr_high": 3e-4}, pixels=128, views=views)
        for depth, views in ((2, features.N_VIEWS), (3, features.N_VIEWS), (4, 0), (5, 0), (6, 0), (8, 0))
    },
    "depth 5, lr_high 0.0003, 128 pixels, 4 views": Lever({"depth": 5, "lr_high": 3e-4}, pixels=128),
    **{
        f"depth {depth}, lr_high 0.0003, 128 pixels, epochs x {factor:g}": Lever(
            {"depth": depth, "lr_high": 3e-4}, pixels=128, views=0, epochs=factor
        )
        for depth, factor in ((5, 0.6), (3, 0.35), (4, 0.35), (5, 0.35))
    },
}
AVERAGED = (
    "base", "lr_high 0.0003", "lr_high 0.003", "depth 1", "depth 1, lr_high 0.0003", "depth 1, lr_high 0.003",
    "efficientnet_lite2, lr_high 0.0003", "near the start 0.1",
)  # fmt: skip
LEVERS |= {
    f"{name}, soup of {which}": replace(LEVERS[name], soup=soup) for name in AVERAGED for which, soup in SOUPS.items()
}
# No network is trained.
PROBES = {
    "probe": BACKBONE,
    "probe of four stages": BACKBONE,
    **{f"probe of {name}": name for name in SIZES if name != BACKBONE},
}


# One folder and seed


@dataclass(frozen=True)
class Cell:
    """The pictures of one folder, of which the training set is the user's and the validation set comes later."""

    split: Split
    root: Path
    seed: int
    backbone: str
    pixels: int

    @cached_property
    def backbones(self) -> LoadedBackbones:
        depths = Choice(tuple(range(DEEPEST + 1)))
        settings = Settings(
            seed=self.seed, space=SearchSpace(backbone=Fixed(self.backbone), pixels=Fixed(self.pixels), depth=depths)
        )
        selection = select_backbones(settings, discover(), None, "cpu", self.split.side, print)
        decode_pictures(self.split, self.root, selection, StudyListener())
        return LoadedBackbones(build_context(make_plan(settings, self.split, selection)))

    @cached_property
    def probe(self) -> LinearProbe:
        """A head whose penalty was chosen on a fifth of the user's pictures, fitted on all of them."""
        context = self.backbones.context
        self.backbones.feature_cache(self.backbone, self.pixels).fill({0: context.pool.digests}, lambda *_: None)
        return self.fitted(*last_features(self.backbones, self.backbone, self.pixels, context.train))

    def fitted(self, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> LinearProbe:
        order = np.random.default_rng(self.seed).permutation(len(labels))
        inner, held = order[len(order) // 5 :], order[: len(order) // 5]
        n_classes = self.backbones.context.classes
        chosen, _ = choose_probe("accuracy", n_classes, rows[inner], labels[inner], rows[held], labels[held])
        assert chosen.inverse_penalty
        return fit_probe(n_classes, rows, labels, chosen.inverse_penalty)

    def probabilities(self, lever: Lever) -> Tensor:
        """Train a network with a lever, and return its probabilities (N, C) for the later pictures."""
        backbones = self.backbones
        params = replace(BASE, backbone=self.backbone, pixels=self.pixels, **lever.params)
        user = backbones.context.train
        if lever.soup:
            fold = np.random.default_rng(self.seed).permutation(len(user)) % FOLDS
            without, whole = lever.soup
            parts = [(user.where(list(fold != one)), one) for one in range(without)]
            parts += [(user, one) for one in range(whole)]
            nets = [self.trained(lever, params, part, number) for part, number in parts]
            net = nets[0]
            net.load_state_dict(mean_state([one.state_dict() for one in nets]))
        else:
            net = self.trained(lever, params, user)
        later = self.sources(params, user, lever.views).clean[0]
        clean = predict_logits(net, later, backbones.context.validation.labels, backbones).softmax(1)
        return (clean + self.mirrored(net, params.depth)) / 2 if lever.mirror else clean

    def trained(self, lever: Lever, params: Params, pictures: LabelledPictures, number: int = 0) -> TrainableNetwork:
        backbones, penalty = self.backbones, self.probe.inverse_penalty
        context = backbones.context
        assert penalty
        rows, labels = last_features(backbones, self.backbone, self.pixels, pictures)
        head = fit_probe(context.classes, rows, labels, penalty * lever.penalty).head()
        if lever.head_first:
            alone = replace(params, depth=0, lr_high=HEAD_RATE)
            trained_head = self.trained(Lever(), alone, pictures, number).head[1]
            assert isinstance(trained_head, nn.Linear)
            head = trained_head
        epochs = max(round(context.epochs * lever.epochs), 1)
        seed = training_seed(self.seed, number)
        initial = initial_network(backbones, params, seed, head if params.depth or lever.from_probe else None)
        (phase,) = planned_phases(params, epochs, context.cycle_epochs)
        source = self.sources(params, pictures, lever.views).train
        net, training = prepare_phase(backbones, initial, phase, source, pictures.labels, seed, n_parts=1)
        callbacks = list(lever.change(net))
        with quiet_lightning():
            trainer = build_trainer(backbones.device, net, max_epochs=epochs, callbacks=callbacks)
            trainer.fit(net, training)
        return net

    def sources(self, params: Params, train: LabelledPictures, n_views: int) -> TrialSources:
        """Return the sources of training pictures and of the later ones, with this number of views in the cache."""
        pictures = train, (self.backbones.context.validation,)
        if not n_views:
            return pixel_sources(self.backbones, params, *pictures)
        for module in (features, batches):
            vars(module)["N_VIEWS"] = n_views
        return open_sources(self.backbones, params, *pictures, lambda *_: None)

    @torch.no_grad()
    def mirrored(self, net: TrainableNetwork, depth: int) -> Tensor:
        """Return the probabilities (N, C) of the mirror images of the later pictures."""
        chain, context = self.backbones.chain(self.backbone), self.backbones.context
        traits = context.backbones[self.backbone][0].traits
        whole = copy.deepcopy(net).eval()
        whole.entry = FrozenPrefix(chain[: len(chain) - depth], traits, context.invariances)
        paths = [self.root / one.path for one in self.split.part(VALIDATION)]
        found = []
        for first in range(0, len(paths), BATCH):
            squares = [read_square(path, self.pixels, traits.interpolation) for path in paths[first : first + BATCH]]
            found.append(whole([torch.from_numpy(np.stack(squares)[..., ::-1].copy())]))
        return torch.cat(found).softmax(1)

    def probe_probabilities(self, name: str) -> Tensor:
        """Return the probabilities (N, C) of a linear probe for the later pictures."""
        context = self.backbones.context
        assert self.probe  # fills the cache
        if name != "probe of four stages":
            later, _ = last_features(self.backbones, self.backbone, self.pixels, context.validation)
            return torch.from_numpy(self.probe.logits(later)).softmax(1)
        train, later = (self._stage_means(one.digests) for one in (context.train, context.validation))
        fitted = self.fitted(train, np.array(context.train.labels))
        return torch.from_numpy(fitted.logits(later)).softmax(1)

    def _stage_means(self, digests: Sequence[str]) -> NDArray[np.float32]:
        """Return the mean features of the last cached stages, side by side (Head2Toe: Evci et al. 2022)."""
        cache = self.backbones.feature_cache(self.backbone, self.pixels)
        found = []
        for cut in self.backbones.context.cuts[self.backbone, self.pixels]:
            rows = cache.rows(cut, 0)
            one = rows.take(rows.places(digests)).astype(np.float32)
            found.append(one.reshape(*one.shape[:2], -1).mean(2) if one.ndim > 2 else one)
        return np.concatenate(found, axis=1)


def measure(options: argparse.Namespace) -> None:
    keep_splits(options.work, options.photos, options.seeds)
    for seed in options.seeds:
        for photos in options.photos:
            cell = read_rows(options.work)[photos.name, seed]
            if missing := [name for name in options.levers if name not in cell]:
                measure_cell(options.work, photos, seed, cell[SPLIT], missing)


def measure_cell(work: Path, photos: Path, seed: int, parts: Row, names: Iterable[str]) -> None:
    catalog = read_catalog(photos)
    users = set(parts["user"])
    pictures = tuple(replace(one, part=TRAIN if one.path in users else VALIDATION) for one in catalog.pictures)
    classes = tuple(sorted({one.label for one in pictures}))
    split = Split(classes, pictures, (), {})
    networks = {one.network for one in LEVERS.values()}
    cells = {network: Cell(split, catalog.root, seed, *network) for network in networks}
    truth = {one.path: one.label for one in pictures}
    for name in names:
        start = time.perf_counter()
        if name in PROBES:
            found = cells[PROBES[name], SIZES[PROBES[name]]].probe_probabilities(name)
        else:
            found = cells[LEVERS[name].network].probabilities(LEVERS[name])
        answers = [classes[i] for i in found.argmax(1).tolist()]
        by_path = dict(zip((one.path for one in split.part(VALIDATION)), answers, strict=True))
        right = [int(by_path[path] == truth[path]) for path in parts["later"]]
        result: Row = {"accuracy": float(np.mean(right)), "right": right, "seconds": time.perf_counter() - start}
        keep(work, photos.name, seed, name, result)
        print(f"{photos.name} {seed} {name}: {100 * result['accuracy']:.2f} %, {result['seconds']:.0f} s", flush=True)


# The report


def report(rows: Results) -> None:
    levers = [name for name in (*LEVERS, *PROBES) if any(name in cell for cell in rows.values())]
    print(machine.line(f"{len(rows)} cells"))
    print("Difference to the base in points, with 95 % intervals:")
    for name in levers:
        if name != "base":
            print(f"{name:40} {compare(rows, name, 'base')}")
    print("Chosen for each folder by the other folders:")
    for photos in sorted({name for name, _ in rows}):
        print(f"{photos:12} {chosen_elsewhere(rows, photos, levers)}")


def chosen_elsewhere(rows: Results, photos: str, levers: Sequence[str]) -> str:
    """Return the lever that is best on the other folders, and what it is worth on this one."""

    def worth(lever: str, names: set[str]) -> float:
        by_set = [
            [cell for (name, _), cell in rows.items() if name == one and {lever, "base"} <= {*cell}] for one in names
        ]
        return float(
            np.mean([np.mean([c[lever]["accuracy"] - c["base"]["accuracy"] for c in each]) for each in by_set if each])
        )

    others = {name for name, _ in rows} - {photos}
    best = max(levers, key=lambda lever: worth(lever, others))
    return f"{best}: {100 * worth(best, others):+.2f} points there, {100 * worth(best, {photos}):+.2f} here"


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=lambda text: Path(text).resolve(), nargs="*", help="folders of pictures")
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), required=True, help="folder of all results")
    parser.add_argument("--seeds", type=machine.numbers, default=(0, 1, 2))
    parser.add_argument("--levers", type=lambda text: text.split(";"), default=[*LEVERS, *PROBES])
    parser.add_argument("--report", action="store_true", help="show the existing results only")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    if not options.report:
        measure(options)
    report(read_rows(options.work))


if __name__ == "__main__":
    main()
