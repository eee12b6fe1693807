import pytest

from autotune.cli import console
from autotune.cli.console import PlainConsole
from autotune.text import duration
from autotune.training.params import describe

PARAMS = {
    "backbone": "net", "depth": 2, "pixels": 224, "lr_low": 1e-5, "lr_high": 3e-4, "cycle": "one-cycle", "augment": 0.5,
    "class_weight": 0.0, "optimizer": "adamw", "batch_size": 32,
}  # fmt: skip
ARM = {"label": "EfficientNet-Lite0", "stages": 9, "from_scratch": False}


def test_a_trial_is_told_in_words() -> None:
    words = describe(PARAMS, ARM)
    assert words.startswith("EfficientNet-Lite0, last 2 of 9 stages, 224 pixels, adamw 1.0e-05 to 3.0e-04 one-cycle")
    assert "head alone" in describe({**PARAMS, "depth": 0}, ARM)
    assert "from scratch" in describe(PARAMS, {**ARM, "from_scratch": True})


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (150, "2 min"), (7500, "2 h 5 min")])
def test_durations_have_a_fitting_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    show = PlainConsole().progress("Reading")
    for done in range(1, 101):
        show(done, 100)
        now[0] += 0.5
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Reading: 21 of 100, about 40 s left"
    assert len(lines) == 4


def test_quiet_says_nothing_and_a_program_reads_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    PlainConsole(quiet=True).say("x")
    assert capsys.readouterr() == ("", "")
    PlainConsole(program=True).say("x")
    assert capsys.readouterr() == ("", "x\n")
