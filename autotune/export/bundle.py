"""Bundle: the folder of an exported model, and how to open it. Does not import torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.backbones.spec import INTERPOLATIONS
from autotune.errors import BundleError
from autotune.formats.table import ONNX

VERSION = 1  # of the layout; a newer one is rejected
INDEX = "bundle.json"  # version, study, trial, and a hash of every other file
LABELS, PREPROCESSING, CARD, SCRIPT = "labels.txt", "preprocessing.json", "card.md", "predict.py"
MOST_SIDE = 2048  # of the input, in pixels
UNKNOWN = "unknown"  # the label below the threshold


@dataclass(frozen=True)
class Bundle:
    """An opened bundle with unchanged files. study: its name. model: the ONNX file to run. threshold: predictions below
    it are labelled "unknown".
    """

    folder: Path
    study: str
    model: Path
    labels: tuple[str, ...]
    pixels: int
    interpolation: str
    threshold: float


def is_bundle(path: Path) -> bool:
    """Return whether a path is a bundle folder or a file in one."""
    return (_folder(path) / INDEX).is_file()


def is_unchanged(folder: Path, study: str | None = None) -> bool:
    """Return whether a folder is a bundle, and contains nothing else. study: of which it has to be."""
    try:
        found = _read_index(folder)
        _refuse_changed(folder, found["files"])
    except (OSError, BundleError):
        return False
    return study in (None, found.get("study")) and {file.name for file in folder.iterdir()} == {INDEX, *found["files"]}


def open_bundle(path: Path) -> Bundle:
    """Open a bundle by its folder or by one of its ONNX files, and check every file against its hash.

    Raises BundleError if a file is missing or has changed, or if the bundle has a newer version.
    """
    folder = _folder(path)
    index = _read_index(folder)
    hashes = index["files"]
    _refuse_changed(folder, hashes)
    model = path if path.is_file() else folder / ONNX.file
    if model.suffix != ".onnx" or model.name not in hashes:
        raise BundleError(f"{model} is not an ONNX model of a bundle.", f"Pass the bundle folder: {folder}")
    how = _read_preprocessing(folder)
    try:
        labels = (folder / LABELS).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise _damaged(folder / LABELS) from error
    study = str(index.get("study") or folder.resolve().name)
    return Bundle(folder, study, model, tuple(labels), how["pixels"], how["interpolation"], float(how["threshold"]))


def write_index(folder: Path, study: str, trial: int) -> None:
    """Write bundle.json into a folder that contains all other files."""
    hashes = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != INDEX}
    text = json.dumps({"version": VERSION, "study": study, "trial": trial, "files": hashes}, indent=2)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def preprocessing(pixels: int, interpolation: str, threshold: float, labels: Sequence[str],
                  has_distance: bool = False) -> dict[str, Any]:  # fmt: skip
    """Return the content of preprocessing.json: the steps from a picture to the input of the graph."""
    distance = {"name": "distance", "type": "float32", "shape": ["N"], "unknown_above": 1.0}
    return {
        "pixels": pixels,
        "interpolation": interpolation,
        "threshold": threshold,
        "steps": [
            "Decode the picture and apply its EXIF orientation.",
            "Convert it to RGB with 8 bits per channel: transparency on white, 16 bits divided by 257.",
            "Crop the largest square from the centre.",
            f"Resize it to {pixels} x {pixels} with Pillow's {interpolation} filter (antialiased).",
            "Pass it as uint8, channels first; normalisation, softmax and calibration are inside the graph.",
        ],
        "input": {"name": "pixels", "type": "uint8", "shape": ["N", 3, pixels, pixels], "order": "RGB"},
        "output": {"name": "probabilities", "type": "float32", "shape": ["N", len(labels)], "order": LABELS},
        **({"distance": distance} if has_distance else {}),
        "answer": f"The most probable label; {UNKNOWN!r} if its probability is below the threshold"
        f"{', or if the distance is more than 1' if has_distance else ''}.",
    }


def sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _folder(path: Path) -> Path:
    return path.parent if path.is_file() else path


def _refuse_changed(folder: Path, hashes: Mapping[str, str]) -> None:
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            raise BundleError(f"Bundle {folder} has no {name}.", "Copy the whole folder again, or export it again.")
        if sha256(folder / name) != expected:
            raise BundleError(
                f"{folder / name} has changed since the export.", "Copy the whole folder again, or export it again."
            )


def _read_preprocessing(folder: Path) -> dict[str, Any]:
    """Return the content of preprocessing.json. Raises BundleError for values that no export writes."""
    file = folder / PREPROCESSING
    try:
        how = json.loads(file.read_text(encoding="utf-8"))
        is_possible = (
            type(how["pixels"]) is int
            and 0 < how["pixels"] <= MOST_SIDE
            and how["interpolation"] in INTERPOLATIONS
            and type(how["threshold"]) in (int, float)
            and 0 <= how["threshold"] <= 1
        )
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(file) from error
    if not is_possible:
        raise _damaged(file)
    return how  # type: ignore[no-any-return]


def _damaged(file: Path) -> BundleError:
    return BundleError(f"{file} is damaged.", "Copy the whole folder again, or export it again.")


def _read_index(folder: Path) -> dict[str, Any]:
    """Return the content of bundle.json. files: the SHA-256 of each other file, by name.

    Raises BundleError if bundle.json is missing, is damaged or has a newer version.
    """
    file = folder / INDEX
    damaged = _damaged(file)
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{folder} is not a bundle: it has no {INDEX}.", "Create a bundle with `autotune export STUDY`."
        ) from error
    except ValueError as error:
        raise damaged from error
    if not isinstance(index, dict) or not isinstance(index.get("version"), int):
        raise damaged
    if index["version"] > VERSION:
        raise BundleError(
            f"Bundle {folder} has version {index['version']}; this version of autotune reads up to {VERSION}.",
            "Upgrade it with: pip install --upgrade autotune-vision",
        )
    hashes = index.get("files")
    if not isinstance(hashes, dict) or any(Path(name).name != name for name in hashes):
        raise damaged
    if index["version"] < 1 or not {ONNX.file, LABELS, PREPROCESSING} <= set(hashes):
        raise damaged
    return index
