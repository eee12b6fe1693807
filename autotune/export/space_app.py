"""Classify pictures on a page, with the model in `model`: the app of a Hugging Face Space, or `python app.py`.

Written by `autotune export --space`. Requires gradio, onnxruntime, NumPy and Pillow.
"""

import json
import sys
from pathlib import Path

import gradio as gr
import onnxruntime

MODEL = Path(__file__).parent / "model"
sys.path.insert(0, str(MODEL))

from predict import crop_square, decode_image  # type: ignore  # noqa: E402 - of the bundle

TOP = 5  # labels shown
HOW = json.loads((MODEL / "preprocessing.json").read_text(encoding="utf-8"))
LABELS = (MODEL / "labels.txt").read_text(encoding="utf-8").splitlines()
STUDY = json.loads((MODEL / "bundle.json").read_text(encoding="utf-8"))["study"]
SESSION = onnxruntime.InferenceSession(str(MODEL / "model.onnx"), providers=["CPUExecutionProvider"])


def classify(picture: str | None) -> tuple[str, dict[str, float]]:
    """Return the answer and the probabilities for a picture file."""
    if picture is None:
        raise gr.Error("Choose a picture first.")
    try:
        pixels = crop_square(decode_image(picture), HOW["pixels"], HOW["interpolation"])
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise gr.Error(f"The picture cannot be read: {error}.") from error
    (probabilities, *_), *distances = SESSION.run(None, {"pixels": pixels[None]})
    best = int(probabilities.argmax())
    is_known = probabilities[best] >= HOW["threshold"] and all(one[0] <= 1 for one in distances)
    answer = LABELS[best] if is_known else "unknown"
    return answer, dict(zip(LABELS, map(float, probabilities), strict=True))


demo = gr.Interface(
    classify,
    # image_mode None: the file is passed on as it was sent.
    gr.Image(type="filepath", image_mode=None, label="Picture"),
    [gr.Textbox(label="Answer"), gr.Label(num_top_classes=TOP, label="Probabilities")],
    title=STUDY,
    api_name="classify",
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
