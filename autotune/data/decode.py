"""Classify pictures with the ONNX model in this folder: python predict.py PICTURE...

Prints the path, label and probability of each picture, separated by tabs. Requires onnxruntime, NumPy and Pillow.
To use another model in this folder, name it first: python predict.py model.int8.onnx PICTURE...
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

# Formats of photos. Others that Pillow knows run other programs (EPS: Ghostscript), open other files or are obscure.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF", "JPEG2000", "PPM", "TGA", "ICO", "DDS")
TO_8_BITS = (np.arange(65536) / 257).round().astype(np.uint8)


def open_image(source: str | Path | BinaryIO, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open a picture in one of the formats, as Pillow does: the pixels are not decoded yet."""
    Image.init()
    return Image.open(source, formats=[name for name in formats if name in Image.OPEN])


def decode_image(source: str | Path | BinaryIO, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Return an upright RGB picture: EXIF orientation applied, transparency on white, 16 bits scaled to 8."""
    if isinstance(source, (str, Path)) and not Path(source).is_file():  # opening a pipe would block
        raise ValueError("file not found")
    with open_image(source, formats) as file:
        # Phones write MPO: a JPEG followed by a second view. Counting the frames could take minutes.
        if getattr(file, "is_animated", False) and file.format != "MPO":
            raise ValueError("several frames or pages")
        if file.mode == "F":
            raise ValueError("floating-point pixels without a defined white level")
        ImageOps.exif_transpose(file, in_place=True)  # in place: no copy if there is nothing to rotate
        file.load()
        image: Image.Image = file
    if image.mode.startswith("I"):  # 16 bits per channel
        image = Image.fromarray(TO_8_BITS[np.asarray(image).clip(0, 65535)])
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def crop_square(image: Image.Image, pixels: int, interpolation: str) -> np.ndarray:
    """Return the largest square in the picture's centre, resized to P pixels: (3, P, P), uint8."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # Resize only the centre: a whole picture 1 pixel wide and 60,000 high would not fit into memory.
    box = (left, top, left + side, top + side)
    cut = image.resize((pixels, pixels), Image.Resampling[interpolation.upper()], box=box)
    return np.ascontiguousarray(np.asarray(cut).transpose(2, 0, 1))


def main() -> None:
    import onnxruntime

    here, names = Path(__file__).parent, sys.argv[1:]
    file = here / (Path(names.pop(0)).name if names and names[0].endswith(".onnx") else "model.onnx")
    if not names:
        sys.exit(__doc__)
    for one, digest in json.loads((here / "bundle.json").read_text(encoding="utf-8"))["files"].items():
        if hashlib.sha256((here / one).read_bytes()).hexdigest() != digest:
            sys.exit(f"{here / one} has changed since the export. Copy the whole folder again.")
    how = json.loads((here / "preprocessing.json").read_text(encoding="utf-8"))
    labels = (here / "labels.txt").read_text(encoding="utf-8").splitlines()
    model = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    failed = 0
    for name in names:
        try:
            pixels = crop_square(decode_image(name), how["pixels"], how["interpolation"])
        except Exception as error:  # Pillow's decoders raise many types on damaged files
            print(f"{name}: cannot be read ({error})", file=sys.stderr)
            failed = 1
            continue
        (probabilities, *_), *distances = model.run(None, {"pixels": pixels[None]})
        best = int(probabilities.argmax())
        is_known = probabilities[best] >= how["threshold"] and all(one[0] <= 1 for one in distances)
        label = labels[best] if is_known else "unknown"
        print(name, label, f"{probabilities[best]:.4f}", sep="\t")
    sys.exit(failed)


if __name__ == "__main__":
    main()
