"""Reading a table of pictures: a CSV or TSV file with the columns path and label, and optionally split and group."""

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
    """Return the pictures of a table, and those in unsupported formats. Empty rows are ignored. Raises DataError.

    Paths are relative to the table's folder. split: train, val, test or empty. group: pictures of one group stay in
    one part.
    """
    files: dict[str, LabelledFile] = {}
    skipped: list[SkippedFile] = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            for number, row in enumerate(_rows(file, text.read().splitlines(keepends=True)), 2):
                found = _found(file, number, row)
                if found is None:
                    continue
                known = files.setdefault(found.path, found)
                if known != found:
                    raise DataError(f"{file} has conflicting rows for {found.path}.", "Keep one row per picture.")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text.", "Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{file} is not a table: {error}.", "Save it as CSV in UTF-8, one line per picture.") from error
    for name in list(files):
        if other := other_format(name):
            skipped.append(other)
            del files[name]
    return list(files.values()), skipped


def _rows(file: Path, lines: list[str]) -> list[dict[str, str]]:
    header = lines[0] if lines else ""
    # Spreadsheets write semicolons in locales with a decimal comma.
    delimiter = "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
    for name in NEEDED:
        if name not in columns:
            raise DataError(
                f"{file} has no column {name!r}; its first line is {header.strip()[:80]!r}.",
                "Name the columns in the first line: path,label and optionally split,group.",
            )
    reader.fieldnames = columns
    return list(reader)


def _found(file: Path, number: int, row: Mapping[str, str | None]) -> LabelledFile | None:
    """Return the picture of a row, or None if the row is empty."""
    path, label, part, group = (" ".join((row.get(name) or "").split(" ")).strip() for name in NEEDED + OPTIONAL)
    if not path and not label:
        return None
    if not path or not label:
        raise DataError(f"Line {number} of {file} has no {'label' if path else 'path'}.", "Add it, or delete the line.")
    if part and part.lower() not in PARTS:
        raise DataError(
            f"Line {number} of {file} has an unknown split {part!r}.",
            did_you_mean(part.lower(), ("train", "val", "test")),
        )
    name = path if Path(path).is_absolute() else path.replace("\\", "/").removeprefix("./")
    return LabelledFile(name, " ".join(label.split()), PARTS[part.lower()] if part else None, group)
