"""A Hugging Face Space: a folder with a Gradio app that classifies pictures with the model of a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from autotune.errors import BundleError
from autotune.export import bundle
from autotune.export.staging import refuse_overlap
from autotune.files import unfinished_folder, write_whole
from autotune.text import first_line, plain_name

APP, README, REQUIREMENTS, ATTRIBUTES, MODEL = "app.py", "README.md", "requirements.txt", ".gitattributes", "model"
REPLACED = {README, REQUIREMENTS}  # also in the clone of a new Space, like its .gitattributes
GRADIO = "6.31.0"  # the version that was tested
NEEDED = ("numpy>=1.26", "onnxruntime>=1.22", "pillow>=11.0")
LARGE = ("onnx", "pt2", "safetensors", "bin", "tflite", "pte", "zip")  # kinds of files
LARGE_FILES = "".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in LARGE)
SOURCE = Path(__file__).with_name("space_app.py")


def check_space(folder: Path, source: Path) -> None:
    """Raise BundleError if a folder has files that are not of a Space, or contains the bundle or lies in it.

    source: the folder of the bundle, which may not exist yet.
    """
    refuse_overlap(folder, source)
    if folder.exists() and not folder.is_dir():
        raise BundleError(f"{folder} is not a folder.", "Choose another folder for the Space.")
    others = sorted(file.name for file in folder.iterdir() if not _is_ours(file)) if folder.is_dir() else []
    if others:
        raise BundleError(
            f"{folder} has files that are not of a Space, such as {others[0]}.", "Choose an empty or a new folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(f"{folder} cannot be created: {error.strerror}.", "Choose another folder.") from error


def _is_ours(file: Path) -> bool:
    """Return whether a file of a folder may be replaced: it is of an earlier Space, or of the clone of a new one."""
    if file.name == APP:
        return file.is_file() and "Written by `autotune export --space`." in file.read_text(
            encoding="utf-8", errors="replace"
        )
    if file.name == MODEL:
        return bundle.is_unchanged(file)
    return file.name.startswith(".") or (file.name in REPLACED and file.is_file())


def write_space(source: Path, folder: Path) -> None:
    """Write a Space from an unchanged bundle. An earlier one is replaced; its git repository is kept.

    Raises BundleError if the bundle has changed, or if the folder has other files or cannot be written.
    """
    opened = bundle.open_bundle(source)
    check_space(folder, opened.folder)
    try:
        with unfinished_folder(folder / MODEL) as staging:
            shutil.copytree(opened.folder, staging / MODEL)
            if (folder / MODEL).exists():
                (folder / MODEL).rename(staging / "earlier")
            (staging / MODEL).rename(folder / MODEL)
        write_whole(folder / APP, SOURCE.read_text(encoding="utf-8"))
        write_whole(folder / REQUIREMENTS, "".join(f"{name}\n" for name in NEEDED))
        write_whole(folder / ATTRIBUTES, LARGE_FILES)
        write_whole(folder / README, _readme(opened))
    except OSError as error:  # shutil.Error has no strerror
        raise BundleError(
            f"{folder} cannot be written: {error.strerror or first_line(error)}.",
            "Free some disk space, or choose another folder.",
        ) from error


def _readme(opened: bundle.Bundle) -> str:
    """Return the description of a Space, with the header that the Hub reads."""
    header = {
        "title": opened.study,
        "emoji": "📷",
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": GRADIO,
        "app_file": APP,
        "pinned": False,
        "short_description": f"Classifies a picture into one of {len(opened.labels)} classes"[:60],
    }
    lines = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items())
    labels = ", ".join(map(plain_name, opened.labels))
    return (
        f"---\n{lines}\n---\n\n# {plain_name(opened.study)}\n\n"
        f"Classifies a picture into one of {len(opened.labels)} classes: {labels}.\n\n"
        f"The model was found by autotune; [its card]({MODEL}/{bundle.CARD}) says how it was trained and tested.\n\n"
        "To try it here: `pip install -r requirements.txt gradio`, then `python app.py`. To publish it, push this "
        "folder to a Space.\n"
    )
