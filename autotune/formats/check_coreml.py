"""Check the Core ML model of this bundle on a Mac: pip install coremltools pillow, then python check_coreml.py

Compares its probabilities for the fixtures with those in fixtures.json, which are of the ONNX model.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import coremltools
import numpy as np
from predict import crop_square, decode_image  # type: ignore[attr-defined]  # of the bundle

ALLOWED = 1e-3  # difference of a probability


def main() -> None:
    here = Path(__file__).parent
    how = json.loads((here / "preprocessing.json").read_text(encoding="utf-8"))
    fixtures = json.loads((here / "fixtures.json").read_text(encoding="utf-8"))
    worst = 0.0
    with tempfile.TemporaryDirectory() as place:
        shutil.unpack_archive(here / "model.mlpackage.zip", place)
        model = coremltools.models.MLModel(f"{place}/model.mlpackage", compute_units=coremltools.ComputeUnit.CPU_ONLY)
        for one in fixtures["pictures"]:
            pixels = crop_square(decode_image(here / one["file"]), how["pixels"], how["interpolation"])
            found = model.predict({"pixels": pixels[None].astype(np.float32)})["probabilities"][0]
            difference = float(np.abs(found - np.array(one["probabilities"])).max())
            worst = max(worst, difference)
            print(f"{one['file']}: largest difference {difference:.1e}")
    print("verified" if worst <= ALLOWED else f"REJECTED: more than {ALLOWED:g}")
    sys.exit(worst > ALLOWED)


if __name__ == "__main__":
    main()
