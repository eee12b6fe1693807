"""A server of a small bundle, in a process of its own, and how to ask it."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from autotune.data import decode
from autotune.export import bundle

LABELS = ("dark", "light", "<b>grey</b>")
PIXELS = 16


def write_bundle(folder: Path, threshold: float = 0.6) -> Path:
    """Write a bundle whose network sees brightness: dark, light, or neither, which is unknown."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, value: Any) -> Any:
        return numpy_helper.from_array(np.asarray(value), name)

    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Mul", ["column", "slope"], ["sloped"]),
        helper.make_node("Add", ["sloped", "offset"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 3, PIXELS, PIXELS])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(LABELS)])],
        [
            constant("axes", np.array([1, 2, 3])),
            constant("last", np.array([1])),
            constant("slope", np.array([[-0.04, 0.04, 0.0]], np.float32)),
            constant("offset", np.array([[5.0, -5.0, 0.0]], np.float32)),
        ],
    )
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    (folder / bundle.LABELS).write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    how = bundle.preprocessing(PIXELS, "bilinear", threshold, LABELS)
    (folder / bundle.PREPROCESSING).write_text(json.dumps(how), encoding="utf-8")
    shutil.copyfile(str(decode.__file__), folder / bundle.SCRIPT)
    bundle.write_index(folder, "brightness", 0)
    return folder


def picture(level: int, size: tuple[int, int] = (20, 30), kind: str = "PNG") -> bytes:
    """Return the content of a grey picture."""
    file = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(file, kind)
    return file.getvalue()


def form(*files: tuple[str, bytes], field: str = "file") -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a multipart form with files (name, content)."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), {
        "Content-Type": f"multipart/form-data; boundary={boundary}"
    }


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Served:
    """A running server. said: what it has printed."""

    process: subprocess.Popen[str]
    port: int
    said: str

    def ask(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, method: str = ""
    ) -> Reply:
        return ask(self.port, path, body, headers, method)

    def predict(self, *files: tuple[str, bytes], top: int = 5) -> Reply:
        return self.ask(f"/predict?top={top}", *form(*files))

    @property
    def resident_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def stop(self) -> tuple[int, str]:
        """Return the exit code and what was printed to stderr."""
        self.process.terminate()
        _, error = self.process.communicate(timeout=30)
        return self.process.returncode, error


def ask(
    port: int, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, method: str = ""
) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
        reply = connection.getresponse()
        return Reply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
    finally:
        connection.close()


def start(source: Path, *options: str, environment: Mapping[str, str] | None = None) -> Served:
    """Start `autotune serve SOURCE` on a free port, and wait until it listens."""
    command: Sequence[str] = (sys.executable, "-m", "autotune", "serve", str(source), "--port", "0", *options)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
    )
    assert process.stdout
    said = ""
    while "Ctrl-C" not in said:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        said += line
    first = said.partition("http://")[2].split("/")[0].split()[0]
    return Served(process, int(first.rpartition(":")[2]), said)
