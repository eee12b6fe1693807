"""A table of pictures: a CSV or TSV file with the columns path and label, and optionally split and group."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from autotune.data.folder import PARTS, LabelledFile, SkippedFile, other_format
from autotune.errors import DataError, did_you_mean

ENDINGS = {".csv", ".tsv"}
NEEDED, OPTIONAL = ("path", "label"), ("split", "group")


def is_table(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and file.is_file()


def list_table(file: Path) -> tuple[list[LabelledFile], list[SkippedFile]]:
    """The pictures of a table, and those of a format that cannot be read. Empty rows are ignored. Raises DataError.

    Relative paths start at the table's folder. split: train, val, test or nothing; group: pictures of one group stay
    in one part.
    """
    files: dict[str, LabelledFile] = {}
    aside: list[SkippedFile] = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            for number, row in enumerate(_rows(file, text.read().splitlines(keepends=True)), 2):
                found = _found(file, number, row)
                if found is None:
                    continue
                known = files.setdefault(found.path, found)
                if known != found:
                    raise DataError(f"{file} says two things of {found.path}.", "Keep one row for each picture.")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text.", "Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{file} is not a table: {error}.", "Save it as CSV in UTF-8, a line each picture.") from error
    for name in list(files):
        if other := other_format(name):
            aside.append(other)
            del files[name]
    return list(files.values()), aside


def _rows(file: Path, lines: list[str]) -> list[dict[str, str]]:
    header = lines[0] if lines else ""
    # Spreadsheets write ; where the comma is the decimal point.
    delimiter = "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
    for name in NEEDED:
        if name not in columns:
            raise DataError(
                f"{file} has no column {name!r}; its first line is {header.strip()[:80]!r}.",
                "Name the columns in the first line: path,label and, if you like, split,group.",
            )
    reader.fieldnames = columns
    return list(reader)


def _found(file: Path, number: int, row: Mapping[str, str | None]) -> LabelledFile | None:
    """One row's picture; None where the row is empty."""
    path, label, part, group = (" ".join((row.get(name) or "").split(" ")).strip() for name in NEEDED + OPTIONAL)
    if not path and not label:
        return None
    if not path or not label:
        raise DataError(
            f"Line {number} of {file} has no {'label' if path else 'path'}.", "Fill it in, or take the line out."
        )
    if part and part.lower() not in PARTS:
        raise DataError(
            f"Line {number} of {file}: there is no split {part!r}.",
            did_you_mean(part.lower(), ("train", "val", "test")),
        )
    name = path if Path(path).is_absolute() else path.replace("\\", "/").removeprefix("./")
    return LabelledFile(name, " ".join(label.split()), PARTS[part.lower()] if part else None, group)
