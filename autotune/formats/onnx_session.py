"""An ONNX model that runs with onnxruntime. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BundleError
from autotune.text import first_line


class Output(NamedTuple):
    """What a network says about one picture. probabilities: (C,). distance: more than 1 is unknown; None: no score."""

    probabilities: NDArray[np.float32]
    distance: float | None


class Outputs(NamedTuple):
    """What a network says about pictures. probabilities: (N, C). distances: (N,), or None if it has no such score."""

    probabilities: NDArray[np.float32]
    distances: NDArray[np.float32] | None = None

    def rows(self) -> Iterator[Output]:
        for place, probabilities in enumerate(self.probabilities):
            yield Output(probabilities, None if self.distances is None else float(self.distances[place]))


def outputs_of(arrays: Sequence[NDArray[np.float32]]) -> Outputs:
    """Return what a runtime returned, in the order of the graph's outputs."""
    return Outputs(np.asarray(arrays[0]), np.asarray(arrays[1]) if len(arrays) > 1 else None)


def joined(some: Sequence[Outputs]) -> Outputs:
    """Return the outputs of several runs as those of one."""
    distances = [one.distances for one in some if one.distances is not None]
    return Outputs(
        np.concatenate([one.probabilities for one in some]), np.concatenate(distances) if distances else None
    )


Run = Callable[[NDArray[np.uint8]], Outputs]  # of pixels (N, 3, P, P)


class OnnxSession:
    """An ONNX model loaded by onnxruntime. threads: 0 for all. Raises BundleError if it cannot be loaded."""

    def __init__(self, file: Path, threads: int = 0) -> None:
        onnxruntime = _import_onnxruntime()
        self._file = file
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only: warnings are about graph optimisation
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen types without a common base
            raise BundleError(f"{file} cannot be loaded: {first_line(error)}", "Export the model again.") from error

    def refuse_other_shapes(self, labels: Sequence[str], pixels: int) -> None:
        """Raise BundleError if the model does not map pixels (N, 3, P, P) to one probability for each label."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        name, shape = inputs[0].name, inputs[0].shape
        if len(inputs) != 1 or name != "pixels" or shape[1:] != [3, pixels, pixels]:
            raise BundleError(
                f"{self._file} does not take pictures of {pixels} x {pixels} pixels.", "Export the model again."
            )
        is_scored = len(outputs) == 2 and outputs[1].shape[1:] == []
        if outputs[0].shape[1:] != [len(labels)] or not (is_scored or len(outputs) == 1):
            raise BundleError(
                f"{self._file} does not have one output for each of the {len(labels)} labels.",
                "Export the model again.",
            )

    def run(self, squares: NDArray[np.uint8]) -> Outputs:
        """Return the outputs for pixels (N, 3, P, P)."""
        return outputs_of(self._session.run(None, {"pixels": squares}))


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BundleError(
            "onnxruntime is not installed. ONNX models require it.",
            "Install it with: pip install 'autotune-vision[export]'",
        ) from error
    return onnxruntime
