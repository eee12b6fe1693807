"""Fixtures: three pictures in a bundle and the numbers that they must give, to check preprocessing in other languages.

The pictures are drawn, so that a bundle contains none of the user's.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autotune.data.decode import crop_square, decode_image
from autotune.formats.onnx_session import OnnxSession, Run

NUMBERS = "fixtures.json"
ORIENTATION = 0x0112  # the EXIF tag
TURNED = 6  # its value for a picture that has to be turned clockwise by 90 degrees
PLACES = ((0.5, 0.5), (0.1, 0.1), (0.1, 0.9), (0.9, 0.1), (0.9, 0.9))  # of the values shown: row and column, as shares


def write_fixtures(folder: Path, model: Path, pixels: int, interpolation: str) -> None:
    """Write the pictures and fixtures.json, whose probabilities are those of an ONNX model."""
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    turned = {"quality": 95, "subsampling": 0, "exif": exif}
    drawn: tuple[tuple[str, Image.Image, str, dict[str, Any]], ...] = (
        (
            "fixture-wide.png",
            _wide(),
            "Grey becomes RGB, crop; a resize without antialiasing fails.",
            {},
        ),
        ("fixture-turned.jpg", _turned(), "Apply the EXIF orientation before the crop.", turned),
        ("fixture-transparent.png", _transparent(), "Transparency on white; a resize to a larger size.", {}),
    )
    run = OnnxSession(model).run
    pictures = []
    for name, image, checks, options in drawn:
        image.save(folder / name, **options)
        pictures.append({"file": name, "checks": checks, **_numbers(folder / name, run, pixels, interpolation)})
    how = "pixels: uint8, channels first (3, P, P). mean: of each channel. values: [row, column, R, G, B]."
    (folder / NUMBERS).write_text(json.dumps({"how": how, "pictures": pictures}, indent=2) + "\n", encoding="utf-8")


def _numbers(file: Path, run: Run, pixels: int, interpolation: str) -> dict[str, Any]:
    """Return the numbers of one picture: of the network's input, and its probabilities in the order of the labels."""
    square = crop_square(decode_image(file), pixels, interpolation)
    output = next(run(square[None]).rows())
    distance = {} if output.distance is None else {"distance": round(output.distance, 6)}
    places = [(int(row * pixels), int(column * pixels)) for row, column in PLACES]
    return {
        "pixels": {
            "sha256": hashlib.sha256(square.tobytes()).hexdigest(),
            "mean": [round(float(channel.mean()), 3) for channel in square],
            "values": [[row, column, *map(int, square[:, row, column])] for row, column in places],
        },
        "probabilities": [round(float(one), 6) for one in output.probabilities],
        **distance,
    }


def _wide() -> Image.Image:
    """Draw grey rings that get finer outwards, down to two pixels: a zone plate."""
    height, width = 400, 600
    y, x = np.mgrid[:height, :width]
    waves = np.cos(np.pi * ((x - width / 2) ** 2 + (y - height / 2) ** 2) / width)
    return Image.fromarray((127.5 + 127.5 * waves).round().astype(np.uint8))


def _turned() -> Image.Image:
    """Draw a picture whose corners differ, stored lying on its side."""
    height, width = 300, 450
    y, x = np.mgrid[:height, :width]
    planes = (255 * x / width, 255 * y / height, 127.5 + 127.5 * np.sin(x / 20) * np.sin(y / 30))
    return Image.fromarray(np.stack(planes, 2).round().astype(np.uint8))


def _transparent() -> Image.Image:
    """Draw a small picture with all grades of transparency."""
    height, width = 30, 44
    y, x = np.mgrid[:height, :width]
    planes = (255 * (x % 11) / 10, 255 * (y % 7) / 6, 255 * ((x + y) % 2), 255 * x / (width - 1))
    return Image.fromarray(np.stack(planes, 2).round().astype(np.uint8))
