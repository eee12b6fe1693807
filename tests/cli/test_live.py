"""The live panel: drawn at several sizes, and followed in a real terminal through a real study."""

import io
import math
import os
import re
import select
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, Group
from rich.text import Text

from autotune.cli.live import panel
from autotune.cli.live.console import PlainConsole
from autotune.cli.live.live_console import SOONEST, SPARED, TICKS, LiveConsole, open_console
from autotune.cli.live.memory_use import MemoryUse, memory_in_use
from autotune.cli.live.panel import sparkline
from autotune.cli.views.study import show_study
from autotune.study.listener import Outline
from autotune.study.request import SearchRequest
from autotune.study.run import run_study
from autotune.study.storage.rows import BackboneFacts, TrialRow
from autotune.study.summary import study_status
from autotune.training.outcome import Epoch
from autotune.training.params import Params, Phase

NET = BackboneFacts("net", "EfficientNet-Lite0", 9, False, (224,), (0, 1, 2), "")
PARAMS = Params("net", 2, 224, 1e-5, 3e-4, "one-cycle", 0.5, 0.0, "adamw", 32, 0.0, 0.0, 0.0)
WORDS = "EfficientNet-Lite0, last 2 of 9 stages, 224 pixels, adamw 1.0e-05 to 3.0e-04 one-cycle, augmentation 0.5"
EPOCHS = 9
OUTLINE = Outline(
    "cats-dogs",
    ("640 + 84 + 76 pictures of 2 classes", "EfficientNet-Lite0, 224 pixels, last 0 to 4 of 9 stages",
     "20 trials of up to 9 epochs", "on cpu"),
    "accuracy", 9, 0.05, "cpu", None,
)  # fmt: skip


def epoch(number: int, train: float = 0.9, validation: float = 0.9, gap: float = 0.0) -> Epoch:
    return Epoch(number, 1e-3, 0.1, train, validation, 0.3, gap, False, 1.0)


def ended(number: int, value: float | None, state: str = "complete") -> TrialRow:
    return TrialRow(
        number, state, PARAMS, "done", "", value=value, log_loss=0.1, epochs=9, trained_parameters=5, seconds=12.3,
        error="bad",
    )  # fmt: skip


def opened(width: int = 110, height: int = 40) -> LiveConsole:
    screen = LiveConsole()
    screen.rich = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, highlight=False)
    return screen


def studying(width: int = 110, height: int = 40, running: int = 1) -> LiveConsole:
    """A running study: ten trials finished, the best last, and some running."""
    screen = opened(width, height)
    screen.planned(OUTLINE)
    screen.estimated(200)
    for number in range(8):
        screen.finished(ended(number, 0.9 + number / 100), NET, is_best=True)
    screen.finished(ended(8, 0.7, "pruned"), NET, is_best=False)
    screen.finished(ended(9, None, "failed"), NET, is_best=False)
    screen.progress("Trials")(10, 20)
    for number in range(10, 10 + running):
        screen.started(number, PARAMS, WORDS, EPOCHS)
        for at, (train, validation) in enumerate([(0.5, 0.5), (0.8, 0.7), (1.0, 0.9)], 1):
            screen.epoch(number, epoch(at, train, validation, gap=0.06))
    return screen


def lines(screen: LiveConsole) -> list[str]:
    """The panel's current lines, without colours."""
    size = screen.rich.size
    paper = Console(file=io.StringIO(), width=size.width, height=size.height)
    paper.print(Group(screen.drawn()))
    screen.close()
    return paper.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_a_curve_spans_its_lowest_to_its_highest_value_with_dots_for_missing_values() -> None:
    assert sparkline([0.0, 0.5, 1.0, None], 0.0, 1.0) == "▁▅█·"
    assert sparkline([0.25, None, 0.5], 0.0, 1.0) == "▃·▅"
    assert sparkline([0.7, 0.7], 0.7, 0.7) == "▅▅"


def test_a_running_trial_shows_hyperparameters_epoch_and_both_curves_on_one_scale() -> None:
    shown = lines(studying())
    at = next(number for number, line in enumerate(shown) if line.startswith("Trial 10, epoch 4 of 9"))
    assert "EfficientNet-Lite0, last 2 of 9 stages" in shown[at]
    assert shown[at + 2] == "  training   ▁▅█······ 100.0 %"
    assert shown[at + 3] == "  validation ▁▄▇······  90.0 %  smoothed gap +6.0 points (limit 5)"


@pytest.mark.parametrize(("gap", "colour"), [(-0.1, "green"), (0.024, "green"), (0.026, "yellow"), (0.051, "red")])
def test_the_gap_is_green_then_yellow_then_red(gap: float, colour: str) -> None:
    screen = opened()
    screen.planned(OUTLINE)
    screen.started(0, PARAMS, WORDS, EPOCHS)
    screen.epoch(0, epoch(1, gap=gap))
    drawn = screen.drawn()
    place = drawn.plain.index("gap ")
    screen.close()
    assert colour in {span.style for span in drawn.spans if span.start <= place < span.end}


def test_hyperparameters_that_do_not_fit_end_with_an_ellipsis() -> None:
    shown = lines(studying(width=40))
    at = next(number for number, line in enumerate(shown) if line.startswith("Trial 10, epoch 4 of 9"))
    assert shown[at + 2].endswith(" ...")
    assert shown[at + 3].startswith("  training ")


def test_the_leaderboard_has_the_best_first_and_counts_pruned_and_failed_trials() -> None:
    shown = lines(studying())
    at = next(number for number, line in enumerate(shown) if line.startswith("10 finished"))
    assert shown[at] == "10 finished: 8 complete, 1 pruned, 1 failed; best accuracy:"
    assert [line.split()[0] for line in shown[at + 1 : at + 9]] == ["7", "6", "5", "4", "3", "2", "1", "0"]
    assert "97.0 %    9 epochs  done        12.3 s  last 2 of 9 stages" in shown[at + 1]
    assert shown[at + 9].startswith("Memory: ")


def test_the_recipe_has_its_name_in_the_leaderboard() -> None:
    screen = studying()
    row = ended(10, 0.99)
    phase = Phase(0, 5, 1, 1e-3, 1e-3, "triangular", 0.0, 0.0, "adamw", 32, 0.0, 0.0, 0.0)
    screen.finished(replace(row, params=replace(PARAMS, phases=(phase,))), NET, is_best=True)
    shown = lines(screen)
    at = next(number for number, line in enumerate(shown) if line.startswith("11 finished"))
    assert [line[:16] for line in shown[at + 1 : at + 3]] == ["  recipe   99.0 ", "       7   97.0 "]


@pytest.mark.parametrize(
    ("width", "height", "running"), [(60, 24, 1), (60, 50, 2), (110, 24, 8), (40, 12, 3), (200, 60, 4), (110, 4, 1)]
)
def test_it_fits_every_terminal_and_shows_running_trials_first(width: int, height: int, running: int) -> None:
    shown = lines(studying(width, height, running))
    assert len(shown) <= height - SPARED
    assert max(len(line) for line in shown) <= width
    assert any(line.startswith("Trials ") for line in shown)
    room = height - SPARED - 1
    assert sum(line.startswith("Trial 1") for line in shown) == min(running, room)


def test_on_a_small_terminal_hyperparameters_and_curves_share_a_line() -> None:
    shown = lines(studying(110, 14, 4))
    assert "Trial 13 4/9 ▁▅█······ ▁▄▇······ 90.0 % +6.0 EfficientNet-Lite0, last 2" in "\n".join(shown)


def test_one_time_left_is_shown() -> None:
    screen = opened()
    screen.planned(OUTLINE)

    def shown_at_its_pace() -> str:
        screen.progress("Reading")(0, 100)
        screen.state.bars["Reading"].started -= 10
        screen.progress("Reading")(10, 100)
        return "\n".join(lines(screen))  # ends the task

    assert re.findall(r"about (.*) left", shown_at_its_pace()) == ["90 s"]
    screen.estimated(200)
    shown = shown_at_its_pace()
    assert "10 of 100" in shown
    assert shown.count(" left") == 1
    assert "cats-dogs: about 3 min left; 640 + 84 + 76 pictures" in shown
    screen.estimated(100)
    assert "cats-dogs: about 100 s left" in "\n".join(lines(screen))


def test_the_time_limit_counts_down() -> None:
    state = panel.PanelState(replace(OUTLINE, deadline=1300.0), ends=1100.0)
    assert "about 100 s left; time limit in 5 min" in panel.draw_panel(state, 1000.0, 110, 30).plain
    assert "about 0 s left; time limit in 90 s" in panel.draw_panel(state, 1210.0, 110, 30).plain


def test_work_of_unknown_length_shows_its_seconds_until_the_next_work() -> None:
    screen = opened()
    screen.working("Starting")
    assert screen.state.working is not None
    assert panel.draw_panel(screen.state, screen.state.working[1] + 3, 110, 30).plain == "Starting, 3 s"
    screen.progress("Reading")(1, 2)
    assert lines(screen) == ["Reading ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 1 of 2"]
    screen.working("Planning")
    screen.planned(OUTLINE)
    assert not any("Planning" in line for line in lines(screen))


def test_a_task_has_the_time_left_at_its_pace() -> None:
    bar = panel.ProgressBar("Trials", done=4, total=20, started=100, updated=100, first=4)
    assert bar.left(now=110) is None
    bar.done, bar.updated = 8, 120
    assert bar.left(now=120) == 60
    assert bar.left(now=121) == 59
    assert panel.ProgressBar("Reading", 1, 2, started=0, updated=0, first=1).left(now=5) is None


def test_a_restarted_trial_keeps_the_epochs_it_resumes_from() -> None:
    screen = studying()
    screen.started(10, PARAMS, WORDS, EPOCHS, [epoch(1, 0.5), epoch(2, 0.8), epoch(3, 1.0)])
    assert "Trial 10, epoch 4 of 9" in screen.drawn().plain
    screen.epoch(10, epoch(3, 0.6, 0.6))
    assert [row.train for row in screen.state.runs[10].rows] == [0.5, 0.8, 0.6]
    screen.epoch(10, epoch(1, 0.4, 0.4))
    assert [row.train for row in screen.state.runs[10].rows] == [0.4]
    screen.close()


def test_printed_lines_stay_above_the_panel() -> None:
    screen = studying()
    screen.say("Skipped: some_net: a reason")
    screen.close()
    out = screen.rich.file.getvalue()  # type: ignore[attr-defined]
    for said in ("Skipped: some_net: a reason", "Estimated time left: 3 min.", "trial   9  failed    bad"):
        assert out.count(said) == 1
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")


def test_lines_that_a_narrower_terminal_wraps_are_erased() -> None:
    screen, erased = studying(width=110), "\x1b[2K\x1b[1A"
    live, out = screen._live, screen.rich.file
    assert live
    assert isinstance(out, io.StringIO)
    live.refresh()
    n_wrapped = sum(max(math.ceil(min(len(line), 110) / 60) - 1, 0) for line in lines(screen))
    screen.rich.width = 60
    before = out.tell()
    live.refresh()
    assert n_wrapped > 3
    assert out.getvalue()[before:].startswith(erased * n_wrapped)
    screen.close()


@pytest.mark.parametrize("printed", [False, True])
def test_lines_that_a_lower_terminal_hides_are_erased_when_it_grows_again(printed: bool) -> None:
    screen, erased = studying(), "\x1b[2K\x1b[1A"
    live, out = screen._live, screen.rich.file
    assert live
    assert isinstance(out, io.StringIO)
    live.refresh()
    n_hidden = 3
    screen.rich.height = len(screen.drawn().plain.splitlines()) - n_hidden
    before = out.tell()
    live.refresh()
    assert not out.getvalue()[before:].startswith(erased)
    if printed:
        screen.say("A line between the hidden ones and the panel")
    screen.rich.height = 40
    before = out.tell()
    live.refresh()
    assert out.getvalue()[before:].startswith(erased * n_hidden) is not printed
    before = out.tell()
    live.refresh()
    assert not out.getvalue()[before:].startswith(erased)
    screen.close()


def test_nothing_above_the_panel_is_erased_if_its_lines_are_longer_than_the_terminal() -> None:
    screen = studying(width=60)
    live, out = screen._live, screen.rich.file
    assert live
    assert isinstance(out, io.StringIO)
    live.refresh()
    assert any(len(line) > 60 for line in screen.drawn().plain.splitlines())
    before = out.tell()
    live.refresh()
    again = out.getvalue()[before:]
    assert again.count("\x1b[1A") == again.count("\n")
    screen.close()


def test_it_is_drawn_at_most_four_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = opened()
    screen.planned(OUTLINE)
    drawn = []
    real = panel.draw_panel

    def draw(*given: Any) -> Text:
        drawn.append(1)
        return real(*given)

    monkeypatch.setattr(panel, "draw_panel", draw)
    show, start = screen.progress("Reading"), time.monotonic()
    while time.monotonic() < start + 1:
        show(len(drawn), 1_000_000)
    screen.close()
    seconds = time.monotonic() - start
    assert len(drawn) <= (1 / SOONEST + TICKS) * seconds + 3


def test_drawing_is_thread_safe() -> None:
    screen, failed = studying(running=3), []

    def draw() -> None:
        try:
            for _ in range(300):
                screen.drawn()
        except Exception as error:  # reported by the test, whatever it is
            failed.append(error)

    thread = threading.Thread(target=draw)
    thread.start()
    for number in range(20, 220):
        screen.started(number, PARAMS, WORDS, EPOCHS)
        screen.epoch(number, epoch(1))
        screen.progress(f"Reading {number}")(1, 2)
        screen.finished(ended(number, 0.5), NET, is_best=False)
    thread.join()
    screen.close()
    assert failed == []


def test_memory_is_measured_for_this_process_and_the_machine() -> None:
    found = memory_in_use("cpu")
    assert 10 * 2**20 < found.own < found.machine
    assert found.gpu is None
    both = MemoryUse(2 * 10**9, 3 * 10**9, 16 * 10**9, (10**9, 80 * 10**9)).words
    assert both == "Memory: 5 GB of 16 GB (driver 2 GB, workers 3 GB); GPU 1 GB of 80 GB"


def test_without_a_terminal_or_for_a_program_the_console_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert type(open_console(False, False, False)) is PlainConsole
    assert type(open_console(False, True, False)) is PlainConsole
    assert type(open_console(True, False, False)) is PlainConsole


def followed(words: list[str], until: str | None = None) -> tuple[int, str]:
    """Run autotune in a terminal of 100 x 30 and press Ctrl-C after a text. Return the exit code and the output."""
    import fcntl
    import pty
    import struct
    import termios

    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        os.execve(
            sys.executable,
            [sys.executable, "-m", "autotune", *words],
            {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1"},
        )
    out, end = b"", time.monotonic() + 120
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            out += os.read(terminal, 65536)
        except OSError:  # Linux raises it when the other end is closed
            break
        if until and until in out.decode(errors="replace"):
            os.write(terminal, b"\x03")
            until = None
    os.close(terminal)
    if time.monotonic() >= end:
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_study_in_a_terminal_is_followed_and_leaves_the_terminal_clean(here: Path, digits: Path) -> None:
    command = ["search", str(digits), "--study", "s", "--backbone", "quick_cnn", "--epochs", "2", "--device", "cpu"]
    code, out = followed([*command, "--trials", "40"], until=", epoch ")  # of a running trial
    assert code == 130
    assert "Stopped. Finished work is saved; run the same command again to resume." in out
    assert re.search(
        r"Kept: \d+ trials?\. A trial that was running continues after its last saved", " ".join(out.split())
    )
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")
    for shown in ("Reading", "Memory: ", "  training ", "  validation "):
        assert shown in out, shown
    while_it_ran = out[: out.index("  validation ")]  # after kill -9 the cursor would stay in this state
    assert while_it_ran.rindex("\x1b[?25h") > while_it_ran.rindex("\x1b[?25l")
    screen, n = opened(), study_status("s").n_trials["total"] + 1
    request = SearchRequest(
        data=digits, name="s", trials=n, flags={"epochs": 2, "backbone": ["quick_cnn"]}, device="cpu"
    )
    show_study(run_study(request, screen), screen)
    out = screen.rich.file.getvalue()  # type: ignore[attr-defined]
    assert f"{n} finished: " in out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out[out.rindex("Study s: ") :])
    assert "Winner: trial" in last
    assert "Memory: " not in last
