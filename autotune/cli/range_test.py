"""`autotune lr-find`: measure, plot, print and, if asked, write the bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotune.cli.live.console import PlainConsole
from autotune.cli.views.results import show_range_test
from autotune.report.loss_curve import draw_loss_curve, save_loss_curve
from autotune.study.range_test import refuse_to_write, run_range_test, write_bounds
from autotune.study.request import SearchRequest


def find_learning_rates(request: SearchRequest, write: bool, console: PlainConsole) -> dict[str, Any]:
    """Test the one backbone that `request` names, show and save its loss curve. Return what --json prints.

    write: write the bounds to the study's study.toml. Raises StudyError if the loss does not clearly fall, or if the
    study to write to has started.
    """
    if write:
        refuse_to_write(request)
    found = run_range_test(request, console)
    home = found.folder if write or found.folder.is_dir() else Path()
    home.mkdir(parents=True, exist_ok=True)
    plot = home / found.plot_name
    save_loss_curve(found.curve, found.bounds, found.tested.words, plot)
    console.say(draw_loss_curve(found.curve, found.bounds))
    bounds = found.clear_bounds(plot)
    written = write_bounds(found.folder, found.tested, bounds) if write else None
    show_range_test(found, bounds, plot, written, console)
    return found.to_json(plot, written)
