"""The loss curve of a learning rate range test, as text for a terminal and as a PNG."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import plotext
from matplotlib.figure import Figure

from autotune.study.range_test import LossCurve, RateBounds

WIDTH, HEIGHT = 80, 16  # of the plot in characters


def draw_loss_curve(curve: LossCurve, bounds: RateBounds | None) -> str:
    """Draw the smoothed curve as text, with lr_low and lr_high if there are bounds."""
    figure, rates = plotext.figure, np.log10(curve.rates)
    figure.clear()
    figure.plot_size(WIDTH, HEIGHT)
    figure.draw(figure.signal(rates.tolist(), curve.smoothed.tolist()).lines())
    for rate in (bounds.low, bounds.high) if bounds else ():
        figure.line(math.log10(rate), "vertical")
    decades = list(range(math.ceil(rates[0] - 1e-9), math.floor(rates[-1] + 1e-9) + 1))
    figure.ruler("x").ticks(decades, [f"1e{decade}" for decade in decades])
    figure.title("training loss, smoothed, by learning rate")
    return str(plotext.uncolorize(figure.build()))


def save_loss_curve(curve: LossCurve, bounds: RateBounds | None, title: str, file: Path) -> None:
    """Save a PNG of the losses of all steps, the smoothed curve, lr_low and lr_high. Raises OSError."""
    figure = Figure((9, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, ".", color="0.7", label="each step")
    axes.plot(curve.rates, curve.smoothed, color="C0", label="smoothed")
    if bounds:
        axes.axvspan(bounds.low, bounds.high, color="C2", alpha=0.15)
        for name, rate in (("lr_low", bounds.low), ("lr_high", bounds.high)):
            axes.axvline(rate, color="C2", label=f"{name} {rate:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", ylim=(0, 2 * curve.level))
    axes.set_title(title)
    axes.legend()
    figure.savefig(file, dpi=120)
