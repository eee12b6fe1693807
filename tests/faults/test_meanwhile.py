"""Other commands while a search runs: they are refused or answer, and the search ends with the same result."""

import json
import time
from pathlib import Path

import pytest
from conftest import in_make_faults
from small_commands import begin, finish, prepare, result, start

pytestmark = [pytest.mark.slow, in_make_faults]


def test_other_commands_do_not_disturb_a_search(tmp_path: Path) -> None:
    expected = result(finish(prepare(tmp_path / "quiet")))
    folder = prepare(tmp_path / "busy")
    search = start(folder)
    while not list((folder / "studies" / "digits").glob("checkpoints/trial-*.safetensors")):
        assert search.poll() is None, search.communicate()
        time.sleep(0.1)
    in_use = "is in use by another process"
    commands = {
        ("search", "digits", "--trials", "5"): in_use,
        ("studies", "rm", "digits", "--yes"): in_use,
        ("status", "digits"): "",
        ("report", "digits"): "",
        ("predict", "digits", "digits/0"): "",
        ("cache", "trim", "--to", "1KB"): "",
        ("cache", "clear", "--yes"): "A running study is using the cache",
    }
    running = {words: begin(folder, *words) for words in commands}
    for words, refusal in commands.items():
        out, err = running[words].communicate(timeout=300)
        assert running[words].returncode == (1 if refusal else 0), (words, out, err)
        assert refusal in err, (words, err)
        assert "Traceback" not in err
    out, err = search.communicate(timeout=300)
    assert search.returncode == 0, err
    assert result(json.loads(out)) == expected
