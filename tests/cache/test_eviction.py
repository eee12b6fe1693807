import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from small_studies import search, without_time

from autotune.cache import eviction
from autotune.cache.eviction import CacheEntry
from autotune.cache.rows import RowStore
from autotune.errors import ConfigError, StudyError

HOLD = "import time; from autotune.cache.eviction import in_use\nwith in_use(): print('in', flush=True); time.sleep(60)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stored(folder: Path, name: str, minutes_ago: float, n: int = 10) -> RowStore:
    """Store n rows of 1,000 bytes with the given last use."""
    rows = RowStore(folder / name, (1000,), np.uint8)
    rows.append([f"{i:032x}" for i in range(n)], np.zeros((n, 1000), np.uint8))
    used = time.time() - 60 * minutes_ago
    os.utime(folder / name / "keys.bin", (used, used))
    return rows


def names(entries: list[CacheEntry]) -> list[str]:
    return [one.name for one in entries]


def test_the_least_recently_used_entries_are_evicted_first(folder: Path) -> None:
    for name, minutes in (
        ("pixels/32-bilinear", 5),
        ("features/net-32/cut9-view0-a", 60),
        ("features/net-32/cut8-view0-b", 10),
    ):
        stored(folder, name, minutes)
    each = eviction.entries()[0].n_bytes
    assert each == 10 * (1000 + 16 + 4)
    assert names(eviction.trim(3 * each)) == []
    assert names(eviction.trim(3 * each - 1)) == ["features/net-32/cut9"]
    assert names(eviction.trim(each)) == ["features/net-32/cut8"]
    assert names(eviction.entries()) == ["pixels/32-bilinear"]
    assert not list(folder.rglob(".gone*"))


def test_entries_of_earlier_versions_are_listed_and_evicted(folder: Path) -> None:
    for name, minutes in (("banks/net-32/cut9-view0-a", 90), ("pixels/32-bilinear", 60), ("pixels/32-bilinear-v7", 5)):
        stored(folder, name, minutes)
    each = eviction.entries()[0].n_bytes
    assert names(eviction.trim(each)) == ["banks/net-32/cut9", "pixels/32-bilinear"]
    assert names(eviction.entries()) == ["pixels/32-bilinear"]


def test_opening_rows_counts_as_use(folder: Path) -> None:
    stored(folder, "pixels/old", 60)
    stored(folder, "pixels/new", 5)
    RowStore(folder / "pixels" / "old", (1000,), np.uint8)
    assert names(eviction.entries()) == ["pixels/new", "pixels/old"]


def test_rows_deleted_while_open_can_still_be_read(folder: Path) -> None:
    rows = stored(folder, "pixels/x", 5)
    places = rows.places(["0" * 32])
    assert names(eviction.clear()) == ["pixels/x"]
    assert rows.take(places).shape == (1, 1000)
    with pytest.raises(StudyError, match="were deleted while in use"):
        rows.places(["0" * 32])


def test_entries_used_by_a_running_study_are_not_evicted(folder: Path) -> None:
    stored(folder, "pixels/before", 5)
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "in\n"
        stored(folder, "pixels/since", -1)
        assert names(eviction.trim(0)) == ["pixels/before"]
        with pytest.raises(StudyError, match="running study"):
            eviction.clear()
        other.kill()  # like kill -9: no clean-up
    assert names(eviction.clear()) == ["pixels/since"]
    assert not list((folder / eviction.RUNNING).glob("*.lock"))


@pytest.mark.parametrize(
    ("text", "n"), [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("1000", 1000), ("2 TB", 2 * 10**12)]
)
def test_sizes_are_parsed(text: str, n: int) -> None:
    assert eviction.parse_size(text) == n


@pytest.mark.parametrize("text", ["", "GB", "5 XB", "-1GB", "five"])
def test_invalid_sizes_raise(text: str) -> None:
    with pytest.raises(ConfigError):
        eviction.parse_size(text)


def test_the_limit_is_read_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < eviction.limit() <= eviction.MOST_BYTES
    monkeypatch.setenv(eviction.LIMIT, "2GB")
    assert eviction.limit() == 2 * 10**9


def test_the_command_shows_trims_and_clears_the_cache(folder: Path) -> None:
    assert json.loads(run_command("cache", "--json").stdout)["entries"] == []
    for view in (0, 1):
        stored(folder, f"features/net-32/cut9-view{view}-a", 5)
    found = json.loads(run_command("cache", "--json").stdout)
    assert [(row["name"], row["rows"], row["bytes"]) for row in found["entries"]] == [
        ("features/net-32/cut9", 20, 20_400)
    ]
    shown = run_command("cache").stdout
    assert "features/net-32/cut9" in shown
    assert "20.4 KB of at most" in shown
    assert run_command("cache", "trim", "--to", "15KB").stdout == "Deleted 10.2 KB.\n"
    unconfirmed = run_command("cache", "clear")
    assert (unconfirmed.returncode, len(unconfirmed.stderr.splitlines())) == (1, 2)
    assert run_command("cache", "clear", "--yes").stdout == "Deleted 10.2 KB.\n"
    assert eviction.entries() == []
    assert run_command("cache", "trim", "--to", "much").returncode == 1


@pytest.mark.in_make_faults
@pytest.mark.slow
def test_deleting_the_cache_changes_no_trial(
    here: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"backbone": ["efficientnet_lite0"], "depth": [0, 1], "final": "trial"}
    expected = search(digits, 3, "uninterrupted", flags=flags)
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    search(digits, 2, flags=flags)
    shutil.rmtree(tmp_path / "cache")
    assert without_time(search(digits, 3, flags=flags)) == without_time(expected)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.9 MB: large enough for the pixels of this study, 1.7 MB, but not for its features."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1900k", "none", str(place)]
    mounted = subprocess.run(words, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("no permission to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.in_make_faults
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_full_disk_raises_and_the_same_search_resumes(
    here: Path, digits: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"backbone": ["efficientnet_lite0"], "depth": [0, 1], "final": "trial"}
    expected = search(digits, 2, "uninterrupted", flags=flags)
    monkeypatch.setenv("AUTOTUNE_CACHE", str(small_disk))
    with pytest.raises(StudyError, match="No space left"):
        search(digits, 2, flags=flags)
    subprocess.run(["mount", "-o", "remount,size=100M", str(small_disk)], check=True)
    assert without_time(search(digits, 2, flags=flags)) == without_time(expected)


def test_a_study_in_another_container_has_another_lock_even_with_the_same_pid(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every container has a process 1; both can share a cache folder."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    held = HOLD.replace("import time;", "import os, time; os.getpid = lambda: 1;", 1)
    with subprocess.Popen([sys.executable, "-c", held], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "in\n"
        with eviction.in_use(), pytest.raises(StudyError, match="running study"):
            eviction.clear()
        other.kill()
    with eviction.in_use():
        assert eviction.clear() == []
