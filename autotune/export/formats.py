"""Export formats: how each is written, loaded and verified. To add a format, add an entry to FORMATS.

Entries import torch, onnx and NumPy only when they are used: the command line reads this table for --help, and
opening a bundle does not require torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import BundleError, ConfigError, did_you_mean
from autotune.export.tolerance import FewLost, SameProbabilities, Tolerance

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from autotune.export.bundle import Run
    from autotune.export.graph import TracedModel
    from autotune.export.inference import ModelFile


@dataclass(frozen=True)
class Extra:
    """An extra of the distribution and the modules that it installs."""

    name: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class ExportFormat:
    """One format of an exported model. Its functions are module-level because entries are pickled for another process.

    name: the value of --format. file: its name in the bundle. write: creates the file; model.onnx exists already.
    load: returns a function from pixels (N, 3, P, P) to probabilities (N, C) that runs on the given number of threads,
    0 for all. extra: None if the format requires no additional packages.
    """

    name: str
    file: str
    write: Callable[[TracedModel, Path], None]
    load: Callable[[ModelFile, int], Run]
    tolerance: Tolerance
    extra: Extra | None = None

    def require_modules(self) -> None:
        """Raise BundleError if a module of the extra cannot be imported."""
        if self.extra is None:
            return
        for module in self.extra.modules:
            try:
                import_module(module)
            except ImportError as error:
                raise BundleError(
                    f"{error.name} is not installed. Format {self.name!r} requires it.",
                    f"Install it with: pip install 'autotune-vision[{self.extra.name}]'",
                ) from error


def find_format(name: str) -> ExportFormat:
    """Return the format of that name. Raises ConfigError if it does not exist."""
    if name not in FORMATS:
        raise ConfigError(f"No format named {name!r}.", did_you_mean(name, FORMATS))
    return FORMATS[name]


def optional_formats() -> tuple[str, ...]:
    """Return the names of all formats except onnx, which is always written."""
    return tuple(name for name in FORMATS if name != ONNX.name)


def _write_onnx(model: TracedModel, file: Path) -> None:
    from autotune.export import graph

    graph.write_onnx(model.program, model.pixels, file)


def _write_int8(model: TracedModel, file: Path) -> None:
    from autotune.export import graph

    graph.write_int8(file.with_name(ONNX.file), file, model.calibration_pictures())


def _write_pt2(model: TracedModel, file: Path) -> None:
    from autotune.export import graph

    graph.write_pt2(model.program, file)


def _write_safetensors(model: TracedModel, file: Path) -> None:
    from autotune.export import graph

    graph.write_safetensors(model.graph, {"backbone": model.backbone}, file)


def _load_onnx(model: ModelFile, threads: int) -> Run:
    from autotune.export.bundle import OnnxSession

    return OnnxSession(model.path, threads).probabilities


def _load_pt2(model: ModelFile, threads: int) -> Run:
    import torch

    return _torch_run(torch.export.load(model.path).module(), threads)


def _load_safetensors(model: ModelFile, threads: int) -> Run:
    from autotune.backbones.registry import discover
    from autotune.export import graph

    return _torch_run(graph.load_graph(model.path, discover(model.plugins).find(model.backbone)), threads)


def _torch_run(module: torch.nn.Module, threads: int) -> Run:
    import torch

    if threads:
        torch.set_num_threads(threads)

    @torch.no_grad()
    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = module(torch.from_numpy(pixels)).numpy()
        return probabilities

    return run


_FLOAT32 = SameProbabilities(difference=1e-3)
_ONNX_EXTRA = Extra("export", ("onnx", "onnxruntime", "onnxscript"))

# Always written, and first: `autotune predict` and the bundle's predict.py run it.
ONNX = ExportFormat("onnx", "model.onnx", _write_onnx, _load_onnx, _FLOAT32, _ONNX_EXTRA)

FORMATS = {
    one.name: one
    for one in (
        ONNX,
        ExportFormat("int8", "model.int8.onnx", _write_int8, _load_onnx, FewLost(share=0.01, pictures=2), _ONNX_EXTRA),
        ExportFormat("pt2", "model.pt2", _write_pt2, _load_pt2, _FLOAT32),
        ExportFormat("safetensors", "model.safetensors", _write_safetensors, _load_safetensors, _FLOAT32),
    )
}
