"""The static page answers in a real browser as the bundle does, and its resize is Pillow's to the last bit."""

import contextlib
import errno
import functools
import http.client
import http.server
import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import photos, write_digits
from PIL import Image
from served import picture, write_bundle

from autotune.backbones.registry import build_stages, discover
from autotune.data.decode import crop_square
from autotune.errors import BundleError, StudyError
from autotune.export import web
from autotune.export.export import ExportRequest, export_trial
from autotune.export.predict import load
from autotune.export.web import check_web, runtime_folder, write_web
from autotune.formats import measure
from autotune.formats.cost import NetworkCost
from autotune.formats.table import ONNX
from autotune.study.listener import StudyListener
from autotune.study.request import Resources

sync_api = pytest.importorskip("playwright.sync_api")


@contextlib.contextmanager
def files_of(bundle: Path, folder: Path) -> Iterator[str]:
    """Write the page of a bundle, and serve its files."""
    try:
        write_web(bundle, folder)
    except BundleError as error:
        pytest.skip(str(error))  # no network
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server of files with the page, and the bundle that the page was made of."""
    place = tmp_path_factory.mktemp("web")
    with files_of(write_bundle(place / "bundle"), place / "page") as found:
        yield found, place / "bundle"


@pytest.fixture
def page(browser: Any, address: tuple[str, Path]) -> Iterator[Any]:
    with opened(browser, address[0]) as found:
        yield found


@contextlib.contextmanager
def opened(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context()
    found = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    found.on("request", lambda request: asked.append(request.url))
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.goto(address)
    found.locator("#drop").wait_for()
    yield found
    assert [url for url in asked if not url.startswith((address, f"blob:{address}"))] == []
    assert errors == []
    context.close()


@pytest.mark.slow
def test_the_page_answers_in_the_browser_as_the_bundle_does(
    page: Any, address: tuple[str, Path], tmp_path: Path
) -> None:
    contents = {
        "night.png": picture(5),
        "fog.jpg": picture(125, (300, 200), "JPEG"),
        "day.webp": picture(250, kind="WEBP"),
    }
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 4), dtype=np.uint8)
    transparent = io.BytesIO()
    Image.fromarray(noise).save(transparent, "PNG")
    contents["transparent.png"] = transparent.getvalue()
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation
    half = Image.new("RGB", (60, 40), "black")
    half.paste("white", (0, 0, 20, 40))
    half.save(turned, "JPEG", exif=exif)
    contents["turned.jpg"] = turned.getvalue()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    page.locator("#files").set_input_files([str(tmp_path / name) for name in contents])
    sync_api.expect(page.locator("li")).to_have_count(len(contents))
    sync_api.expect(page.locator("li.waiting")).to_have_count(0)
    shown = [" ".join(text.split()) for text in page.locator("li").all_inner_texts()]
    for text, expected in zip(shown, load(address[1]).predict([tmp_path / name for name in contents]), strict=True):
        assert text.startswith(str(expected.label))
        assert f"{100 * expected.top[0][1]:.1f} %" in text


@pytest.mark.slow
def test_the_page_of_a_study_answers_real_pictures_as_the_bundle_does(
    browser: Any, finished: Path, tmp_path: Path
) -> None:
    bundle = export_trial("s", ExportRequest(tmp_path / "bundle"), Resources("cpu"), StudyListener()).folder
    files = sorted(write_digits(tmp_path / "new", each=3, first=60).rglob("*.png"))
    files += sorted(photos("flowers").rglob("*.jpg"))[::60]
    with files_of(bundle, tmp_path / "page") as address, opened(browser, address) as page:
        page.locator("#files").set_input_files([str(file) for file in files])
        sync_api.expect(page.locator("li")).to_have_count(len(files))
        sync_api.expect(page.locator("li.waiting")).to_have_count(0)
        shown = page.locator("li").all_inner_texts()
    n_unknown = 0
    for text, expected in zip(shown, load(bundle).predict(files), strict=True):
        words = text.split()
        assert words[0] == expected.label
        n_unknown += expected.label == "unknown"
        (first,) = re.findall(rf"^{expected.top[0][0]}\n([\d.]+) %", text, re.MULTILINE)[-1:]
        assert float(first) == pytest.approx(100 * expected.top[0][1], abs=0.5)
    assert n_unknown >= len(files) - 9 - 2  # photos are no digits


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("width", "height", "pixels"), [(97, 61, 32), (61, 98, 32), (20, 20, 33), (32, 32, 32), (32, 33, 32), (500, 7, 16)]
)
def test_the_resize_of_the_page_is_pillows_to_the_last_bit(
    page: Any, interpolation: str, width: int, height: int, pixels: int
) -> None:
    rgb = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = crop_square(Image.fromarray(rgb), pixels, interpolation)
    found = page.evaluate(
        """async ([rgb, width, height, pixels, interpolation]) => {
            const { cropSquare } = await import("/page/resize.js");
            return [...cropSquare(Uint8Array.from(rgb), width, height, pixels, interpolation)];
        }""",
        [rgb.ravel().tolist(), width, height, pixels, interpolation],
    )
    assert np.array_equal(np.array(found, np.uint8).reshape(expected.shape), expected)


def test_another_package_and_a_missing_network_are_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "other.tgz").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"other.tgz is not onnxruntime-web .*\nRun `npm pack onnxruntime-web@"):
        runtime_folder(tmp_path / "other.tgz")
    with pytest.raises(BundleError, match=r"gone.tgz cannot be read: No such file or directory.\nRun"):
        runtime_folder(tmp_path / "gone.tgz")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    with pytest.raises(BundleError, match=r"onnxruntime-web cannot be downloaded: .*\nRun"):
        runtime_folder(None)
    assert not (tmp_path / "cache" / f"onnxruntime-web-{web.VERSION}").exists()


def test_a_folder_with_other_files_is_kept(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    check_web(tmp_path / "own", tmp_path / "bundle")
    (tmp_path / "own" / "index.html").write_text("mine")
    with pytest.raises(BundleError, match="is not a page written by autotune"):
        check_web(tmp_path / "own", tmp_path / "bundle")
    with pytest.raises(BundleError, match="overlap"):
        check_web(tmp_path / "bundle" / "page", tmp_path / "bundle")


def test_a_connection_that_ends_too_early_is_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*_: object, **__: object) -> None:
        raise http.client.IncompleteRead(b"half")

    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", cut_off)
    with pytest.raises(BundleError, match=r"onnxruntime-web cannot be downloaded: .*\nRun"):
        runtime_folder(None)


def test_a_full_disk_while_a_network_is_measured_is_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "_measure", lambda one, *_: NetworkCost(one.name, 16, "onnx", 1.0, 1, 1))
    monkeypatch.setattr(measure, "write_whole", full)
    one = discover().find("quick_cnn")
    with pytest.raises(StudyError, match=r"costs cannot be written: No space left on device.\nFree some disk space"):
        measure.measure_cost(one, build_stages(one, pretrained=False), 16, ONNX)
