"""Everything that a stranger may send: a status and a sentence, bounded memory, and the next request is answered."""

import contextlib
import io
import os
import resource
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import uvicorn
from conftest import IN_MAKE_FAULTS
from PIL import Image
from served import Served, ask, form, picture, start, write_bundle

from autotune.export.predict import Classifier
from autotune.formats.onnx_session import Outputs
from autotune.serve import protocol
from autotune.serve.app import create_app
from autotune.serve.limits import MB, Limits

GOOD = picture(10)
AT_ONCE = 10_000 if IN_MAKE_FAULTS else 1_000
SPARE = 200  # files that this process and the server have open besides


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = start(write_bundle(tmp_path_factory.mktemp("made") / "bundle"))
    yield found
    assert found.stop() == (0, "")


@pytest.fixture(autouse=True)
def next_request_is_answered(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "served" in request.fixturenames:
        one: Served = request.getfixturevalue("served")
        assert one.predict(("x.png", GOOD)).json["predictions"][0]["label"] == "dark"


def png_header(width: int, height: int) -> bytes:
    """Return a small PNG that claims to have this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )


def wide(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


def drawn(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, kind)
    return file.getvalue()


def tiff(pages: int) -> bytes:
    """Return a TIFF with pages of one pixel, which all have the same strip."""
    entries = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
               (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 1)]  # fmt: skip
    page = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    first, size = 12, len(page) + 4
    later = (struct.pack("<I", first + size * (number + 1)) for number in range(pages - 1))
    return b"II*\0" + struct.pack("<I", first) + bytes(4) + b"".join(page + one for one in (*later, bytes(4)))


BAD_REQUESTS = {
    "nothing": (b"", {}, 400, "The request has no picture, or is cut off."),
    "an empty form": (*form(), 400, "The request has no picture, or is cut off."),
    "another field": (*form(("x.png", GOOD), field="other"), 400, "The request has no picture, or is cut off."),
    "text instead of a file": (
        b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\ntext\r\n--b--\r\n",
        {"Content-Type": "multipart/form-data; boundary=b"}, 400, "The request has no picture, or is cut off.",
    ),
    "a form without a boundary": (
        GOOD, {"Content-Type": "multipart/form-data"}, 400, "The form cannot be read: Missing boundary in multipart."
    ),
    "no form": (
        GOOD, {"Content-Type": "multipart/form-data; boundary=b"}, 400, "The form cannot be read: Invalid multipart"
    ),
    "33 pictures": (*form(*[("x.png", GOOD)] * 33), 413, "The request has more than 32 pictures."),
    "10,000 pictures": (*form(*[("x.png", b"x")] * 10_000), 413, "The request has more than 32 pictures."),
    "too many bytes": (b"x" * (64 * MB + 1), {}, 413, "The request has more than 64 MB."),
    "another host": (GOOD, {"Host": "evil.example"}, 400, "The request is for another host."),
    "no host": (GOOD, {"Host": "127.0.0.1:x]"}, 400, "The request is for another host."),
    "another site": (GOOD, {"Origin": "http://evil.example"}, 403, "The request comes from a page of another site."),
    "no site": (GOOD, {"Origin": "http://[x"}, 403, "The request comes from a page of another site."),
    "a page without a site": (GOOD, {"Origin": "null"}, 403, "The request comes from a page of another site."),
}  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "status", "sentence"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_refused_with_a_sentence(
    served: Served, body: bytes, headers: dict[str, str], status: int, sentence: str
) -> None:
    reply = served.ask("/predict", body, headers)
    assert reply.status == status
    assert reply.json["error"].startswith(sentence)
    assert reply.json["fix"].endswith(".")


BAD_PICTURES = {
    "no picture": (b"none", "not a picture, or in an unsupported format"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture, or in an unsupported format"),
    "half a picture": (GOOD[:60], "cannot be decoded"),
    "a bomb": (png_header(100_000, 100_000), "more than 50,000,000 pixels"),
    "90 megapixels": (png_header(30_000, 3_000), "30000 x 3000 pixels, more than 50,000,000"),
    "an icon, decoded before its size is known": (drawn("ICO"), "not a picture, or in an unsupported format"),
    "JPEG 2000, whose decoder stops all threads": (drawn("JPEG2000"), "not a picture, or in an unsupported format"),
    "a picture in plain text": (b"P2 2 2 255\n1 2 3 4\n", "not a picture, or in an unsupported format"),
    "a hundred thousand pages": (tiff(100_000), "several frames or pages"),
    "a million pixels wide": (wide(1_000_000, 51), "1000000 x 51 pixels, more than 50,000,000"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_a_picture_that_cannot_be_read_is_named_with_the_reason(served: Served, content: bytes, reason: str) -> None:
    before = served.resident_bytes
    reply = served.predict(("x.png", content))
    assert reply.status == 422
    assert reason in reply.json["predictions"][0]["error"]
    assert served.resident_bytes - before < 50 * MB


def test_a_picture_a_million_pixels_wide_is_answered(served: Served) -> None:
    assert served.predict(("x.png", wide(1_000_000, 1))).status == 200


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"), ("C:\\Windows\\x.png", "x.png"), ("/", "picture"), ("..", ".."),
        ("<script>alert(1)</script>.png", "script>.png"), ("x" * 300, "x" * 300),
    ],
)  # fmt: skip
def test_a_path_in_a_name_is_only_a_name(served: Served, name: str, shown: str) -> None:
    assert served.predict((name, GOOD)).json["predictions"][0]["name"] == shown


def test_half_a_surrogate_pair_in_a_name_is_replaced(served: Served) -> None:
    body, headers = form(("\\ud800.png", GOOD))
    headers = {"Content-Type": headers["Content-Type"] + "; charset=unicode_escape"}
    assert served.ask("/predict", body, headers).json["predictions"][0]["name"] == "?.png"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405), ("GET", "/nothing", 404), ("GET", "/page/../../limits.py", 404),
        ("GET", "/page/%2e%2e/limits.py", 404), ("GET", "/page/..%2flimits.py", 404), ("DELETE", "/", 405),
        ("POST", "/predict?top=0", 400), ("POST", "/predict?top=many", 400),
    ],
)  # fmt: skip
def test_a_wrong_address_is_answered_with_a_sentence(served: Served, method: str, path: str, status: int) -> None:
    reply = served.ask(path, GOOD if method == "POST" else None, method=method)
    assert reply.status == status
    assert reply.json["error"]


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as found:
        yield found


def head(length: int | None) -> bytes:
    """Return the head of a request with a body of this length; None: in chunks."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n{size}\r\n\r\n".encode()


def test_a_body_in_chunks_that_does_not_end_is_refused(served: Served) -> None:
    with connected(served.port) as one:
        one.sendall(head(None))
        with contextlib.suppress(OSError):  # the server may stop reading
            for _ in range(80):
                one.sendall(b"f4240\r\n" + bytes(MB) + b"\r\n")
        assert one.recv(12) == b"HTTP/1.1 413"


def test_half_a_body_and_no_http_leave_nothing_behind(served: Served) -> None:
    for sent in (
        head(1000) + b"half",
        head(None) + b"5\r\nhalf",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9\r\n\r\n",
    ):
        with connected(served.port) as one:
            one.sendall(sent)
    with connected(served.port) as one:
        one.sendall(b"GET /" + b"x" * 100_000)
        with contextlib.suppress(ConnectionError):
            assert one.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.1 431")
    deadline = time.monotonic() + 10
    while len(psutil.Process(served.process.pid).net_connections()) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(psutil.Process(served.process.pid).net_connections()) == 1  # the listening one
    assert b"autotune_waiting_pictures 0.0" in served.ask("/metrics").content


def test_large_bodies_at_once_do_not_fill_the_memory(served: Served) -> None:
    before, statuses = served.resident_bytes, []
    body = os.urandom(60 * MB)
    threads = [threading.Thread(target=lambda: statuses.append(served.ask("/predict", body).status)) for _ in range(12)]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, served.resident_bytes)
        time.sleep(0.01)
    assert set(statuses) <= {422, 429}
    assert len(statuses) == 12
    assert most - before < 3 * 256 * MB  # received, joined, and being read


def test_thousands_at_once_are_answered_or_told_to_come_back(served: Served) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    n = min(AT_ONCE, hard // 2 - SPARE) if hard != resource.RLIM_INFINITY else AT_ONCE
    before, answers = served.resident_bytes, Counter[bytes]()
    request = head(len(GOOD)) + GOOD
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        open_ones = []
        for _ in range(n):  # without waiting for an answer; a connection that says nothing for 10 s would be closed
            open_ones.append(stack.enter_context(connected(served.port)))
            open_ones[-1].sendall(request)
        for one in open_ones:
            answers[one.recv(12)] += 1
    assert set(answers) <= {b"HTTP/1.1 200", b"HTTP/1.1 429"}
    assert answers[b"HTTP/1.1 200"] >= 256
    assert served.resident_bytes - before < 200 * MB


class InThread:
    """A server of a function in this process, for limits and faults that a bundle does not have."""

    def __init__(self, model: Classifier, limits: Limits) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        app = create_app(model, ["127.0.0.1"], None, limits)
        config = uvicorn.Config(
            app,
            http=protocol.ImpatientProtocol,
            ws="none",
            log_level="critical",
            timeout_graceful_shutdown=limits.stop_seconds,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listening]})

    def __enter__(self) -> "InThread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        self._server.should_exit = True


def brightness(squares: np.ndarray) -> Outputs:
    light = squares.reshape(len(squares), -1).mean(1) / 255
    return Outputs(np.stack([1 - light, light], 1).astype(np.float32))


MODEL = Classifier("s", ("dark", "light"), 16, "bilinear", 0.0, brightness)


def test_a_slow_body_is_refused_and_a_slow_head_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SECONDS", 0.4)
    with InThread(MODEL, Limits(idle_seconds=0.2, body_seconds=0.5)) as one:
        with connected(one.port) as stalled:
            stalled.sendall(head(1000) + b"half")
            assert b"408" in stalled.recv(4096).splitlines()[0]
        with connected(one.port) as dripping:
            dripping.sendall(head(1000))
            for _ in range(6):
                time.sleep(0.1)
                dripping.sendall(b"x")
            assert b"The request did not arrive in time." in dripping.recv(4096)
        with connected(one.port) as silent, connected(one.port) as slow, connected(one.port) as second:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost:")
            second.sendall(head(len(GOOD)) + GOOD)
            assert second.recv(4096).startswith(b"HTTP/1.1 200")
            second.sendall(b"POST /predict")
            assert (silent.recv(1), slow.recv(1), second.recv(1)) == (b"", b"", b"")
        assert ask(one.port, "/predict", GOOD).status == 200


def test_a_full_queue_is_told_to_the_client() -> None:
    held, going = threading.Event(), threading.Event()

    def waits(squares: np.ndarray) -> Outputs:
        held.set()
        assert going.wait(30)
        return brightness(squares)

    model = Classifier("s", ("dark", "light"), 16, "bilinear", 0.0, waits)
    with InThread(model, Limits(n_waiting_pictures=2)) as one:
        replies = []
        first = threading.Thread(target=lambda: replies.append(ask(one.port, "/predict", *form(*[("x", GOOD)] * 2))))
        first.start()
        assert held.wait(30)
        refused = ask(one.port, "/predict", GOOD)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert refused.json["error"] == "Too many pictures are waiting."
        going.set()
        first.join()
        assert replies[0].status == 200
        assert ask(one.port, "/predict", GOOD).status == 200


def test_a_connection_too_many_is_told_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.ImpatientProtocol, "most_connections", 2)
    with InThread(MODEL, Limits()) as one:
        with connected(one.port), connected(one.port):
            refused = ask(one.port, "/health")
            assert refused.status == 429
            assert refused.json["error"]
        time.sleep(0.1)
        assert ask(one.port, "/health").status == 200


def test_a_network_that_fails_is_a_sentence_for_the_client_and_the_next_picture_is_answered() -> None:
    def fails_on_light(squares: np.ndarray) -> Outputs:
        if squares.mean() > 200:
            raise RuntimeError("out of memory")
        return brightness(squares)

    with InThread(Classifier("s", ("dark", "light"), 16, "bilinear", 0.0, fails_on_light), Limits()) as one:
        reply = ask(one.port, "/predict", picture(255))
        assert (reply.status, reply.json["error"]) == (500, "The server failed on this request.")
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert b'autotune_requests_total{path="/predict",status="500"} 1.0' in ask(one.port, "/metrics").content
        assert ask(one.port, "/predict", GOOD).json["predictions"][0]["label"] == "dark"


def test_a_request_that_takes_too_long_when_the_server_stops_is_told_so() -> None:
    held, going = threading.Event(), threading.Event()

    def waits(squares: np.ndarray) -> Outputs:
        held.set()
        going.wait(30)
        return brightness(squares)

    replies = []
    model = Classifier("s", ("dark", "light"), 16, "bilinear", 0.0, waits)
    with InThread(model, Limits(stop_seconds=1)) as one:
        asking = threading.Thread(target=lambda: replies.append(ask(one.port, "/predict", GOOD)))
        asking.start()
        assert held.wait(30)
        one.stop()
        asking.join()
        going.set()
    assert (replies[0].status, replies[0].json["error"]) == (503, "The server stops.")
