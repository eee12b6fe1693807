"""Other commands while a search runs: they are refused or answer, and the search ends with the same result."""

import json
import signal
import time
from pathlib import Path

import pytest
from small_commands import begin, finish, prepare, result, start

pytestmark = [pytest.mark.slow, pytest.mark.in_make_faults]


def test_other_commands_do_not_disturb_a_search(tmp_path: Path) -> None:
    expected = result(finish(prepare(tmp_path / "quiet")))
    folder = prepare(tmp_path / "busy")
    search = start(folder)
    while not list((folder / "studies" / "digits").glob("checkpoints/trial-*.safetensors")):
        assert search.poll() is None, search.communicate()
        time.sleep(0.1)
    answering = [("status", "digits"), ("report", "digits"), ("predict", "digits", "digits/0")]
    running = [begin(folder, *words) for words in (*answering, ("cache", "trim", "--to", "1KB"))]
    search.send_signal(signal.SIGSTOP)  # so that it does not end before the others ask for its locks
    in_use = "is in use by another process"
    refused = {
        ("search", "digits", "--trials", "5"): in_use,
        ("studies", "rm", "digits", "--yes"): in_use,
        ("cache", "clear", "--yes"): "A running study is using the cache",
    }
    for words, refusal in refused.items():
        one = begin(folder, *words)
        out, err = one.communicate(timeout=300)
        assert one.returncode == 1, (words, out, err)
        assert refusal in err, (words, err)
    search.send_signal(signal.SIGCONT)
    for one in running:
        out, err = one.communicate(timeout=300)
        assert one.returncode == 0, (one.args, out, err)
        assert "Traceback" not in err
    out, err = search.communicate(timeout=300)
    assert search.returncode == 0, err
    assert result(json.loads(out)) == expected
