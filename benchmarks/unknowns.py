r"""Measure which score tells pictures of something else from pictures of the classes that a network learned.

    python benchmarks/unknowns.py DATA --work WORK [--epochs 6] [--near 3]

DATA: folders of classes: cats-dogs, cifar10, flowers, hotdog and produce. For each, one network is trained with depth 0
(a head on the frozen trunk) and one with a tuned tail, by a study of one trial. 30 % of the pictures are held out: the
known ones. Far: pictures of the other four folders. Near: those of one class that is left out, for `--near` classes.

The scores, each higher for stranger pictures: one minus the calibrated probability, the energy, the distance to the
tenth nearest training picture (cosine), and the Mahalanobis distance to the nearest class mean with a shared, shrunk
covariance of l2-normalised features (Mahalanobis++); `-64` keeps only the 64 largest directions of the covariance. The
distances are those of the frozen trunk (which a network with a tuned tail would need beside it), of the pooled output
of the frozen stages (`cut`), and of the features of the head (`tail`).

AUROC: the probability that a foreign picture is stranger than a known one. refused: the share of foreign pictures over
the threshold that refuses 5 % of the known ones; the threshold is taken from one half of them, and `known` is the share
of the other half that it refuses. Results are appended to WORK/results.jsonl, and only missing ones are made.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from autotune.backbones.profile import profile_stages
from autotune.backbones.registry import build_stages, discover
from autotune.backbones.weights import find_weights, load_stages
from autotune.data.decode import crop_square, decode_image
from autotune.data.split import TEST, TRAIN, VALIDATION
from autotune.formats import graph
from autotune.formats.onnx_session import OnnxSession
from autotune.study.listener import StudyListener
from autotune.study.reopen import FinishedTrial, reopen_trial
from autotune.study.request import Resources, SearchRequest
from autotune.study.run import run_study
from autotune.study.storage.record import open_record
from autotune.study.summary import find_study
from autotune.training.calibration import fit_temperature
from autotune.training.novelty import fit_novelty

BACKBONE = "efficientnet_lite0"
FOLDERS = ("cats-dogs", "cifar10", "flowers", "hotdog", "produce")
SAME = {("cats-dogs", "cifar10"): ("cat", "dog")}  # classes of the second folder that the first has
MOST = 200  # pictures of a folder that are foreign; evenly chosen
DEPTHS = (0, 4)
NEAREST = 10
DIRECTIONS = (16, 64)  # of the covariance that are kept exactly
KNOWN_REFUSED = 0.05
BATCH = 32

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """What a network computes for pictures. features: (N, F) by name; logits: (N, C)."""

    features: Mapping[str, Rows]
    logits: Tensor


@dataclass(frozen=True)
class Network:
    """A trained network and its frozen trunk. kept: features of the trunk by file, shared by all networks of a size."""

    one: FinishedTrial
    trunk: nn.Sequential
    kept: dict[Path, Tensor]

    @torch.no_grad()
    def see(self, files: Sequence[Path]) -> Seen:
        batches = [self._see(files[start : start + BATCH]) for start in range(0, len(files), BATCH)]
        joined = {name: torch.cat([batch[name] for batch in batches]).double() for name in batches[0]}
        logits = joined.pop("logits")
        return Seen({name: values.numpy() for name, values in joined.items()}, logits)

    def _see(self, files: Sequence[Path]) -> dict[str, Tensor]:
        net, trained = self.one.own.net, self.one.own
        is_tuned = net.params.depth > 0
        missing = [file for file in files if file.resolve() not in self.kept]
        x = torch.empty(0)
        if is_tuned or missing:
            asked = files if is_tuned else missing
            squares = [crop_square(decode_image(file), trained.pixels, trained.interpolation) for file in asked]
            x = (torch.from_numpy(np.stack(squares)).float().div(255) - net.entry.mean) / net.entry.std
        if missing:
            rows = self.trunk(x if len(missing) == len(x) else x[[files.index(file) for file in missing]])
            self.kept.update(zip((file.resolve() for file in missing), rows, strict=True))
        frozen = torch.stack([self.kept[file.resolve()] for file in files])
        if not is_tuned:
            return {"frozen": frozen, "logits": net.head[1](frozen)}
        cut = nn.Sequential(*net.entry.prefix)(x)
        tail = nn.Sequential(*net.tail)(cut)
        return {"frozen": frozen, "cut": _pooled(cut), "tail": tail, "logits": net.head[1](tail)}


def _pooled(x: Tensor) -> Tensor:
    return x.flatten(2).mean(2) if x.dim() > 2 else x


def normalised(rows: Rows) -> Rows:
    found: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def mahalanobis(train: Rows, labels: NDArray[np.int64], directions: int | None = None) -> Callable[[Rows], Rows]:
    """Return the squared distance to the nearest class mean, by a covariance that all classes share.

    directions: the number of its largest ones; the others get the mean variance of the rest, which needs less space.
    """
    rows = normalised(train)
    kinds, numbers = np.unique(labels, return_inverse=True)
    means = np.stack([rows[labels == label].mean(0) for label in kinds])
    covariance, _ = ledoit_wolf(rows - means[numbers], assume_centered=True)
    variances, vectors = np.linalg.eigh(covariance)
    kept = len(variances) if directions is None else min(directions, len(variances))
    rest = variances[: len(variances) - kept].mean() if kept < len(variances) else 1.0
    vectors = vectors[:, len(variances) - kept :]
    weights = 1 / variances[len(variances) - kept :] - 1 / rest

    def distances(other: Rows) -> Rows:
        apart = normalised(other)[:, None] - means[None]
        found: Rows = ((apart**2).sum(2) / rest + (apart @ vectors) ** 2 @ weights).min(1)
        return found

    return distances


def nearest(train: Rows) -> Callable[[Rows], Rows]:
    """Return the cosine distance to the tenth nearest training picture."""
    rows = normalised(train)

    def distances(other: Rows) -> Rows:
        similar = normalised(other) @ rows.T
        found: Rows = 1 - np.sort(similar, axis=1)[:, -min(NEAREST, len(rows))]
        return found

    return distances


def scores(train: Seen, labels: NDArray[np.int64], temperature: float) -> dict[str, Callable[[Seen], Rows]]:
    """Return the scores by name, fitted on training pictures."""
    found: dict[str, Callable[[Seen], Rows]] = {
        "probability": lambda seen: 1 - (seen.logits / temperature).softmax(1).max(1).values.numpy(),
        "energy": lambda seen: -seen.logits.logsumexp(1).numpy(),
    }
    for name, rows in train.features.items():
        found[f"nearest, {name}"] = _of(name, nearest(rows))
        found[f"Mahalanobis, {name}"] = _of(name, mahalanobis(rows, labels))
        for directions in DIRECTIONS:
            found[f"Mahalanobis-{directions}, {name}"] = _of(name, mahalanobis(rows, labels, directions))
    return found


def _of(name: str, score: Callable[[Rows], Rows]) -> Callable[[Seen], Rows]:
    return lambda seen: score(seen.features[name])


def compared(known: Rows, foreign: Rows) -> dict[str, float]:
    """Return the AUROC, and what a threshold from one half of the known pictures refuses."""
    at = np.quantile(known[::2], 1 - KNOWN_REFUSED)
    labels = np.r_[np.zeros(len(known)), np.ones(len(foreign))]
    auroc = roc_auc_score(labels, np.r_[known, foreign])
    return {"auroc": float(auroc), "refused": float((foreign > at).mean()), "known": float((known[1::2] > at).mean())}


def linked(source: Path, work: Path, without: str | None) -> Path:
    """Return a folder with the classes of another, without one of them."""
    if without is None:
        return source
    folder = work / f"{source.parent.name}-{source.name}-without-{without}"
    folder.mkdir(parents=True, exist_ok=True)
    for inner in classes(source):
        if inner.name != without and not (folder / inner.name).is_symlink():
            (folder / inner.name).symlink_to(inner.resolve())
    return folder


def classes(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir())


def place(data: Path, name: str) -> Path:
    """Return the folder of classes: that of the training pictures, where a folder is split."""
    inner = data / name / "train"
    return inner if inner.is_dir() else data / name


def pictures(folder: Path, leave_out: Sequence[str] = (), most: int = MOST) -> list[Path]:
    files = [file for inner in classes(folder) if inner.name not in leave_out for file in sorted(inner.iterdir())]
    return files[:: max(1, len(files) // most)][:most]


def trained(data: Path, depth: int, epochs: int) -> FinishedTrial:
    """Return the network of a study of one trial, trained before or now."""
    name = f"{data.parent.name}-{data.name}-{depth}"
    flags = {
        "backbone": [BACKBONE], "depth": [depth], "epochs": epochs, "test": 0.3, "final": "trial",
        "optimizer": ["adamw"], "group_by": "none", "pruner": "none",
    }  # fmt: skip
    request = SearchRequest(data=data, name=name, trials=1, flags=flags, device="cpu")
    run_study(request, StudyListener())  # only opened, if it is finished
    folder = find_study(name)
    with open_record(folder) as record:
        one = reopen_trial(folder, record, Resources("cpu"), StudyListener(), 0)
        assert one.own
        return one


def measure(data: Path, depth: int, epochs: int, foreign: Mapping[str, Sequence[Path]],
            kept: dict[int, dict[Path, Tensor]]) -> dict[str, Any]:  # fmt: skip
    """Return the results of every score for each set of foreign pictures, and the accuracy on the known ones."""
    one = trained(data, depth, epochs)
    entry = one.own.backbone
    network = Network(one, load_stages(entry, find_weights(entry)).eval(), kept.setdefault(one.own.pixels, {}))
    parts = {part: one.parts.part(part) for part in (TRAIN, VALIDATION, TEST)}
    seen = {part: network.see([data / p.path for p in found]) for part, found in parts.items()}
    numbers = {name: number for number, name in enumerate(one.parts.classes)}
    labels = {part: np.array([numbers[p.label] for p in found]) for part, found in parts.items()}
    temperature = fit_temperature(seen[VALIDATION].logits, torch.from_numpy(labels[VALIDATION]))
    fitted = scores(seen[TRAIN], labels[TRAIN], temperature)
    others = {name: network.see(files) for name, files in foreign.items()}
    return {
        "accuracy": float((seen[TEST].logits.argmax(1).numpy() == labels[TEST]).mean()),
        "n": len(labels[TEST]),
        "scores": {
            name: {other: compared(score(seen[TEST]), score(rows)) for other, rows in others.items()}
            for name, score in fitted.items()
        },
    }


def costs(seconds: float = 20) -> None:
    """Print what the score adds to the graph: on the features of the head, or with the frozen trunk beside the tail."""
    entry = discover().find(BACKBONE)
    chain = build_stages(entry, pretrained=False)
    size, n_features = entry.traits.pixels, profile_stages(entry, chain, entry.traits.pixels).features
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (entry.traits.mean, entry.traits.std))
    rows, labels = torch.rand(100, n_features), torch.arange(100) % 5
    head = nn.Linear(n_features, 5)
    plain = graph.InferenceGraph(chain, head, mean, std, torch.tensor(1.0))
    scored = graph.InferenceGraph(chain, head, mean, std, torch.tensor(1.0), fit_novelty(rows, labels))
    beside = Beside(scored, copy.deepcopy(chain), len(chain) - DEPTHS[-1])
    names = {"without": plain, "distance, tail": scored, "distance, frozen trunk": beside}
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, size, size), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as place:
        runs: dict[str, OnnxSession] = {}
        sizes: dict[str, float] = {}
        for name, model in names.items():
            file = Path(place, f"{len(runs)}.onnx")
            program = graph.trace_graph(model, size, BACKBONE)  # type: ignore[arg-type]
            graph.write_onnx(program, size, plain.outputs if model is plain else scored.outputs, file)
            runs[name], sizes[name] = OnnxSession(file, 1), file.stat().st_size / 1e6
        times: dict[str, list[float]] = {name: [] for name in names}
        end = time.monotonic() + seconds
        while time.monotonic() < end:  # in turn, so that other load affects all alike
            for name, session in runs.items():
                start = time.perf_counter()
                session.run(pixels)
                times[name].append(1000 * (time.perf_counter() - start))
    for name, found in times.items():
        print(f"{name:24} {np.median(found):6.2f} ms, {sizes[name]:.2f} MB (one thread, n = {len(found)})")


class Beside(nn.Module):
    """A network with a tuned tail, and the frozen trunk's last stages beside it for the distance."""

    def __init__(self, scored: graph.InferenceGraph, frozen: nn.Sequential, cut: int) -> None:
        super().__init__()
        self.scored, self.frozen, self.cut = scored, frozen[cut:].eval(), cut

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        one = self.scored
        cut = one.backbone[: self.cut]((pixels.float().div(255) - one.mean) / one.std)
        probabilities = (one.head(one.backbone[self.cut :](cut)) / one.temperature).softmax(1)
        assert one.novelty
        return probabilities, one.novelty(self.frozen(cut))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--near", type=int, default=2, help="classes left out, of each folder with more than two")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results = options.work / "results.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    data = options.data.resolve()
    os.chdir(options.work)
    kept: dict[int, dict[Path, Tensor]] = {}
    for folder in FOLDERS:
        source = place(data, folder)
        inner = [one.name for one in classes(source)]
        step = max(1, len(inner) // max(options.near, 1))
        near = inner[::step][: options.near] if len(inner) > 2 else []
        for without in (None, *near):
            for depth in DEPTHS:
                key = [folder, without, depth, options.epochs]
                if any(row["key"] == key for row in done):
                    continue
                start = time.monotonic()
                if without is None:
                    foreign = {other: pictures(place(data, other), SAME.get((folder, other), ())) for other in FOLDERS
                               if other != folder}  # fmt: skip
                else:
                    foreign = {"near": sorted((source / without).iterdir())[:MOST]}
                found = measure(linked(source, options.work, without), depth, options.epochs, foreign, kept)
                row = {"key": key, **found, "seconds": time.monotonic() - start}
                done.append(row)
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(key, f"accuracy {found['accuracy']:.3f}, {row['seconds']:.0f} s", flush=True)
    print(machine.line(f"{len(done)} networks"))
    show(done)
    print("\nWhat the distance costs:")
    costs()


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the means: by folder for far pictures, and over the classes left out for near ones."""
    for kind in ("far", "near"):
        for depth in DEPTHS:
            own = [row for row in rows if row["key"][2] == depth and (row["key"][1] is None) == (kind == "far")]
            if not own:
                continue
            folders = [name for name in FOLDERS if any(row["key"][0] == name for row in own)]
            print(f"\n{kind}, depth {depth}: AUROC (refused), by folder of the known pictures; mean")
            print(f"{'':22}", *(f"{name:>14}" for name in folders), f"{'mean':>14}  known refused")
            for score in own[0]["scores"]:
                cells = {name: _mean([row for row in own if row["key"][0] == name], score) for name in folders}
                values = [*cells.values(), np.mean(list(cells.values()), axis=0)]
                text = (f"{f'{100 * auroc:.1f} ({100 * refused:.0f} %)':>14}" for auroc, refused, _ in values)
                print(f"{score:22}", *text, f"{100 * values[-1][2]:13.1f} %")


def _mean(rows: Sequence[Mapping[str, Any]], score: str) -> tuple[float, float, float]:
    found = [tuple(one[name] for name in ("auroc", "refused", "known")) for row in rows
             for one in row["scores"][score].values()]  # fmt: skip
    auroc, refused, known = np.mean(found, axis=0)
    return float(auroc), float(refused), float(known)


if __name__ == "__main__":
    main()
