"""What the peers' scripts share. Runs without autotune; see compare.py."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

NETWORK = "tf_efficientnet_lite0"


@dataclass(frozen=True)
class Task:
    """folder: has `user` and `later`, one folder per class in each. weights: of NETWORK without its classifier.

    cpu_seconds: that the peer may take; 0: as much as its own recipe takes. out: a JSON file of labels by path.
    """

    folder: Path
    weights: Path
    seed: int
    cpu_seconds: float
    out: Path


def read_task() -> Task:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("cpu_seconds", type=float)
    parser.add_argument("out", type=Path)
    return Task(**vars(parser.parse_args()))


def timm_network(task: Task, **options: Any) -> torch.nn.Module:
    """Return timm's network with the weights, and with another head if the options ask for one."""
    net: torch.nn.Module = timm.create_model(NETWORK, **options)
    missing = net.load_state_dict(torch.load(task.weights, weights_only=True), strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("classifier.") for name in missing.missing_keys)
    return net


def later_pictures(task: Task) -> list[Path]:
    return sorted((task.folder / "later").glob("*/*"))


def write_answers(task: Task, paths: Sequence[str | Path], labels: Sequence[str]) -> None:
    by_path = {
        str(Path(path).relative_to(task.folder / "later")): str(label)
        for path, label in zip(paths, labels, strict=True)
    }
    task.out.write_text(json.dumps(by_path))
