"""The page of a server in a real browser, on a laptop and a phone, in the light and the dark theme."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served, picture, start, write_bundle

sync_api = pytest.importorskip("playwright.sync_api")
SIZES = {"laptop": (1280, 800), "phone": (390, 844)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = start(write_bundle(tmp_path_factory.mktemp("made") / "bundle"))
    yield found
    found.stop()


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    yield from opened(browser, served, "laptop", "light")


def opened(browser: Any, served: Served, device: str, theme: str) -> Iterator[Any]:
    """Open the page. Fails if it asks another server for anything, or if a script fails."""
    width, height = SIZES[device]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=theme, has_touch=device == "phone",
        is_mobile=device == "phone",
    )  # fmt: skip
    found = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    found.on("request", lambda request: asked.append(request.url))
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("console", lambda message: errors.append(message.text) if "violates" in message.text else None)
    found.goto(f"http://127.0.0.1:{served.port}/")
    yield found
    own = (f"http://127.0.0.1:{served.port}/", f"blob:http://127.0.0.1:{served.port}/")
    assert [url for url in asked if not url.startswith(own)] == []
    assert errors == []
    context.close()


def transfer(page: Any, *files: tuple[str, bytes]) -> Any:
    """Return a DataTransfer with files, as a drop or a paste has."""
    return page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, data] of files) {
                const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
                transfer.items.add(new File([bytes], name, { type: "image/png" }));
            }
            return transfer;
        }""",
        [[name, base64.b64encode(content).decode()] for name, content in files],
    )


def answers(page: Any, n: int) -> list[str]:
    """Wait for n answers, and return their text."""
    sync_api.expect(page.locator("li")).to_have_count(n)
    sync_api.expect(page.locator("li.waiting")).to_have_count(0)
    return [" ".join(text.split()) for text in page.locator("li").all_inner_texts()]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("device", SIZES)
def test_several_pictures_one_unknown_and_one_bad_file(browser: Any, served: Served, device: str, theme: str) -> None:
    for page in opened(browser, served, device, theme):
        files = [
            {"name": name, "mimeType": "image/png", "buffer": content}
            for name, content in (
                ("night.png", picture(5)), ("fog.png", picture(125)), ("broken.png", b"none"), ("n" * 90, picture(250)),
            )
        ]  # fmt: skip
        page.locator("#files").set_input_files(files)
        night, fog, broken, last = answers(page, 4)
        assert night.startswith("dark 9")
        assert "<b>grey</b>" in night
        assert "night.png" in night
        assert " ms" in night
        assert fog.startswith("unknown No label is probable enough.")
        assert broken == "Not read not a picture, or in an unsupported format broken.png"
        assert last.startswith("light 9")
        assert page.evaluate("document.documentElement.scrollWidth") == SIZES[device][0]
        assert page.locator("#photograph").is_visible() == (device == "phone")
        assert page.locator("li b").count() == 0  # labels are text
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) < 200) == (theme == "dark")


def test_a_drop_and_a_paste_are_answered_newest_first(page: Any) -> None:
    page.locator("#drop").wait_for()
    page.dispatch_event(
        "#drop", "drop", {"dataTransfer": transfer(page, ("a.png", picture(5)), ("b.png", picture(250)))}
    )
    assert [one.split()[0] for one in answers(page, 2)] == ["dark", "light"]
    page.evaluate(
        "clipboardData => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData }))",
        transfer(page, ("c.png", picture(125))),
    )
    assert [one.split()[0] for one in answers(page, 3)] == ["unknown", "dark", "light"]
    assert page.locator("[role=status]").inner_text() == "c.png: unknown"


def test_the_page_works_with_the_keyboard_alone(page: Any) -> None:
    page.on("filechooser", lambda _: None)  # from the first listener on, dialogs are passed on, but not at once
    page.locator("#drop").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "choose"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": picture(5)}])
    answers(page, 1)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "clear"
    page.keyboard.press("Enter")
    assert page.locator("li").count() == 0
    assert page.evaluate("document.activeElement.id") == "choose"


def test_a_screen_reader_finds_names_and_headings(page: Any) -> None:
    page.locator("#files").set_input_files([{"name": "a.png", "mimeType": "image/png", "buffer": picture(5)}])
    answers(page, 1)
    tree = page.locator("body").aria_snapshot()
    for line in (
        '- heading "brightness" [level=1]', '- button "Choose pictures"', '- heading "Answers" [level=2]',
        '- button "Clear"', "- strong: dark", "- term: dark",
    ):  # fmt: skip
        assert line in tree


def test_a_token_is_asked_for_once_and_not_shown_in_the_address(browser: Any, tmp_path: Path) -> None:
    one = start(write_bundle(tmp_path / "bundle"), "--token", "s3+c%r&t/=")
    for page in opened(browser, one, "phone", "light"):
        page.locator("#token").fill("wrong")
        page.get_by_role("button", name="Continue").click()
        sync_api.expect(page.locator("#wrong-token")).to_have_text("This is not the token.")
        page.locator("#token").fill("s3+c%r&t/=")
        page.get_by_role("button", name="Continue").click()
        page.locator("#files").set_input_files([{"name": "a.png", "mimeType": "image/png", "buffer": picture(5)}])
        assert answers(page, 1)[0].startswith("dark")
        page.reload()
        page.locator("#drop").wait_for()
        assert not page.locator("#token").is_visible()
        page.evaluate("sessionStorage.clear()")
        page.goto("about:blank")
        page.goto(one.said.split()[2])  # the printed address
        page.locator("#drop").wait_for()
        assert page.url == f"http://127.0.0.1:{one.port}/"
    one.stop()


def test_the_api_has_a_page_without_outside_requests(browser: Any, served: Served) -> None:
    for page in opened(browser, served, "laptop", "light"):
        page.goto(f"http://127.0.0.1:{served.port}/docs")
        page.get_by_text("/predict").first.wait_for()
