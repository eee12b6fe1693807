"""Formats of phones and small computers: OpenVINO, LiteRT (TensorFlow Lite), ExecuTorch and Core ML."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.formats.onnx_session import Outputs, Run, joined, outputs_of

CHECK_COREML = "check_coreml.py"


def write_openvino(source: Path, file: Path) -> None:
    """Write an OpenVINO model, .xml and .bin, from an ONNX file. Its weights stay in float32."""
    import openvino

    with _silent():
        openvino.save_model(openvino.convert_model(str(source)), str(file), compress_to_fp16=False)


def load_openvino(file: Path, threads: int) -> Run:
    """Load a model that computes in float32: by default, some processors use bfloat16."""
    import openvino

    options: Mapping[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        options = {**options, "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(str(file), "CPU", options)

    def run(pixels: NDArray[np.uint8]) -> Outputs:
        found = compiled([pixels])
        return outputs_of([np.array(found[place]) for place in range(len(compiled.outputs))])

    return run


def write_litert(graph: Any, pixels: int, file: Path) -> None:
    """Write a LiteRT model, for one picture at a time."""
    import litert_torch
    import torch

    with _silent():
        litert_torch.convert(graph, (torch.zeros(1, 3, pixels, pixels, dtype=torch.uint8),)).export(str(file))


def load_litert(file: Path, threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=threads or None)
    interpreter.allocate_tensors()
    run = interpreter.get_signature_runner()
    (source,) = run.get_input_details()
    names = sorted(run.get_output_details())  # output_0 and output_1, in the order of the graph

    def run_one(picture: NDArray[np.uint8]) -> Outputs:
        found = run(**{source: picture[None]})
        return outputs_of([found[name] for name in names])

    return lambda pixels: joined([run_one(one) for one in pixels])


def write_executorch(graph: Any, pixels: int, file: Path) -> None:
    """Write an ExecuTorch program for CPUs (XNNPACK), for one picture at a time."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with _silent():
        program = torch.export.export(graph, (torch.zeros(1, 3, pixels, pixels, dtype=torch.uint8),))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    file.write_bytes(lowered.buffer)


def load_executorch(file: Path, threads: int) -> Run:
    """Load a program. It has threads of its own, whose number its Python runtime cannot set."""
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(file).load_method("forward")

    def run_one(picture: NDArray[np.uint8]) -> Outputs:
        return outputs_of([one.numpy().copy() for one in method.execute([torch.from_numpy(picture[None])])])

    return lambda pixels: joined([run_one(one) for one in pixels])


def write_coreml(graph: Any, pixels: int, file: Path) -> None:
    """Write a Core ML package, zipped, for one picture at a time, and the script that checks it on a Mac.

    Its input has float32 values from 0 to 255, because Core ML has no arrays of bytes.
    """
    import coremltools
    import torch

    blank = torch.zeros(1, 3, pixels, pixels)
    with _silent():
        program = torch.export.export(graph, (blank,)).run_decompositions({})
        model = coremltools.convert(
            program,
            inputs=[coremltools.TensorType(name="pixels", shape=blank.shape, dtype=np.float32)],
            outputs=[coremltools.TensorType(name=name, dtype=np.float32) for name in graph.outputs],
            minimum_deployment_target=coremltools.target.iOS16,
            compute_precision=coremltools.precision.FLOAT32,
        )
        with tempfile.TemporaryDirectory() as place:
            model.save(f"{place}/model.mlpackage")
            shutil.make_archive(str(file.with_suffix("")), "zip", place, "model.mlpackage")
    shutil.copyfile(Path(__file__).with_name(CHECK_COREML), file.with_name(CHECK_COREML))


def load_coreml(file: Path, threads: int) -> Run:
    """Load a Core ML package on a Mac. Not verified: no Mac was there to run it. Its threads cannot be set."""
    import coremltools

    place = tempfile.TemporaryDirectory()  # deleted with the function that uses it
    shutil.unpack_archive(file, place.name)
    model = coremltools.models.MLModel(f"{place.name}/model.mlpackage", compute_units=coremltools.ComputeUnit.CPU_ONLY)

    def run_one(picture: NDArray[np.uint8]) -> Outputs:
        assert place
        found = model.predict({"pixels": picture[None].astype(np.float32)})
        return outputs_of([found[name] for name in ("probabilities", "distance") if name in found])

    return lambda pixels: joined([run_one(one) for one in pixels])


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard what converters print, also from native code; their errors are exceptions."""
    logging.disable(logging.WARNING)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as leaving:
        leaving.callback(logging.disable, logging.NOTSET)
        for number in (1, 2):
            leaving.callback(_restore, number, os.dup(number))
            os.dup2(nowhere.fileno(), number)
        leaving.enter_context(contextlib.redirect_stdout(nowhere))
        leaving.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def _restore(number: int, kept: int) -> None:
    os.dup2(kept, number)
    os.close(kept)
