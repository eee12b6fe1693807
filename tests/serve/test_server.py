"""`autotune serve` in a process of its own: what it answers, who may ask, and how it stops."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run_command
from served import LABELS, Served, form, picture, start, write_bundle

from autotune.export.predict import load

DARK, GREY, LIGHT = picture(10), picture(125), picture(240)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture(scope="module")
def served(made: Path) -> Iterator[Served]:
    found = start(made)
    yield found
    code, error = found.stop()
    assert (code, error) == (0, "")


def test_a_form_a_body_and_the_command_give_the_same_answer(served: Served, made: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(DARK)
    expected = load(made).predict(file, top=3)[0]
    by_form = served.predict(("x.png", DARK), top=3).json["predictions"][0]
    by_body = served.ask("/predict?top=3", DARK, {"Content-Type": "image/png"}).json["predictions"][0]
    for found, name in ((by_form, "x.png"), (by_body, "picture")):
        assert (found["name"], found["label"], found["error"]) == (name, "dark", None)
        assert found["probability"] == pytest.approx(expected.probability, abs=1e-6)
        assert [row["label"] for row in found["top"]] == [label for label, _ in expected.top]
        assert found["milliseconds"] > 0


def test_several_pictures_are_answered_in_order_and_one_that_cannot_be_read_has_an_error(served: Served) -> None:
    reply = served.predict(("a.png", LIGHT), ("b.png", b"none"), ("c.png", DARK), ("d.png", GREY))
    rows = reply.json["predictions"]
    assert reply.status == 200
    assert [(row["name"], row["label"]) for row in rows] == [
        ("a.png", "light"), ("b.png", None), ("c.png", "dark"), ("d.png", "unknown")
    ]  # fmt: skip
    assert rows[1]["error"] == "not a picture, or in an unsupported format"
    assert rows[3]["probability"] < 0.6
    assert len(rows[3]["top"]) == len(LABELS)
    assert len(served.predict(("a.png", LIGHT), top=1).json["predictions"][0]["top"]) == 1


def test_what_arrives_together_is_computed_together(made: Path) -> None:
    one = start(made)
    threads = [threading.Thread(target=one.predict, args=[("x.png", picture(9, (900, 900)))] * 16) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = one.ask("/metrics").content.decode()
    one.stop()
    values = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")}
    assert values["autotune_batch_pictures_sum"] == values['autotune_pictures_total{outcome="labelled"}'] == 64
    assert values["autotune_batch_pictures_count"] < 64
    assert values['autotune_requests_total{path="/predict",status="200"}'] == 4
    assert values["autotune_waiting_pictures"] == 0
    assert values["process_resident_memory_bytes"] > 0


def test_programs_find_health_the_model_and_the_description_of_the_api(served: Served) -> None:
    assert served.ask("/health").json == {"status": "ok"}
    model = served.ask("/model").json
    assert (model["study"], model["labels"], model["threshold"]) == ("brightness", list(LABELS), 0.6)
    api = served.ask("/openapi.json").json
    assert set(api["paths"]) == {"/predict", "/model", "/health", "/metrics"}
    assert "multipart/form-data" in api["paths"]["/predict"]["post"]["requestBody"]["content"]


def test_a_bundle_is_served_without_torch(served: Served) -> None:
    import psutil

    files = [Path(one.path).name for one in psutil.Process(served.process.pid).memory_maps()]
    assert any("onnxruntime" in name for name in files)
    assert not [name for name in files if "torch" in name]


def test_a_server_that_is_stopped_answers_what_it_has_received(made: Path) -> None:
    one = start(made)
    body, headers = form(*((f"{i}.jpg", picture(i, (2500, 2500), "JPEG")) for i in range(16)))
    replies = []
    asking = threading.Thread(target=lambda: replies.append(one.ask("/predict", body, headers)))
    asking.start()
    while "autotune_waiting_pictures 16" not in one.ask("/metrics").content.decode():
        time.sleep(0.001)
    one.process.send_signal(signal.SIGINT)
    asking.join()
    assert replies[0].status == 200
    assert len(replies[0].json["predictions"]) == 16
    assert one.process.wait(30) == 0
    assert one.process.communicate()[1] == ""


def test_another_host_needs_a_token_or_to_be_public(made: Path) -> None:
    for options, problem in (
        (("--host", "0.0.0.0"), "With --host 0.0.0.0, other machines can use the model."),
        (("--token", " "), "The token is empty, or has characters that a header cannot have."),
        (("--token", "gr\xfcn"), "The token is empty, or has characters that a header cannot have."),
        (("--token", "x", "--public"), "The token (--token or AUTOTUNE_TOKEN) and --public exclude each other."),
        (("--host", "203.0.113.5", "--public"), "203.0.113.5 is no address of this machine."),
        (("--host", "a..b", "--public"), "Host 'a..b' is unknown."),
        (("--host", "nowhere.invalid", "--public"), "Host 'nowhere.invalid' is unknown."),
    ):
        done = run_command("serve", str(made), "--port", "0", *options, columns=200)
        assert done.returncode == 1
        assert done.stderr.splitlines()[0] == problem
        assert len(done.stderr.splitlines()) == 2


def test_a_server_with_a_token_answers_only_those_who_know_it(made: Path) -> None:
    one = start(made, "--host", "0.0.0.0", environment={"AUTOTUNE_TOKEN": "s3cret"})
    assert "/#token=s3cret" in one.said
    assert "Nothing is encrypted" in one.said
    for path in ("/predict", "/model", "/metrics", "/other"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer \xff"}):
            reply = one.ask(path, DARK if path == "/predict" else None, headers)
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.json["error"] == "The token is missing or wrong."
    assert one.ask("/predict", DARK, {"Authorization": "Bearer s3cret"}).status == 200
    assert one.ask("/").status == one.ask("/health").status == 200
    assert one.ask("/health", headers={"Host": "my-server.example"}).status == 200
    api = one.ask("/openapi.json")
    assert api.json["paths"]["/predict"]["post"]["security"] == [{"HTTPBearer": []}]
    assert b"brightness" not in api.content  # the name of the study
    one.stop()


def test_behind_a_proxy_on_the_same_machine_the_browsers_host_is_kept(made: Path) -> None:
    one = start(made, "--token", "s3cret")
    headers = {"Authorization": "Bearer s3cret", "Host": "photos.example", "Origin": "https://photos.example"}
    assert one.ask("/predict", DARK, headers).status == 200
    one.stop()


def test_a_public_server_says_what_that_means(made: Path) -> None:
    one = start(made, "--host", "0.0.0.0", "--public")
    assert "there is no token and no encryption" in one.said
    assert one.ask("/predict", DARK).status == 200
    one.stop()


def test_a_port_in_use_a_missing_bundle_and_a_changed_one_are_errors_of_two_lines(
    served: Served, made: Path, tmp_path: Path
) -> None:
    changed = write_bundle(tmp_path / "changed")
    (changed / "labels.txt").write_text("dark\nlight\nother\n")
    for source, port, problem in (
        (made, served.port, f"127.0.0.1:{served.port} cannot be used: Address already in use."),
        (tmp_path / "gone", 0, f"{tmp_path / 'gone'} does not exist."),
        (changed, 0, f"{changed / 'labels.txt'} has changed since the export."),
    ):
        done = run_command("serve", str(source), "--port", str(port), columns=400)
        assert done.returncode == 1
        assert done.stderr.splitlines()[0] == problem
        assert len(done.stderr.splitlines()) == 2


def test_a_server_stops_when_its_terminal_closes(made: Path) -> None:
    one = start(made)
    one.process.send_signal(signal.SIGHUP)
    assert one.process.wait(30) == 0
    assert one.process.communicate()[1] == ""


def test_head_is_answered_like_get(served: Served) -> None:
    for path in ("/", "/health", "/model"):
        reply = served.ask(path, method="HEAD")
        assert (reply.status, reply.content) == (200, b"")


def test_the_port_is_free_again_after_a_stop(made: Path) -> None:
    one = start(made)
    one.predict(("x.png", DARK))
    assert one.stop() == (0, "")
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", one.port))
