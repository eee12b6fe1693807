import re

import pytest

from autotune.report import charts
from autotune.report.charts import AxisRange
from autotune.study.storage.rows import COMPLETE, FAILED, PRUNED

ROOM = AxisRange(0, 100)


def test_charts_use_the_colours_of_the_page_and_real_text() -> None:
    points = [charts.Point(0, 0.5, COMPLETE), charts.Point(1, 0.7, PRUNED), charts.Point(1, 0.6, FAILED)]
    drawn = str(charts.sliced("x", points, charts.CATEGORIES, ("<b>&", "$a$"), ROOM, 'a "label" <i>'))
    assert "&lt;b&gt;&amp;" in drawn
    assert ">$a$</text>" in drawn
    assert 'aria-label="a &#34;label&#34; &lt;i&gt;"' in drawn
    assert not re.search(r"#[0-9a-f]{6}|font-family|<style|<metadata|DOCTYPE", drawn)
    assert {"var(--train)", "var(--validation)", "var(--ink)", "var(--muted)", "var(--line)"} <= set(
        re.findall(r"var\(--\w+\)", drawn)
    )


def test_a_curve_of_one_epoch_shows_points() -> None:
    drawn = str(charts.curve("c", [0.9], [0.8], 1, 1, ROOM, "one epoch"))
    marks = re.findall(r"<use [^>]*style=\"fill: var\(--(\w+)\)", drawn)
    assert {"train", "validation"} <= set(marks)


def test_charts_are_deterministic() -> None:
    rows = [(0, COMPLETE, 0.5), (1, PRUNED, 0.4), (2, FAILED, None)]
    assert charts.history(rows, ROOM, charts.WIDE, "x") == charts.history(rows, ROOM, charts.WIDE, "x")


def test_axis_range_excludes_a_low_outlier() -> None:
    found = charts.axis_range([0.95, 0.96, 0.97, 0.98, 0.99, 0.1])
    assert found.low > 80
    assert found.n_below == 1
    assert found.clipped(0.1) == found.low
    assert charts.axis_range([0.95, 0.96, 0.97, 0.98, 0.99, 0.1], whole=True).low < 10
    assert charts.axis_range([0.9]).low < 90 < charts.axis_range([0.9]).high


@pytest.mark.parametrize(("value", "expected"), [(1e-4, "10⁻⁴"), (3e-5, "3·10⁻⁵"), (1, "10⁰"), (0.1, "10⁻¹")])
def test_powers_of_ten_are_formatted_with_superscripts(value: float, expected: str) -> None:
    assert charts.in_powers_of_ten(value) == expected
