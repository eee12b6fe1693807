import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune import files
from autotune.cache import rows as store
from autotune.cache.rows import RowStore, Writer
from autotune.errors import StudyError


def key(number: int) -> str:
    return f"{number:032x}"


def filled(folder: Path, n: int = 5) -> RowStore:
    rows = RowStore(folder, (2, 3), np.float16)
    rows.append([key(i) for i in range(n)], np.arange(n * 6).reshape(n, 2, 3))
    return rows


def test_rows_are_read_by_key(tmp_path: Path) -> None:
    rows = filled(tmp_path)
    found = rows.take(rows.places([key(3), key(0), key(3)]))
    assert found[:, 0, 0].tolist() == [18, 0, 18]


def test_an_open_reader_sees_appended_rows(tmp_path: Path) -> None:
    reader = RowStore(tmp_path, (2, 3), np.float16)
    assert reader.missing([key(0)]) == [key(0)]
    filled(tmp_path)
    assert reader.missing([key(0), key(9), key(9)]) == [key(9)]


@pytest.mark.parametrize("kept", [0, 5, 40])
def test_rows_whose_keys_were_not_written_are_never_read(tmp_path: Path, kept: int) -> None:
    """As after kill -9: complete or partial rows without their keys, or with a partial key."""
    filled(tmp_path)
    with (tmp_path / "rows.bin").open("ab") as out:
        out.write(b"\xff" * kept)
    with (tmp_path / "keys.bin").open("ab") as out:
        out.write(b"\xff" * 7)
    rows = RowStore(tmp_path, (2, 3), np.float16)
    assert rows.missing([key(4), key(5)]) == [key(5)]
    rows.append([key(5)], np.full((1, 2, 3), 50))
    again = RowStore(tmp_path, (2, 3), np.float16)
    assert again.take(again.places([key(4), key(5)]))[:, 0, 0].tolist() == [24, 50]


def test_keys_without_rows_are_ignored(tmp_path: Path) -> None:
    filled(tmp_path)
    with (tmp_path / "rows.bin").open("r+b") as out:
        out.truncate(4 * 12)
    assert RowStore(tmp_path, (2, 3), np.float16).missing([key(3), key(4)]) == [key(4)]


def test_a_full_disk_raises_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rows = RowStore(tmp_path / "file" / "below", (1,), np.uint8)
    with pytest.raises(StudyError, match="cannot be written") as error:
        rows.append([key(0)], np.zeros((1, 1)))
    assert "AUTOTUNE_CACHE" in error.value.fix


def test_the_cache_folder_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    assert files.cache_folder() == tmp_path


@pytest.mark.parametrize("n", [0, 3, 5, 8])
def test_deleted_and_rewritten_rows_are_detected(tmp_path: Path, n: int) -> None:
    rows = filled(tmp_path / "x")
    shutil.rmtree(tmp_path / "x")
    other = RowStore(tmp_path / "x", (2, 3), np.float16)
    if n:
        other.append([key(100 - i) for i in range(n)], np.full((n, 2, 3), 7))
    assert rows.missing([key(0), key(100)]) == ([key(0)] if n else [key(0), key(100)])
    rows.append([key(0)], np.full((1, 2, 3), 8))
    found = rows.take(rows.places([key(0)] + [key(100)] * bool(n)))
    assert found[:, 0, 0].tolist() == [8.0] + [7.0] * bool(n)


def test_the_memory_map_is_reopened_after_many_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "REMAPPED", 20)
    rows = filled(tmp_path)
    places = rows.places([key(1), key(2)])
    opened: list[object] = []
    real = np.memmap

    def memmap(*given: Any, **named: Any) -> Any:
        opened.append(given)
        return real(*given, **named)

    monkeypatch.setattr(np, "memmap", memmap)
    found = rows.take(places)
    assert len(opened) == 1
    assert np.array_equal(rows.take(places), found)


def flip(file: Path, byte: int) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 16
    file.write_bytes(content)


def test_a_damaged_row_is_named_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = filled(tmp_path)
    flip(tmp_path / "rows.bin", 3 * 12 + 5)
    rows = RowStore(tmp_path, (2, 3), np.float16)
    assert rows.missing([key(i) for i in range(5)]) == [key(3)]
    assert "1 damaged row in" in caplog.text
    assert key(3) in caplog.text
    rows.append([key(3)], np.full((1, 2, 3), 50))
    for store_ in (rows, writer, RowStore(tmp_path, (2, 3), np.float16)):
        assert store_.missing([key(i) for i in range(5)]) == []
        assert store_.take(store_.places([key(2), key(3)]))[:, 0, 0].tolist() == [12, 50]


@pytest.mark.parametrize("name", ["sums.bin", "keys.bin"])
def test_a_damaged_checksum_or_key_is_a_missing_row(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    flip(tmp_path / name, 0)
    assert RowStore(tmp_path, (2, 3), np.float16).missing([key(i) for i in range(5)]) == [key(0)]


def test_rows_of_an_earlier_version_without_checksums_are_missing(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "sums.bin").unlink()
    rows = RowStore(tmp_path, (2, 3), np.float16)
    assert rows.missing([key(0)]) == [key(0)]
    rows.append([key(0)], np.full((1, 2, 3), 9))
    again = RowStore(tmp_path, (2, 3), np.float16)
    assert again.take(again.places([key(0)])).max() == 9
    assert again.missing([key(1)]) == [key(1)]


def test_what_fails_in_the_writers_thread_is_raised(tmp_path: Path) -> None:
    rows = RowStore(tmp_path / "rows", (2,), np.float16)
    wrong = RowStore(tmp_path / "file" / "rows", (2,), np.float16)
    (tmp_path / "file").write_text("not a folder")
    values = np.ones((1, 2), np.float16)
    with Writer() as writer:
        writer.append(rows, [key(0)], values)
        writer.append(wrong, [key(0)], values)
        with pytest.raises((StudyError, OSError)):
            writer.finish()
    assert not RowStore(tmp_path / "rows", (2,), np.float16).missing([key(0)])
