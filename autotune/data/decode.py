"""Names pictures with the model beside this file: python predict.py PICTURE...

Prints path, label and probability, tab-separated. Needs onnxruntime, NumPy and Pillow, nothing else. The first argument
may name another model beside it: python predict.py model.int8.onnx PICTURE...
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def decode_image(path: str | Path) -> Image.Image:
    """One upright RGB picture: EXIF turned, transparency on white, 16 bits scaled to 8."""
    if not Path(path).is_file():  # also a pipe, which would be waited for
        raise ValueError("there is no such file")
    with Image.open(path) as file:
        # MPO is what phones write: a JPEG with a second view behind it.
        if getattr(file, "is_animated", False) and file.format != "MPO":
            raise ValueError(f"animated, {getattr(file, 'n_frames', 2)} frames")
        if file.mode == "F":
            raise ValueError("floating-point pixels, whose white nobody states")
        ImageOps.exif_transpose(file, in_place=True)  # without a copy where nothing is to be turned
        file.load()
        image: Image.Image = file
    if image.mode.startswith("I"):  # 16 bits a channel
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def crop_square(image: Image.Image, pixels: int, interpolation: str) -> np.ndarray:
    """(3, P, P) uint8: the largest square in the picture's centre, resized."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # Only the centre is resized: the whole of a picture 1 pixel wide and 60,000 high would not fit into memory.
    box = (left, top, left + side, top + side)
    cut = image.resize((pixels, pixels), Image.Resampling[interpolation.upper()], box=box)
    return np.ascontiguousarray(np.asarray(cut).transpose(2, 0, 1))


def main() -> None:
    import onnxruntime

    here, names = Path(__file__).parent, sys.argv[1:]
    file = here / (Path(names.pop(0)).name if names and names[0].endswith(".onnx") else "model.onnx")
    if not names:
        sys.exit(__doc__)
    how = json.loads((here / "preprocessing.json").read_text(encoding="utf-8"))
    labels = (here / "labels.txt").read_text(encoding="utf-8").splitlines()
    model = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    failed = 0
    for name in names:
        try:
            pixels = crop_square(decode_image(name), how["pixels"], how["interpolation"])
        except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
            print(f"{name}: not a picture that can be read ({error})", file=sys.stderr)
            failed = 1
            continue
        probabilities = model.run(None, {"pixels": pixels[None]})[0][0]
        best = int(probabilities.argmax())
        label = labels[best] if probabilities[best] >= how["threshold"] else "unknown"
        print(name, label, f"{probabilities[best]:.4f}", sep="\t")
    sys.exit(failed)


if __name__ == "__main__":
    main()
