"""Data sets by name: the built-in digits, and those that torchvision downloads."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autotune.data.table import ENDINGS
from autotune.errors import DataError, did_you_mean
from autotune.files import make_folder

DIGITS = "digits"
TABLE = "pictures.csv"
TRAIN_TEST = (("train", {"train": True}), ("test", {"train": False}))
BY_SPLIT = (("train", {"split": "train"}), ("test", {"split": "test"}))
WITH_VAL = (("train", {"split": "train"}), ("val", {"split": "val"}), ("test", {"split": "test"}))
OFFICIAL = (("train", {"split": "trainval"}), ("test", {"split": "test"}))


@dataclass(frozen=True)
class TorchvisionDataset:
    """A data set of torchvision. kind: its class there. parts: the name of each part, and the class's arguments for it.

    has_files: it is a folder of picture files, whose paths are passed to its `loader`; else it holds arrays.
    is_writing: its pictures mean something else when mirrored.
    """

    kind: str
    parts: tuple[tuple[str, dict[str, Any]], ...] = TRAIN_TEST
    has_files: bool = False
    is_writing: bool = False


DATASETS = {
    "cifar10": TorchvisionDataset("CIFAR10"),
    "cifar100": TorchvisionDataset("CIFAR100"),
    "country211": TorchvisionDataset("Country211", (("train", {"split": "train"}), ("val", {"split": "valid"}),
                                     ("test", {"split": "test"})), True),
    "dtd": TorchvisionDataset("DTD", WITH_VAL, True),
    "eurosat": TorchvisionDataset("EuroSAT", (("", {}),), True),
    "fashion-mnist": TorchvisionDataset("FashionMNIST"),
    "fgvc-aircraft": TorchvisionDataset("FGVCAircraft", WITH_VAL, True),
    "flowers102": TorchvisionDataset("Flowers102", WITH_VAL, True),
    "food101": TorchvisionDataset("Food101", BY_SPLIT, True),
    "gtsrb": TorchvisionDataset("GTSRB", BY_SPLIT, is_writing=True),
    "imagenette": TorchvisionDataset("Imagenette", (("train", {"split": "train"}), ("test", {"split": "val"})), True),
    "kmnist": TorchvisionDataset("KMNIST", is_writing=True),
    "mnist": TorchvisionDataset("MNIST", is_writing=True),
    "oxford-iiit-pet": TorchvisionDataset("OxfordIIITPet", OFFICIAL),
    "stl10": TorchvisionDataset("STL10", BY_SPLIT),
    "sun397": TorchvisionDataset("SUN397", (("", {}),), True),
    "svhn": TorchvisionDataset("SVHN", BY_SPLIT, is_writing=True),
    "usps": TorchvisionDataset("USPS", is_writing=True),
}  # fmt: skip


def default_study_name(data: Path | None) -> str:
    """What a study of these pictures is called by default."""
    if data is None:
        return DIGITS
    found = data.resolve()
    return found.stem if found.suffix.lower() in ENDINGS else found.name


def reference_of(data: Path | None) -> str:
    """What was given on the command line, in a form that works from any folder; "" for the digits."""
    if data is None:
        return ""
    return str(data.resolve()) if data.exists() else str(data)


def is_writing(data: Path | None) -> bool:
    """Whether these are digits, letters or signs, which must not be mirrored."""
    return data is None or (not data.exists() and str(data) in DATASETS and DATASETS[str(data)].is_writing)


def locate(data: Path | None, cache: Path, say: Callable[[str], None]) -> Path:
    """The folder or table that `data` names; without it, the digits. Raises DataError where there is none.

    A folder or file of that name comes before a data set of torchvision.
    """
    if data is None:
        say("No folder was named: this is the built-in sample, 1,797 handwritten digits from scikit-learn.")
        return write_digits(cache)
    if data.exists():
        return data.resolve()
    if str(data) in DATASETS:
        return _downloaded(str(data), cache, say)
    is_word = len(data.parts) == 1 and not data.suffix
    near = did_you_mean(str(data), DATASETS) if is_word else ""
    fix = near if near.startswith("Did") else "Name a folder that holds one folder of pictures a class, or a .csv file."
    raise DataError(f"There is no folder or table {data}.", fix)


def digits_folder(cache: Path) -> Path:
    return (cache / "samples" / DIGITS).resolve()


def write_digits(cache: Path) -> Path:
    """The built-in sample as a folder of PNG files: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels."""
    folder = digits_folder(cache)
    if folder.is_dir():
        return folder
    from sklearn.datasets import load_digits

    found = load_digits()
    unfinished = _unfinished(cache, DIGITS)
    for number, (values, label) in enumerate(zip(found.images, found.target, strict=True)):
        file = make_folder(unfinished / str(label)) / f"{number:04d}.png"
        Image.fromarray((values * (255 / 16)).round().astype(np.uint8)).save(file)
    return _moved(unfinished, folder)


def _downloaded(which: str, cache: Path, say: Callable[[str], None]) -> Path:
    """The table of a data set's pictures, with labels and parts; downloaded and written once."""
    folder = (cache / "samples" / which).resolve()
    if (folder / TABLE).is_file():
        return folder / TABLE
    say(f"There is no folder {which!r} here; torchvision has a data set of that name, and downloads it if need be.")
    unfinished = _unfinished(cache, which)
    try:
        with (unfinished / TABLE).open("w", newline="", encoding="utf-8") as out:
            rows = csv.writer(out)
            rows.writerow(("path", "label", "split"))
            for part, options in DATASETS[which].parts:
                rows.writerows(_rows(which, part, options, make_folder(folder.parent / "torchvision"), unfinished))
        return _moved(unfinished, folder) / TABLE
    except OSError as error:
        raise DataError(
            f"{which} cannot be unpacked in {folder.parent}: {error.strerror or error}.",
            "Free some disk space, or set AUTOTUNE_CACHE to a folder on a larger disk; then run the same command.",
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # what Ctrl-C or an error has left; once moved, nothing


def _rows(which: str, part: str, options: dict[str, Any], root: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Path, label and part of each picture; one that is no file becomes a PNG in the folder."""
    opened = _opened(which, options, root)
    classes = getattr(opened, "classes", None)
    for number in range(len(opened)):
        picture, label = opened[number]
        name = classes[label] if classes else str(int(label))
        if not isinstance(picture, (str, Path)):
            file = make_folder(folder / "pictures" / (part or "all") / f"{int(label):03d}") / f"{number:06d}.png"
            picture.save(file)
            picture = file.relative_to(folder).as_posix()
        yield str(picture), name[0] if isinstance(name, (tuple, list)) else name, part


def _opened(which: str, options: dict[str, Any], root: Path) -> Any:
    """torchvision's data set object. Raises DataError where it is neither on disk nor can be downloaded."""
    from torchvision import datasets

    one = DATASETS[which]
    more = {"loader": os.path.abspath} if one.has_files else {}
    try:
        return getattr(datasets, one.kind)(root, download=True, **options, **more)
    except (OSError, RuntimeError, ValueError) as error:  # no network, a broken archive, a check sum that is not met
        raise DataError(
            f"torchvision cannot get {which}: {str(error).partition(chr(10))[0] or type(error).__name__}.",
            f"See to the network, or put the data set, as torchvision keeps it, into {root}.",
        ) from error


def _unfinished(cache: Path, which: str) -> Path:
    folder = cache / "samples" / f".{which}.{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    return make_folder(folder)


def _moved(unfinished: Path, folder: Path) -> Path:
    try:
        unfinished.rename(folder)
    except OSError:  # another run finished first
        if not folder.is_dir():
            raise
    return folder
