from dataclasses import replace
from pathlib import Path

import pytest
from conftest import photos

from autotune.cli.live.console import PlainConsole
from autotune.data.catalog import read_catalog
from autotune.data.split import split_catalog
from autotune.errors import DataError
from autotune.report.label_issues import find_label_issues

pytestmark = pytest.mark.slow


def test_planted_label_errors_are_found_first(digits: Path) -> None:
    some = sorted(digits.glob("0/*.png"))[:4]
    planted = [file.rename(digits / "1" / f"planted-{file.name}") for file in some]
    split = split_catalog(read_catalog(digits), seed=0)
    test = {p.path for p in split.part("test")}
    wanted = {f"1/{file.name}" for file in planted} - test
    issues = find_label_issues(split, digits, 8, PlainConsole(quiet=True))
    found = issues.issues
    assert issues.judged == 150 - len(test)
    assert wanted
    assert wanted <= {one.path for one in found}
    assert {one.answer for one in found if one.path in wanted} == {"0"}
    assert not {one.path for one in find_label_issues(split, digits, 1000, PlainConsole(quiet=True)).issues} & test


def test_planted_label_errors_among_photos_are_found_first(tmp_path: Path) -> None:
    wanted = set()
    for label, other in (("cat", "dog"), ("dog", "cat")):
        for number, file in enumerate(sorted(photos("cats-dogs").glob(f"{label}/*.jpg"))[:60]):
            place = tmp_path / (other if number < 4 else label) / file.name
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(file)
            if number < 4:
                wanted.add(f"{other}/{file.name}")
    split = split_catalog(read_catalog(tmp_path), seed=0)
    wanted -= {p.path for p in split.part("test")}
    found = {one.path for one in find_label_issues(split, tmp_path, len(wanted), PlainConsole(quiet=True)).issues}
    assert len(wanted & found) >= len(wanted) - 1


def test_a_class_with_too_few_pictures_raises_an_error(digits: Path) -> None:
    split = split_catalog(read_catalog(digits), seed=0)
    first = next(p for p in split.pictures if p.label == "0" and p.part == "train")
    kept = tuple(p for p in split.pictures if p.label != "0" or p.part == "test" or p == first)
    with pytest.raises(DataError, match="'0' has too few pictures to find label errors: 1 outside the test set"):
        find_label_issues(replace(split, pictures=kept), digits, 3, PlainConsole(quiet=True))
