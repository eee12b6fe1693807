"""Graph: a trained network as one function from uint8 pixels to probabilities, and its file formats."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import config

from autotune.backbones.registry import build_stages
from autotune.backbones.spec import Backbone
from autotune.errors import BundleError
from autotune.text import first_line
from autotune.training.network import build_head
from autotune.training.novelty import NoveltyScore
from autotune.training.restore import TrainedNetwork

CALIBRATION_BATCH = 16
PROBABILITIES, DISTANCE = "probabilities", "distance"  # outputs


class InferenceGraph(nn.Module):
    """Pixels (N, 3, P, P) uint8 to probabilities (N, C), on the CPU: normalisation, backbone, head, softmax of the
    logits divided by a temperature. With a novelty score, also to distances (N,).
    """

    def __init__(
        self,
        backbone: nn.Sequential,
        head: nn.Module,
        mean: Tensor,
        std: Tensor,
        temperature: Tensor,
        novelty: NoveltyScore | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.novelty = novelty
        self.mean: Tensor
        self.std: Tensor
        self.temperature: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("temperature", temperature)
        self.eval().requires_grad_(False).float().to(memory_format=torch.contiguous_format)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it returns."""
        return (PROBABILITIES,) if self.novelty is None else (PROBABILITIES, DISTANCE)

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        image = (pixels.float().div(255) - self.mean) / self.std
        features: Tensor = self.backbone(image)
        logits: Tensor = self.head(features)
        probabilities = (logits / self.temperature).softmax(1)
        return probabilities if self.novelty is None else (probabilities, self.novelty(features))


@dataclass(frozen=True)
class TracedModel:
    """A trained network to write in any format.

    plugins: folders that may contain its backbone. calibration_pictures: reads training pictures, each (3, P, P).
    """

    graph: InferenceGraph
    program: torch.export.ExportedProgram
    backbone: str
    plugins: tuple[Path, ...]
    pixels: int
    interpolation: str
    calibration_pictures: Callable[[], Sequence[NDArray[np.uint8]]]


def assemble_graph(trained: TrainedNetwork, temperature: float, novelty: NoveltyScore | None) -> InferenceGraph:
    """Return the graph of a trained network: a copy of its frozen stages, its unfrozen stages and its head."""
    entry = trained.net.entry
    stages = (copy.deepcopy(one).cpu() for one in (*entry.prefix, *trained.net.tail))
    return InferenceGraph(
        nn.Sequential(*stages),
        copy.deepcopy(trained.net.head[1]).cpu(),
        entry.mean.cpu(),
        entry.std.cpu(),
        torch.tensor(temperature),
        novelty,
    )


def load_graph(file: Path, entry: Backbone) -> InferenceGraph:
    """Load the graph of a model.safetensors; the plugin builds its backbone."""
    state = safetensors.torch.load_file(file)
    shapes = [state[name].shape for name in ("head.weight", "head.0.weight", "head.2.weight") if name in state]
    head = build_head(shapes[0][1], shapes[0][0] if len(shapes) > 1 else 0, shapes[-1][0])
    mean, std = torch.ones(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    names = ("means", "vectors", "weights", "rest", "scale")
    has_novelty = "novelty.means" in state
    novelty = NoveltyScore(*(state[f"novelty.{name}"] for name in names)) if has_novelty else None
    graph = InferenceGraph(build_stages(entry, pretrained=False), head, mean, std, torch.ones(()), novelty)
    graph.load_state_dict(state)
    return graph


def trace_graph(graph: InferenceGraph, pixels: int, name: str) -> torch.export.ExportedProgram:
    """Trace the graph with torch.export, for any batch size. Raises BundleError if it cannot be traced."""
    blank = torch.zeros(2, 3, pixels, pixels, dtype=torch.uint8)
    try:
        with _quiet(), _without_stack_traces():
            shapes = {"pixels": {0: torch.export.Dim("pictures")}}
            program = torch.export.export(graph, (blank,), dynamic_shapes=shapes)
    except Exception as error:  # a plugin's forward may cause any exception in the tracer
        raise BundleError(
            f"Backbone {name!r} cannot be exported: {type(error).__name__}: {first_line(error)}",
            "Export a trial of another backbone: --trial N",
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains local paths
    return program


def write_onnx(program: torch.export.ExportedProgram, pixels: int, outputs: Sequence[str], file: Path) -> None:
    """Write one float32 ONNX file. outputs: their names."""
    import onnx

    blank = torch.zeros(2, 3, pixels, pixels, dtype=torch.uint8)
    with _quiet(), _without_stack_traces():
        torch.onnx.export(program, (blank,), str(file), dynamo=True, input_names=["pixels"],
                          output_names=list(outputs), external_data=False, verbose=False)  # fmt: skip
    model = onnx.load(str(file))
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info, model.graph):
        del part.metadata_props[:]  # the exporter's notes on their source modules
    onnx.save(model, str(file))


def write_int8(source: Path, file: Path, calibration: Sequence[NDArray[np.uint8]]) -> None:
    """Write a statically quantized copy of an ONNX file: int8 weights per channel, uint8 activations, ranges from
    calibration pictures, each (3, P, P) (Jacob et al. 2018; onnxruntime's quantizer). It has no distance: rounded
    features are too far from all others.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            starts = range(0, len(calibration), CALIBRATION_BATCH)
            self._batches = ({"pixels": np.stack(calibration[i : i + CALIBRATION_BATCH])} for i in starts)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self._batches, None)

    prepared = file.with_suffix(".prepared")
    with _quiet():
        onnx.utils.extract_model(str(source), str(prepared), ["pixels"], [PROBABILITIES])
        quant_pre_process(str(prepared), str(prepared))
        quantize_static(str(prepared), str(file), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
    prepared.unlink()


def write_pt2(program: torch.export.ExportedProgram, file: Path) -> None:
    with _quiet():
        buffer = io.BytesIO()  # Python raises when the disk is full; torch aborts the process
        torch.export.save(program, buffer)
        file.write_bytes(buffer.getvalue())


def write_safetensors(graph: InferenceGraph, metadata: dict[str, str], file: Path) -> None:
    state = {name: value.contiguous() for name, value in graph.state_dict().items()}
    file.write_bytes(safetensors.torch.save(state, metadata=metadata))


@contextlib.contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Do not record which lines of code every node of a graph comes from, half of the time of writing ONNX."""
    before = getattr(config, "do_not_emit_stack_traces", False)  # earlier versions of torch have no such switch
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the output, warnings and logs of exporters; their errors are exceptions."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
