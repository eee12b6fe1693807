"""Export formats: how each is written, loaded and verified. To add a format, add an entry to FORMATS.

Entries import torch, onnx and NumPy only when they are used: the command line reads this table for --help, and
opening a bundle does not require torch.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from autotune.errors import BundleError, ConfigError, did_you_mean
from autotune.formats.tolerance import FewLost, SameProbabilities, Tolerance
from autotune.text import first_line

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from autotune.formats.graph import TracedModel
    from autotune.formats.inference import ModelFile
    from autotune.formats.onnx_session import Outputs, Run


@dataclass(frozen=True)
class Extra:
    """An extra of the distribution and the modules that it installs. package: whose needs may clash with the installed
    torch; None if it has no such needs.
    """

    name: str
    modules: tuple[str, ...]
    package: str | None = None

    def clash(self) -> str | None:
        """Return which version of torch the installed package needs, if it is another one; else None."""
        if self.package is None:
            return None
        for line in metadata.requires(self.package) or ():
            need = Requirement(line)
            installed = metadata.version("torch").partition("+")[0]
            if need.name == "torch" and not need.specifier.contains(installed, prereleases=True):
                own = metadata.version(self.package)
                return f"{self.package} {own} needs torch {need.specifier}, and torch {installed} is installed."
        return None


@dataclass(frozen=True)
class ExportFormat:
    """One format of an exported model. Its functions are module-level because entries are pickled for another process.

    name: the value of --format. file: its name in the bundle; companion: of a second file that belongs to it. write:
    creates them; model.onnx exists already. load: returns a function from pixels (N, 3, P, P) to the outputs
    that runs on the given number of threads, 0 for all. extra: None if the format requires no additional packages.
    system: the sys.platform that its runtime needs; None: any.
    """

    name: str
    file: str
    write: Callable[[TracedModel, Path], None]
    load: Callable[[ModelFile, int], Run]
    tolerance: Tolerance
    extra: Extra | None = None
    companion: str | None = None
    system: str | None = None

    def require_modules(self) -> None:
        """Raise BundleError if a module of the extra cannot be imported, or needs another version of torch."""
        if self.extra is None:
            return
        for module in self.extra.modules:
            if find_spec(module) is None:
                raise BundleError(
                    f"{module} is not installed. Format {self.name!r} requires it.",
                    f"Install it with: pip install 'autotune-vision[{self.extra.name}]'",
                )
        if clash := self.extra.clash():
            raise BundleError(clash, "Export in a second environment: see docs/export.md, Phones and small computers.")
        logging.disable(logging.WARNING)  # of optional parts that are missing
        try:
            for module in self.extra.modules:
                _import(module, self.extra.name)
        finally:
            logging.disable(logging.NOTSET)

    def write_model(self, model: TracedModel, file: Path) -> None:
        """Write a model. Raises BundleError if the converter cannot convert the network."""
        try:
            self.write(model, file)
        except OSError:  # a full disk
            raise
        except Exception as error:  # converters raise anything on an operation that they do not know
            if self == ONNX:
                raise
            raise BundleError(
                f"The {self.name} model cannot be written: {type(error).__name__}: {first_line(error)}",
                "Omit this format, or export a trial of another backbone: --trial N",
            ) from error

    @property
    def runs_here(self) -> bool:
        return self.system in (None, sys.platform)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all its files in the bundle."""
        return (self.file, self.companion) if self.companion else (self.file,)


def _import(module: str, extra: str) -> None:
    try:
        import_module(module)
    except Exception as error:  # of versions that do not go together
        raise BundleError(
            f"{module} cannot be imported: {first_line(error)}.",
            f"Install versions that go together: pip install -U 'autotune-vision[{extra}]'",
        ) from error


def find_format(name: str) -> ExportFormat:
    """Return the format of that name. Raises ConfigError if it does not exist."""
    if name not in FORMATS:
        raise ConfigError(f"No format named {name!r}.", did_you_mean(name, FORMATS))
    return FORMATS[name]


def optional_formats() -> tuple[str, ...]:
    """Return the names of all formats except onnx, which is always written."""
    return tuple(name for name in FORMATS if name != ONNX.name)


def timed_formats() -> tuple[str, ...]:
    """Return the names of the formats whose cost can be measured: they run here, without the backbone's plugin."""
    return tuple(one.name for one in FORMATS.values() if one.runs_here and one.name != "safetensors")


def _write_onnx(model: TracedModel, file: Path) -> None:
    from autotune.formats import graph

    graph.write_onnx(model.program, model.pixels, model.graph.outputs, file)


def _write_int8(model: TracedModel, file: Path) -> None:
    from autotune.formats import graph

    graph.write_int8(file.with_name(ONNX.file), file, model.calibration_pictures())


def _write_pt2(model: TracedModel, file: Path) -> None:
    from autotune.formats import graph

    graph.write_pt2(model.program, file)


def _write_safetensors(model: TracedModel, file: Path) -> None:
    from autotune.formats import graph

    graph.write_safetensors(model.graph, {"backbone": model.backbone}, file)


def _write_openvino(model: TracedModel, file: Path) -> None:
    from autotune.formats import devices

    devices.write_openvino(file.with_name(ONNX.file), file)


def _write_litert(model: TracedModel, file: Path) -> None:
    from autotune.formats import devices

    devices.write_litert(model.graph, model.pixels, file)


def _write_executorch(model: TracedModel, file: Path) -> None:
    from autotune.formats import devices

    devices.write_executorch(model.graph, model.pixels, file)


def _write_coreml(model: TracedModel, file: Path) -> None:
    from autotune.formats import devices

    devices.write_coreml(model.graph, model.pixels, file)


def _load_openvino(model: ModelFile, threads: int) -> Run:
    from autotune.formats import devices

    return devices.load_openvino(model.path, threads)


def _load_litert(model: ModelFile, threads: int) -> Run:
    from autotune.formats import devices

    return devices.load_litert(model.path, threads)


def _load_executorch(model: ModelFile, threads: int) -> Run:
    from autotune.formats import devices

    return devices.load_executorch(model.path, threads)


def _load_coreml(model: ModelFile, threads: int) -> Run:
    from autotune.formats import devices

    return devices.load_coreml(model.path, threads)


def _load_onnx(model: ModelFile, threads: int) -> Run:
    from autotune.formats.onnx_session import OnnxSession

    return OnnxSession(model.path, threads).run


def _load_pt2(model: ModelFile, threads: int) -> Run:
    import torch

    return _torch_run(torch.export.load(model.path).module(), threads)


def _load_safetensors(model: ModelFile, threads: int) -> Run:
    from autotune.backbones.registry import discover
    from autotune.formats import graph

    return _torch_run(graph.load_graph(model.path, discover(model.plugins).find(model.backbone)), threads)


def _torch_run(module: torch.nn.Module, threads: int) -> Run:
    import torch

    from autotune.formats.onnx_session import outputs_of

    if threads:
        torch.set_num_threads(threads)

    @torch.no_grad()
    def run(pixels: NDArray[np.uint8]) -> Outputs:
        found = module(torch.from_numpy(pixels))
        return outputs_of([one.numpy() for one in (found if isinstance(found, tuple) else (found,))])

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
        ExportFormat(
            "openvino",
            "model.xml",
            _write_openvino,
            _load_openvino,
            _FLOAT32,
            Extra("openvino", ("openvino",)),
            "model.bin",
        ),
        ExportFormat(
            "litert",
            "model.tflite",
            _write_litert,
            _load_litert,
            _FLOAT32,
            Extra("litert", ("litert_torch", "ai_edge_litert"), "litert-torch"),
        ),
        ExportFormat(
            "executorch",
            "model.pte",
            _write_executorch,
            _load_executorch,
            _FLOAT32,
            Extra("executorch", ("executorch",), "executorch"),
        ),
        ExportFormat(
            "coreml",
            "model.mlpackage.zip",
            _write_coreml,
            _load_coreml,
            _FLOAT32,
            Extra("coreml", ("coremltools",)),
            "check_coreml.py",
            "darwin",
        ),
    )
}
