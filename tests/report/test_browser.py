"""The report as a person opens it: in a real browser, on a laptop and on a phone, in light and dark, on paper."""

from pathlib import Path
from typing import Any

import pytest
from awkward_study import NAMES, SECTIONS, finished
from PIL import Image

from autotune.report.report import write_report

pytestmark = pytest.mark.slow
LAPTOP, PHONE = (1280, 800), (390, 844)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_report(str(finished(tmp_path_factory) / "studies" / "s"))["file"])


class Opened:
    """The report in a window, with all that it asked for and complained of."""

    def __init__(self, browser: Any, file: Path, size: tuple[int, int], theme: str) -> None:
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.goto(file.as_uri())

    def _dismiss(self, dialog: Any) -> None:
        self.said.append(dialog.message)
        dialog.dismiss()

    def ask(self, expression: str) -> Any:
        return self.page.evaluate(expression)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_it_opens_whole_and_quietly_and_never_scrolls_sideways(
    browser: Any, file: Path, size: tuple[int, int], theme: str, tmp_path: Path
) -> None:
    window = Opened(browser, file, size, theme)
    assert [url for url in window.asked if not url.startswith("data:")] == [file.as_uri()]
    assert window.said == []
    assert window.ask("[...document.querySelectorAll('main section')].map(one => one.id)") == list(SECTIONS)
    assert window.ask("document.documentElement.scrollWidth") == size[0]
    window.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert window.ask("document.documentElement.scrollWidth") == size[0]
    assert window.ask("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    shot = tmp_path / f"{theme}-{size[0]}.png"
    window.page.screenshot(path=shot, full_page=True)
    with Image.open(shot) as image:
        assert image.width == size[0]
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 200
        corner = image.convert("L").getpixel((2, 2))
    assert isinstance(corner, (int, float))
    assert corner > 240 if theme == "light" else corner < 40


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_what_charts_say_is_large_enough_and_inside_them(browser: Any, file: Path, size: tuple[int, int]) -> None:
    window = Opened(browser, file, size, "light")
    shown = window.ask("""[...document.querySelectorAll('svg.chart')].filter(one => one.clientWidth).map(one => {
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


def test_colours_follow_the_theme_also_in_charts(browser: Any, file: Path) -> None:
    ask = """[getComputedStyle(document.querySelector('svg.chart text')).fill, getComputedStyle(document.body).color,
              getComputedStyle(document.body).backgroundColor]"""
    light, dark = (Opened(browser, file, LAPTOP, theme).ask(ask) for theme in ("light", "dark"))
    assert all(one != other for one, other in zip(light, dark, strict=True))


def test_a_class_named_like_a_script_is_read_as_text(browser: Any, file: Path) -> None:
    window = Opened(browser, file, LAPTOP, "light")
    assert window.ask("document.scripts.length") == 0
    names = window.ask("[...document.querySelectorAll('.classes tbody th')].map(one => one.textContent)")
    assert set(NAMES.values()) <= set(names)


def test_tiny_pictures_are_enlarged_with_sharp_pixels(browser: Any, file: Path) -> None:
    window = Opened(browser, file, LAPTOP, "light")
    found = window.ask("""[...document.querySelectorAll('#mistakes img')].map(one =>
        [one.naturalWidth, one.clientWidth, getComputedStyle(one).imageRendering])""")
    assert found
    assert all(kept == 8 and wide > 80 and how == "pixelated" for kept, wide, how in found)


def test_on_paper_it_is_light_and_fits(browser: Any, file: Path) -> None:
    window = Opened(browser, file, (680, 960), "dark")  # A4 less its margins
    window.page.emulate_media(media="print", color_scheme="dark")
    assert window.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert window.ask("document.documentElement.scrollWidth") <= 700
    assert window.page.pdf(format="A4").startswith(b"%PDF")
