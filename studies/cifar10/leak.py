"""Train the small CNN on the write-up's split, which was drawn with replacement, and on autotune's.

python studies/cifar10/leak.py PHOTOS [LEAK]. PHOTOS: a folder with train/ and test/, and one folder per class in each.
LEAK: the folder for links to the pictures of the write-up's split; default: cifar10-leak. `autotune data LEAK` says
what is wrong with it. The training is the recipe of study.toml in plain PyTorch, because a study does not train on such
a split: it keeps one of the copies.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import CyclicLR

from autotune.backbones.registry import build_stages, discover
from autotune.data.catalog import read_catalog
from autotune.data.picture import read_picture
from autotune.data.split import TEST, TRAIN, VALIDATION, split_catalog
from autotune.training.metrics import wilson_interval

BACKBONE, SEED, VALIDATION_SHARE = discover().find("small_cnn"), 0, 0.2
(PHASE,) = tomllib.loads(Path(__file__).with_name("study.toml").read_text())["recipe"]

Pictures = tuple[Tensor, Tensor]  # pixels (N, 3, 32, 32) and class numbers (N,)


def drawn_with_replacement(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return training and validation pictures, both drawn from all files."""
    rng = np.random.default_rng(SEED)
    n_validation = int(VALIDATION_SHARE * len(files))
    drawn = rng.choice(len(files), len(files), replace=True)
    return [files[i] for i in drawn[n_validation:]], [files[i] for i in drawn[:n_validation]]


def link(files: Sequence[Path], folder: Path) -> None:
    """Link pictures into class folders. A picture that was drawn twice is there twice."""
    for number, file in enumerate(files):
        new = folder / file.parent.name / f"{file.stem}+{number}{file.suffix}"
        new.parent.mkdir(parents=True, exist_ok=True)
        if not new.is_symlink():
            new.symlink_to(file.resolve())


def copies(leak: Path) -> str:
    """Return what `autotune data` says about a folder: which pictures a study leaves out because they are copies."""
    command = [sys.executable, "-m", "autotune", "data", str(leak), "--json"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["skipped"]
    examples = "\n".join(f"  {one['path']}: {one['reason']}" for one in found[:3])
    return f"autotune data {leak}: a study leaves out {len(found)} training pictures.\n{examples}\n  ..."


def opened(files: Sequence[Path], classes: Sequence[str]) -> Pictures:
    pixels = np.stack([np.asarray(read_picture(file)) for file in files])
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (BACKBONE.traits.mean, BACKBONE.traits.std))
    return (scaled - mean) / std, torch.tensor([classes.index(file.parent.name) for file in files])


def train(pixels: Tensor, labels: Tensor, n_classes: int) -> nn.Module:
    """Train a network from scratch with the recipe of study.toml."""
    torch.manual_seed(SEED)
    net = nn.Sequential(build_stages(BACKBONE, pretrained=False), nn.LazyLinear(n_classes))
    batches = -(-len(pixels) // PHASE["batch_size"])
    optimizer = SGD(net.parameters(), PHASE["lr_low"], momentum=0.9)
    up = PHASE["cycle_epochs"] * batches // 2
    schedule = CyclicLR(optimizer, PHASE["lr_low"], PHASE["lr_high"], step_size_up=up, cycle_momentum=False)
    for _ in range(PHASE["epochs"]):
        order = torch.randperm(len(pixels))
        for first in range(0, len(pixels), PHASE["batch_size"]):
            chosen = order[first : first + PHASE["batch_size"]]
            batch = pixels[chosen]
            flipped = torch.rand(len(batch), 1, 1, 1) < 0.5
            optimizer.zero_grad()
            loss = cross_entropy(net(torch.where(flipped, batch.flip(3), batch)), labels[chosen])
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def score(net: nn.Module, pixels: Tensor, labels: Tensor) -> str:
    right = int((net(pixels).argmax(1) == labels).sum())
    low, high = wilson_interval(right, len(labels))
    return f"{100 * right / len(labels):.1f} % ({100 * low:.1f} to {100 * high:.1f}, n = {len(labels)})"


def main() -> None:
    photos, leak = Path(sys.argv[1]), Path([*sys.argv, "cifar10-leak"][2])
    files, test = (sorted((photos / part).glob("*/*")) for part in ("train", "test"))
    classes = sorted({file.parent.name for file in files})
    theirs = drawn_with_replacement(files)
    for part, own in zip(("train", "val", "test"), (*theirs, test), strict=True):
        link(own, leak / part)
    print(copies(leak))
    split = split_catalog(read_catalog(photos), SEED, VALIDATION_SHARE)
    ours = [[photos / one.path for one in split.part(part)] for part in (TRAIN, VALIDATION, TEST)]
    print("split                    validation, 95 % interval             test, 95 % interval")
    for name, parts in (("with replacement", (*theirs, test)), ("autotune's", ours)):
        training, *measured = (opened(part, classes) for part in parts)
        net = train(*training, len(classes))
        print(f"{name:24} {score(net, *measured[0]):37} {score(net, *measured[1])}", flush=True)


if __name__ == "__main__":
    main()
