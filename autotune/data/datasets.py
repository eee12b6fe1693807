"""Named datasets: the built-in digits, and those that torchvision downloads."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autotune.data.table import ENDINGS
from autotune.errors import DataError, did_you_mean
from autotune.files import make_folder, unfinished_folder
from autotune.text import first_line

DIGITS = "digits"
TABLE = "pictures.csv"
TRAIN_TEST = (("train", {"train": True}), ("test", {"train": False}))
BY_SPLIT = (("train", {"split": "train"}), ("test", {"split": "test"}))
WITH_VAL = (("train", {"split": "train"}), ("val", {"split": "val"}), ("test", {"split": "test"}))
OFFICIAL = (("train", {"split": "trainval"}), ("test", {"split": "test"}))


@dataclass(frozen=True)
class TorchvisionDataset:
    """A dataset of torchvision. kind: the name of its class. parts: each part's name and constructor arguments.

    has_files: it consists of picture files and has a `loader` argument; otherwise it returns decoded pictures.
    is_writing: mirroring changes the class of its pictures.
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
    """Return the default name of a study of these pictures."""
    if data is None:
        return DIGITS
    found = data.resolve() if data.exists() else Path(os.path.abspath(data))  # it may be a loop of links
    return found.stem if found.suffix.lower() in ENDINGS else found.name


def reference_of(data: Path | None) -> str:
    """Return the data argument in a form that is valid in any working directory; "" for the digits."""
    if data is None:
        return ""
    return str(data.resolve()) if data.exists() else str(data)


def is_writing(data: Path | None) -> bool:
    """Return whether the pictures show digits, letters or signs, which must not be mirrored."""
    return data is None or (not data.exists() and str(data) in DATASETS and DATASETS[str(data)].is_writing)


def locate(data: Path | None, cache: Path, say: Callable[[str], None]) -> Path:
    """Return the folder or table that `data` names; the digits if it is None. Raises DataError if it does not exist.

    An existing folder or file takes precedence over a torchvision dataset of the same name.
    """
    check_exists(data)
    if data is None:
        say("No folder given: using the built-in sample, 1,797 handwritten digits from scikit-learn.")
        return write_digits(cache)
    return data.resolve() if data.exists() else _downloaded(str(data), cache, say)


def check_exists(data: Path | None) -> None:
    """Raise DataError if `data` is neither a folder, nor a file, nor the name of a dataset."""
    if data is None or data.exists() or str(data) in DATASETS:
        return
    is_word = len(data.parts) == 1 and not data.suffix
    near = did_you_mean(str(data), DATASETS) if is_word else ""
    fix = near if near.startswith("Did") else "Name a folder with one folder of pictures per class, or a .csv file."
    raise DataError(f"Folder or table {data} does not exist.", fix)


def digits_folder(cache: Path) -> Path:
    return (cache / "samples" / DIGITS).resolve()


def write_digits(cache: Path) -> Path:
    """Write the built-in sample as PNG files: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""
    folder = digits_folder(cache)
    if folder.is_dir():
        return folder
    from sklearn.datasets import load_digits

    found = load_digits()
    make_folder(folder.parent)
    with unfinished_folder(folder) as unfinished:
        for number, (values, label) in enumerate(zip(found.images, found.target, strict=True)):
            file = make_folder(unfinished / str(label)) / f"{number:04d}.png"
            Image.fromarray((values * (255 / 16)).round().astype(np.uint8)).save(file)
        return _moved(unfinished, folder)


def _downloaded(which: str, cache: Path, say: Callable[[str], None]) -> Path:
    """Return the table of a dataset's pictures, labels and parts; the dataset is downloaded and written once."""
    folder = (cache / "samples" / which).resolve()
    if (folder / TABLE).is_file():
        return folder / TABLE
    say(f"No folder named {which!r}; using the torchvision dataset of that name, downloaded if necessary.")
    originals = make_folder(folder.parent / "torchvision")
    try:
        with unfinished_folder(folder) as unfinished:
            with (unfinished / TABLE).open("w", newline="", encoding="utf-8") as out:
                rows = csv.writer(out)
                rows.writerow(("path", "label", "split"))
                for part, options in DATASETS[which].parts:
                    rows.writerows(_rows(which, part, options, originals, unfinished))
            return _moved(unfinished, folder) / TABLE
    except OSError as error:
        raise DataError(
            f"Dataset {which} cannot be unpacked in {folder.parent}: {error.strerror or error}.",
            "Free some disk space, or set AUTOTUNE_CACHE to a folder on a larger disk, and run the same command again.",
        ) from error


def _rows(which: str, part: str, options: dict[str, Any], root: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the path, label and part of each picture; pictures without a file are saved as PNG in the folder."""
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
    """Open a torchvision dataset. Raises DataError if it is not on disk and cannot be downloaded."""
    from torchvision import datasets

    one = DATASETS[which]
    more = {"loader": os.path.abspath} if one.has_files else {}
    try:
        return getattr(datasets, one.kind)(root, download=True, **options, **more)
    except (OSError, RuntimeError, ValueError) as error:  # no network, a broken archive, a wrong checksum
        raise DataError(
            f"torchvision cannot download {which}: {first_line(error) or type(error).__name__}.",
            f"Check the network connection, or copy the dataset in torchvision's layout into {root}.",
        ) from error


def _moved(unfinished: Path, folder: Path) -> Path:
    try:
        unfinished.rename(folder)
    except OSError:  # another run finished first
        if not folder.is_dir():
            raise
    return folder
