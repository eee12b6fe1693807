import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import write_digits

from autotune.cli.live.console import PlainConsole
from autotune.data.catalog import read_catalog
from autotune.data.split import PARTS, split_catalog
from autotune.errors import DataError
from autotune.study.request import SearchRequest
from autotune.study.run import run_study


def write(file: Path, rows: Sequence[tuple[object, ...]], header: str = "path,label", delimiter: str = ",") -> Path:
    with file.open("w", newline="", encoding="utf-8") as out:
        out.write(header + "\n")
        csv.writer(out, delimiter=delimiter).writerows(rows)
    return file


def files(digits: Path) -> list[Path]:
    return sorted(digits.rglob("*.png"))


def test_paths_are_absolute_or_relative_to_the_table(digits: Path) -> None:
    some = files(digits)
    rows = [(file if i % 2 else file.relative_to(digits), f"class {file.parent.name}") for i, file in enumerate(some)]
    catalog = read_catalog(write(digits / "all.csv", rows))
    assert catalog.root == digits
    assert catalog.classes == ("class 0", "class 1", "class 2")
    assert sorted((catalog.root / p.path).resolve() for p in catalog.pictures) == some


@pytest.mark.parametrize(("name", "delimiter"), [("t.tsv", "\t"), ("t.csv", ";"), ("t.CSV", ",")])
def test_tabs_semicolons_and_a_byte_order_mark_are_accepted(digits: Path, name: str, delimiter: str) -> None:
    rows = [(f.relative_to(digits), f.parent.name) for f in files(digits)]
    file = write(digits / name, rows, f"\ufeffPath{delimiter}Label", delimiter)
    assert len(read_catalog(file).pictures) == 150


def test_the_split_column_decides_the_parts(digits: Path) -> None:
    some = files(digits)
    names = ("train", "val", "test")
    rows = [(f.relative_to(digits), f.parent.name, names[i % 3]) for i, f in enumerate(some)]
    split = split_catalog(read_catalog(write(digits / "t.csv", rows, "path,label,split")), seed=0)
    expected = {str(path): {"val": "validation"}.get(part, part) for path, _, part in rows}
    assert {p.path: p.part for p in split.pictures} == expected


def test_groups_never_cross_splits(digits: Path) -> None:
    rows = [(f.relative_to(digits), f.parent.name, f"patient {i % 40}") for i, f in enumerate(files(digits))]
    split = split_catalog(read_catalog(write(digits / "t.csv", rows, "path,label,group")), seed=0)
    found: dict[str, set[str | None]] = {}
    for p in split.pictures:
        found.setdefault(p.group, set()).add(p.part)
    assert len(found) == 40
    assert split.visits.words == "40 groups by the table's column group"
    assert all(len(parts) == 1 for parts in found.values())
    assert {part for parts in found.values() for part in parts} == set(PARTS)


def test_a_group_given_two_splits_leaves_the_training_set(digits: Path) -> None:
    rows = [
        (f.relative_to(digits), f.parent.name, "test" if i % 5 == 0 else "train", "")
        for i, f in enumerate(files(digits))
    ]
    rows = [(*row[:3], "burst") if i in (0, 1, 2) else row for i, row in enumerate(rows)]
    split = split_catalog(read_catalog(write(digits / "t.csv", rows, "path,label,split,group")), seed=0)
    assert [one.reason for one in split.skipped] == [f"of the same group as {rows[0][0]}, which is in the test set"] * 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("file,label\na.png,b\n", "no column 'path'"),
        ("path,label\na.png,\n", "Line 2 of .* has no label"),
        ("path,label,split\na.png,b,trian\n", "unknown split 'trian'"),
        ("path,label\n0/a.png,x\n0/a.png,y\n", "conflicting rows for 0/a.png"),
        ("", "no column 'path'"),
        ("path,label\n", "is empty"),
        ('path,label\n"a.png,b\n', "not a table"),
    ],
)
def test_errors_of_a_table_are_named(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=problem):
        read_catalog(tmp_path / "t.csv")


def test_missing_files_are_skipped_with_a_reason(digits: Path) -> None:
    rows: list[tuple[object, ...]] = [(f.relative_to(digits), f.parent.name) for f in files(digits)]
    catalog = read_catalog(write(digits / "t.csv", [*rows, ("gone.png", "0")]))
    assert [(one.path, one.bad) for one in catalog.skipped] == [("gone.png", True)]
    assert "No such file" in catalog.skipped[0].reason


@pytest.mark.slow
def test_a_study_of_a_table_is_named_after_it_and_resumes(tmp_path: Path, here: Path) -> None:
    digits = write_digits(tmp_path / "pictures", classes=2, each=40)
    rows = [(f, f.parent.name, f"g{i // 3}") for i, f in enumerate(files(digits))]
    table = write(tmp_path / "wards.csv", rows, "path,label,group")
    flags = {"epochs": 1, "backbone": ["quick_cnn"]}
    for trials in (1, 2):
        request = SearchRequest(data=table, trials=trials, flags=flags, device="cpu")
        found = run_study(request, PlainConsole(quiet=True)).to_json()
        assert (found["study"], found["trials"]["complete"]) == ("wards", trials)
    assert found["test"]["n"] > 0
