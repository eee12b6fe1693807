"""A static page that classifies pictures in the browser, with onnxruntime-web and the model of a bundle."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import shutil
import tarfile
import urllib.request
from pathlib import Path

from autotune.errors import BundleError
from autotune.export import bundle
from autotune.export.staging import refuse_overlap
from autotune.files import cache_folder, make_folder, unfinished_folder, unwritable, write_whole
from autotune.text import first_line

PAGE = Path(__file__).parent / "page"
RESIZE = "resize.js"
SHARED = ("index.html", "page.css", "page.js", "icon.svg", RESIZE)
VERSION = "1.30.0"  # of onnxruntime-web
PACKAGE = f"onnxruntime-web-{VERSION}.tgz"
SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
REGISTRY = "https://registry.npmjs.org"
SECONDS = 60  # without a byte of a download


def check_web(folder: Path, source: Path) -> None:
    """Raise BundleError if a folder has other files than a page that was written before, or overlaps the bundle.

    source: the folder of the bundle, which may not exist yet.
    """
    refuse_overlap(folder, source)
    if not folder.exists() or (folder.is_dir() and (not any(folder.iterdir()) or _is_ours(folder))):
        return
    raise BundleError(f"{folder} exists, and is not a page written by autotune.", "Choose an empty or a new folder.")


def _is_ours(folder: Path) -> bool:
    names = {"index.html", "page", "model", "runtime"}
    return {file.name for file in folder.iterdir()} == names and bundle.is_unchanged(folder / "model")


def write_web(source: Path, folder: Path, package: Path | None = None) -> None:
    """Write the page from an unchanged bundle. package: the file of `npm pack`; None: downloaded once, and kept.

    Raises BundleError if the bundle has changed, the runtime is not available, or the folder cannot be written.
    """
    opened = bundle.open_bundle(source)
    check_web(folder, opened.folder)
    runtime = runtime_folder(package)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(folder) as staging:
            new = staging / "new"
            _write(opened, runtime, new)
            if folder.exists():
                folder.rename(staging / "earlier")
            new.rename(folder)
    except OSError as error:
        raise BundleError(
            f"{folder} cannot be written: {error.strerror or first_line(error)}.", "Choose another folder."
        ) from error


def _write(opened: bundle.Bundle, runtime: Path, folder: Path) -> None:
    (folder / "page").mkdir(parents=True)
    for name in SHARED:
        shutil.copyfile(PAGE / name, folder / name if name == "index.html" else folder / "page" / name)
    shutil.copyfile(PAGE / "local.js", folder / "page" / "source.js")
    shutil.copytree(runtime, folder / "runtime")
    shutil.copytree(opened.folder, folder / "model")


def runtime_folder(package: Path | None) -> Path:
    """Return a folder of the cache with the files of onnxruntime-web, downloaded or unpacked if it is missing.

    Raises BundleError if they are not available, StudyError if the cache cannot be written.
    """
    folder = cache_folder() / f"onnxruntime-web-{VERSION}"
    if all((folder / name).is_file() for name in RUNTIME):
        return folder
    content = _read(package) if package else _download()
    if hashlib.sha512(content).hexdigest() != SHA512:
        raise BundleError(f"{package or PACKAGE} is not onnxruntime-web {VERSION}.", _by_hand())
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as files:
            for name in RUNTIME:
                inner = files.extractfile(f"package/dist/{name}")
                assert inner  # of a package with this hash
                write_whole(make_folder(folder) / name, inner.read())
    except OSError as error:  # a full disk
        raise unwritable(folder, error) from error
    return folder


def _read(package: Path) -> bytes:
    try:
        return package.read_bytes()
    except OSError as error:
        raise BundleError(f"{package} cannot be read: {error.strerror}.", _by_hand()) from error


def _download() -> bytes:
    registry = os.environ.get("npm_config_registry", REGISTRY).rstrip("/")  # noqa: SIM112 - npm's own name
    try:
        with urllib.request.urlopen(f"{registry}/onnxruntime-web/-/{PACKAGE}", timeout=SECONDS) as reply:
            content: bytes = reply.read()
            return content
    except (OSError, http.client.HTTPException) as error:  # an HTTPException: the connection ended too early
        raise BundleError(f"onnxruntime-web cannot be downloaded: {first_line(error)}.", _by_hand()) from error


def _by_hand() -> str:
    return f"Run `npm pack onnxruntime-web@{VERSION}` where there is a network, and pass --web-runtime {PACKAGE}"
