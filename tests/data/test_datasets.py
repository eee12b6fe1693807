import csv
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


def test_what_exists_goes_before_a_data_set_of_that_name(here: Path) -> None:
    (here / "cifar10").mkdir()
    assert datasets.locate(Path("cifar10"), here, silent) == here / "cifar10"


def test_a_name_that_is_nearly_one_is_answered(here: Path) -> None:
    with pytest.raises(DataError) as error:
        datasets.locate(Path("cifar-10"), here, silent)
    assert error.value.fix == "Did you mean 'cifar10'?"
    with pytest.raises(DataError, match="no folder or table photos/cats"):
        datasets.locate(Path("photos/cats"), here, silent)


def test_without_a_network_the_error_says_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(DataError) as error:
        datasets.locate(Path("cifar10"), here, silent)
    assert error.value.problem.startswith("torchvision cannot get cifar10: ")
    assert str(here) in error.value.fix


def test_every_data_set_is_one_of_torchvisions() -> None:
    import inspect

    from torchvision import datasets

    for one in DATASETS.values():
        known = inspect.signature(getattr(datasets, one.kind).__init__).parameters
        assert {"root", "download", *(key for _, options in one.parts for key in options)} <= set(known)
        assert not one.has_files or "loader" in known


def test_a_data_set_that_is_there_is_read_as_torchvision_reads_it(here: Path) -> None:
    """Real photos, laid out as torchvision keeps the Oxford pets, are found without a download."""
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


def test_a_full_disk_is_told_and_no_half_unpacked_set_is_left(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """torchvision's data set, on a disk without room for what it unpacks."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def __len__(self) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchvision.datasets.USPS", Full)
    with pytest.raises(DataError, match=r"usps cannot be unpacked in .*: No space left on device"):
        datasets.locate(Path("usps"), here, silent)
    assert list((here / "samples").glob(".usps*")) == []


@pytest.mark.network
@pytest.mark.parametrize("name", ["usps", "cifar10", "flowers102"])
def test_a_data_set_is_downloaded(here: Path, name: str) -> None:
    catalog = read_catalog(datasets.locate(Path(name), here, silent))
    assert len(catalog.classes) >= 10
