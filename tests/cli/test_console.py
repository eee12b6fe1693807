import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from autotune.cli.live.console import PlainConsole
from autotune.study.storage.rows import BackboneFacts
from autotune.training.params import Params

PARAMS = Params("net", 2, 224, 1e-5, 3e-4, "one-cycle", 0.5, 0.0, "adamw", 32, 0.0, 0.0, 0.0)
NET = BackboneFacts("net", "EfficientNet-Lite0", 9, False, (224,), (0, 1, 2), "")


def test_a_trial_is_described_in_words() -> None:
    words = NET.describe(PARAMS)
    assert words.startswith("EfficientNet-Lite0, last 2 of 9 stages unfrozen, 224 pixels, adamw, learning rate 1.0e-05")
    assert "head only" in NET.describe(replace(PARAMS, depth=0))
    assert "from scratch" in replace(NET, from_scratch=True).describe(PARAMS)


def test_without_a_terminal_progress_is_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    show = PlainConsole().progress("Reading")
    for done in range(1, 101):
        show(done, 100)
        now[0] += 0.5
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Reading: 21 of 100, about 40 s left"
    assert len(lines) == 4


def test_quiet_prints_nothing_and_a_program_gets_messages_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    PlainConsole(quiet=True).say("x")
    assert capsys.readouterr() == ("", "")
    PlainConsole(program=True).say("x")
    assert capsys.readouterr() == ("", "x\n")


def test_lines_wrap_between_words_on_a_terminal_and_not_at_all_elsewhere() -> None:
    text = "Winner: trial 15, EfficientNet-Lite0, last 2 of 9 stages, 224 pixels, adamw 1.4e-06 to 1.8e-03 one-cycle"
    for is_terminal, n_lines in ((True, 2), (False, 1)):
        console = PlainConsole()
        console.rich = Console(file=io.StringIO(), force_terminal=is_terminal, width=80, highlight=False)
        console.say(text)
        lines = console.rich.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert len(lines) == n_lines
        assert " ".join(line.strip() for line in lines) == text
