"""Measure what a network costs on this machine, once: milliseconds for a picture and the size of its file."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autotune.backbones.spec import Backbone
from autotune.files import cache_folder, make_folder, unwritable, write_whole
from autotune.formats import graph
from autotune.formats.cost import N_LABELS, NetworkCost, cost_from_json, this_device
from autotune.formats.inference import ModelFile, TimingJob, time_network
from autotune.formats.table import ONNX, ExportFormat
from autotune.training.network import build_head
from autotune.training.novelty import N_DIRECTIONS, NoveltyScore

N_CALIBRATION_PICTURES = 16  # of noise: the ranges of a quantised format do not change its speed
FOLDER = "costs"  # of the cache


def measure_cost(backbone: Backbone, chain: nn.Sequential, pixels: int, format: ExportFormat) -> NetworkCost:
    """Measure a backbone, built with any weights, on this machine; the result is kept in the cache folder.

    Raises BundleError if the network cannot be written in this format, or cannot be run, StudyError if the cache
    cannot be written.
    """
    file = cache_folder() / FOLDER / f"{_key(backbone, chain, pixels, format)}.json"
    try:
        return cost_from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not measured yet, or damaged
        found = _measure(backbone, chain, pixels, format)
    try:
        write_whole(make_folder(file.parent) / file.name, json.dumps(asdict(found)))
    except OSError as error:  # a full disk
        raise unwritable(file.parent, error) from error
    return found


def _key(backbone: Backbone, chain: nn.Sequential, pixels: int, format: ExportFormat) -> str:
    """Return what identifies a measurement: the structure of the network, the machine and the versions."""
    shapes = [(name, tuple(value.shape)) for name, value in chain.state_dict().items()]
    versions = [version(name) for name in ("autotune-vision", "torch", "onnxruntime")]
    parts = (backbone.name, pixels, format.name, this_device(), versions, shapes)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _any_novelty(n_features: int) -> NoveltyScore:
    """Return a score of the usual size."""
    n_directions = min(N_DIRECTIONS, n_features - 1)
    means, vectors = torch.rand(N_LABELS, n_features), torch.rand(n_features, n_directions)
    return NoveltyScore(means, vectors, torch.rand(n_directions), torch.tensor(1.0), torch.tensor(1.0))


def _measure(backbone: Backbone, chain: nn.Sequential, pixels: int, format: ExportFormat) -> NetworkCost:
    with torch.no_grad():
        n_features = chain.eval()(torch.zeros(2, 3, pixels, pixels)).shape[1]
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (backbone.traits.mean, backbone.traits.std))
    assembled = graph.InferenceGraph(
        chain, build_head(n_features, 0, N_LABELS), mean, std, torch.tensor(1.0), _any_novelty(n_features)
    )
    program = graph.trace_graph(assembled, pixels, backbone.name)
    noise = np.random.default_rng(0).integers(0, 256, (N_CALIBRATION_PICTURES, 3, pixels, pixels), dtype=np.uint8)

    def calibration_pictures() -> Sequence[NDArray[np.uint8]]:
        return list(noise)

    model = graph.TracedModel(
        assembled, program, backbone.name, (), pixels, backbone.traits.interpolation, calibration_pictures
    )
    with tempfile.TemporaryDirectory() as place:
        for one in dict.fromkeys((ONNX, format)):  # others are converted from ONNX
            one.write_model(model, Path(place, one.file))
        n_bytes = sum(Path(place, name).stat().st_size for name in format.files)
        milliseconds = time_network(TimingJob(format, ModelFile(Path(place, format.file), backbone.name, ()), pixels))
    label_bytes = n_features if format.name == "int8" else 4 * 2 * n_features  # a row of the head, and a mean
    return NetworkCost(backbone.name, pixels, format.name, round(milliseconds, 3), n_bytes, label_bytes)
