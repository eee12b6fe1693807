import csv
import urllib.request
from pathlib import Path

import pytest
from conftest import photos
from PIL import Image

from autotune.data import datasets
from autotune.data.catalog import read_catalog
from autotune.data.datasets import DATASETS
from autotune.data.split import split_catalog
from autotune.errors import DataError


def silent(_: str) -> None: ...


def test_an_existing_folder_takes_precedence_over_a_torchvision_data_set(here: Path) -> None:
    (here / "cifar10").mkdir()
    assert datasets.locate(Path("cifar10"), here, silent) == here / "cifar10"


def test_a_misspelled_data_set_name_is_corrected(here: Path) -> None:
    with pytest.raises(DataError) as error:
        datasets.locate(Path("cifar-10"), here, silent)
    assert error.value.fix == "Did you mean 'cifar10'?"
    with pytest.raises(DataError, match="Folder or table photos/cats does not exist"):
        datasets.locate(Path("photos/cats"), here, silent)


def test_a_failed_download_raises(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # a closed port
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxy of the first request of the process
    with pytest.raises(DataError) as error:
        datasets.locate(Path("cifar10"), here, silent)
    assert error.value.problem.startswith("torchvision cannot download cifar10: ")
    assert str(here) in error.value.fix


def test_every_data_set_exists_in_torchvision() -> None:
    import inspect

    from torchvision import datasets

    for one in DATASETS.values():
        known = inspect.signature(getattr(datasets, one.kind).__init__).parameters
        assert {"root", "download", *(key for _, options in one.parts for key in options)} <= set(known)
        assert not one.has_files or "loader" in known


def test_a_data_set_on_disk_is_read_through_torchvision(here: Path) -> None:
    """Real pictures in torchvision's layout of the Oxford pets are read without a download."""
    base = here / "samples" / "torchvision" / "oxford-iiit-pet"
    (base / "images").mkdir(parents=True)
    (base / "annotations").mkdir()
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for label, kind in enumerate(("cat", "dog"), 1):
        for number, file in enumerate(sorted(photos("cats-dogs").glob(f"{kind}/*.jpg"))[:40]):
            Image.open(file).save(base / "images" / f"{kind.capitalize()}_{number}.jpg")
            part = "test" if number < 10 else "trainval"
            lines[part].append(f"{kind.capitalize()}_{number} {label} {label} 1")
    for part, rows in lines.items():
        (base / "annotations" / f"{part}.txt").write_text("\n".join(rows) + "\n")
    table = datasets.locate(Path("oxford-iiit-pet"), here, silent)
    with table.open(newline="") as text:
        assert len(list(csv.DictReader(text))) == 80
    split = split_catalog(read_catalog(table), seed=0)
    assert split.classes == ("Cat", "Dog")
    assert len(split.part("test")) == 20
    assert datasets.locate(Path("oxford-iiit-pet"), here, silent) == table
    assert datasets.default_study_name(Path("oxford-iiit-pet")) == "oxford-iiit-pet"


def test_a_full_disk_raises_and_leaves_no_partial_data_set(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """A torchvision dataset on a full disk."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def __len__(self) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchvision.datasets.USPS", Full)
    with pytest.raises(DataError, match=r"Dataset usps cannot be unpacked in .*: No space left on device"):
        datasets.locate(Path("usps"), here, silent)
    assert list((here / "samples").glob(".usps*")) == []


@pytest.mark.network
@pytest.mark.parametrize("name", ["usps", "cifar10", "flowers102"])
def test_a_data_set_is_downloaded(here: Path, name: str) -> None:
    catalog = read_catalog(datasets.locate(Path(name), here, silent))
    assert len(catalog.classes) >= 10
