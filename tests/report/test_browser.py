"""The report in a real browser: on a laptop and a phone, in the light and the dark theme, and printed."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from awkward_study import NAMES, SECTIONS, finished
from PIL import Image

from autotune.report import importance
from autotune.report.report import write_report

pytestmark = pytest.mark.slow
SHOWN = (*SECTIONS[:7], "finals", *SECTIONS[7:])  # of a study whose final model is a refit without a race
LAPTOP, PHONE = (1280, 800), (390, 844)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study of four trials, with every chart: also that of importances, which needs more trials."""
    study = finished(tmp_path_factory) / "studies" / "s"
    with mock.patch.object(importance, "FEWEST", 4):
        return Path(write_report(str(study))["file"])


class Window:
    """The report in a browser window. requests: all requested URLs. messages: console output, errors, dialogs."""

    def __init__(self, browser: Any, report: Path, size: tuple[int, int], theme: str) -> None:
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.goto(report.as_uri())

    def _dismiss(self, dialog: Any) -> None:
        self.messages.append(dialog.message)
        dialog.dismiss()

    def evaluate(self, expression: str) -> Any:
        return self.page.evaluate(expression)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_report_opens_without_errors_or_horizontal_scrolling(
    browser: Any, report: Path, size: tuple[int, int], theme: str, tmp_path: Path
) -> None:
    window = Window(browser, report, size, theme)
    assert [url for url in window.requests if not url.startswith("data:")] == [report.as_uri()]
    assert window.messages == []
    assert window.evaluate("[...document.querySelectorAll('main section')].map(one => one.id)") == list(SHOWN)
    assert window.evaluate("document.documentElement.scrollWidth") == size[0]
    window.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert window.evaluate("document.documentElement.scrollWidth") == size[0]
    assert window.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    shot = tmp_path / f"{theme}-{size[0]}.png"
    window.page.screenshot(path=shot, full_page=True)
    with Image.open(shot) as image:
        assert image.width == size[0]
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 200
        corner = image.convert("L").getpixel((2, 2))
    assert isinstance(corner, (int, float))
    assert corner > 240 if theme == "light" else corner < 40


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_chart_text_is_legible_and_inside_the_chart(browser: Any, report: Path, size: tuple[int, int]) -> None:
    window = Window(browser, report, size, "light")
    shown = window.evaluate("""[...document.querySelectorAll('svg.chart')].filter(one => one.clientWidth).map(one => {
        const frame = one.getBoundingClientRect()
        return [...one.querySelectorAll('text')].map(text => {
            const box = text.getBoundingClientRect()
            const scale = frame.width / one.viewBox.baseVal.width
            return [parseFloat(getComputedStyle(text).fontSize) * scale,
                    Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top,
                             box.bottom - frame.bottom)]
        })
    })""")
    assert len(shown) >= 8
    for texts in shown:
        assert texts
        assert min(height for height, _ in texts) >= 10  # CSS pixels
        assert max(outside for _, outside in texts) < 3


def test_page_and_chart_colours_follow_the_theme(browser: Any, report: Path) -> None:
    colours = """[getComputedStyle(document.querySelector('svg.chart text')).fill,
        getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"""
    light, dark = (Window(browser, report, LAPTOP, theme).evaluate(colours) for theme in ("light", "dark"))
    assert all(one != other for one, other in zip(light, dark, strict=True))


def test_class_names_with_markup_are_displayed_as_text(browser: Any, report: Path) -> None:
    window = Window(browser, report, LAPTOP, "light")
    assert window.evaluate("document.scripts.length") == 0
    names = window.evaluate("[...document.querySelectorAll('.classes tbody th')].map(one => one.textContent)")
    assert set(NAMES.values()) <= set(names)


def test_tiny_pictures_are_enlarged_with_sharp_pixels(browser: Any, report: Path) -> None:
    window = Window(browser, report, LAPTOP, "light")
    found = window.evaluate("""[...document.querySelectorAll('#mistakes img')].map(one =>
        [one.naturalWidth, one.clientWidth, getComputedStyle(one).imageRendering])""")
    assert found
    assert all(natural == 8 and shown > 80 and rendering == "pixelated" for natural, shown, rendering in found)


def test_printed_report_is_light_and_fits_the_page(browser: Any, report: Path) -> None:
    window = Window(browser, report, (680, 960), "dark")  # A4 without margins
    window.page.emulate_media(media="print", color_scheme="dark")
    assert window.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert window.evaluate("document.documentElement.scrollWidth") <= 700
    assert window.page.pdf(format="A4").startswith(b"%PDF")
