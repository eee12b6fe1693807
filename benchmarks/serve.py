"""Compare `autotune serve` with the runtime alone: pictures a second and latency, for several numbers of clients.

    python benchmarks/serve.py BUNDLE PHOTOS [--seconds 10]

The runtime alone decodes, resizes and classifies the same bytes from memory in one process: one picture at a time, and
with decoding in threads beside it, which is the most that this machine can do. Both are measured before and after the
server, and the mean is compared. Each client sends one picture after another, as the body of a request, over a
connection that stays open; all clients are threads of one process, whose processor time is told, because it is missing
to the server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import machine
import numpy as np
import psutil

from autotune.export.predict import Classifier, load, read_square

CLIENTS = (1, 8, 32)
TARGET, OF_CLIENTS = 0.8, 8
PICTURES = 200
BATCH = 8


@dataclass(frozen=True)
class Served:
    """What some clients have measured. cores: of the clients and of the server, in processor seconds a second."""

    clients: int
    rate: float
    p50: float
    p99: float
    client_cores: float
    server_cores: float


def one_at_a_time(model: Classifier, contents: Sequence[bytes], seconds: float) -> float:
    """Return pictures a second."""
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        square = read_square(model, contents[n % len(contents)])
        assert not isinstance(square, str)
        model.answer("x", next(model.run(square[None]).rows()), 5)
        n += 1
    return n / (time.perf_counter() - start)


def with_decoders(model: Classifier, contents: Sequence[bytes], seconds: float) -> float:
    """Return pictures a second, in batches that are decoded while the network runs."""
    n = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def ahead(first: int) -> list[object]:
            return [pool.submit(read_square, model, contents[(first + i) % len(contents)]) for i in range(BATCH)]

        waiting = [ahead(0), ahead(BATCH)]
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            squares = [one.result() for one in waiting.pop(0)]  # type: ignore[attr-defined]
            waiting.append(ahead(n + 2 * BATCH))
            for row in model.run(np.stack(squares)).rows():
                model.answer("x", row, 5)
            n += BATCH
        return n / (time.perf_counter() - start)


def ask(port: int, contents: Sequence[bytes], first: int, end: float, found: list[float]) -> None:
    """Send pictures until `end`, on time.perf_counter's clock, and append the seconds of each."""
    connection, number = http.client.HTTPConnection("127.0.0.1", port), first
    while (start := time.perf_counter()) < end:
        body = contents[number % len(contents)]
        connection.request("POST", "/predict", body, {"Content-Type": "image/jpeg"})
        reply = connection.getresponse()
        content = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {content[:200]!r}")
        found.append(time.perf_counter() - start)
        number += 1


def served(port: int, process: psutil.Process, contents: Sequence[bytes], clients: int, seconds: float) -> Served:
    found: list[float] = []
    before, own = process.cpu_times(), time.process_time()
    start = time.perf_counter()
    spread = len(contents) // clients
    threads = [
        threading.Thread(target=ask, args=(port, contents, spread * number, start + seconds, found))
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken, after = time.perf_counter() - start, process.cpu_times()
    p50, p99 = np.quantile(found, [0.5, 0.99])
    used = after.user + after.system - before.user - before.system
    return Served(
        clients, len(found) / taken, float(p50), float(p99), (time.process_time() - own) / taken, used / taken
    )


def start_server(bundle: Path) -> tuple[subprocess.Popen[str], int]:
    command = (sys.executable, "-m", "autotune", "serve", str(bundle), "--port", "0")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout
    first = process.stdout.readline()
    process.stdout.readline()
    return process, int(first.strip().rpartition(":")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    model = load(given.bundle)
    files = sorted(given.photos.rglob("*.jpg"))
    contents = [file.read_bytes() for file in files[:: max(1, len(files) // PICTURES)]][:PICTURES]
    mean = sum(map(len, contents)) / len(contents)
    print(machine.line(f"{len(contents)} pictures of {mean / 1000:.0f} KB on average, {model.pixels} pixels"))
    bare = {"one at a time": one_at_a_time, "decoding beside it": with_decoders}
    rates: dict[str, list[float]] = {
        name: [function(model, contents, given.seconds)] for name, function in bare.items()
    }
    process, port = start_server(given.bundle)
    watched = psutil.Process(process.pid)
    for _ in range(2):
        served(port, watched, contents, 1, 1.0)  # warm up
    rows = [served(port, watched, contents, clients, given.seconds) for clients in CLIENTS]
    peak = watched.memory_info().rss
    process.terminate()
    process.wait()
    for name, function in bare.items():
        rates[name].append(function(model, contents, given.seconds))
    for name, values in rates.items():
        print(f"runtime alone, {name}: {' and '.join(f'{value:.1f}' for value in values)} pictures/s")
    print("clients  pictures/s  / one at a time  / decoding beside it  p50 ms  p99 ms  cores, server  cores, clients")
    for row in rows:
        ratios = [row.rate / float(np.mean(values)) for values in rates.values()]
        print(f"{row.clients:7d}  {row.rate:10.1f}  {ratios[0]:15.2f}  {ratios[1]:20.2f}  {1000 * row.p50:6.0f}  "
              f"{1000 * row.p99:6.0f}  {row.server_cores:13.2f}  {row.client_cores:14.2f}")  # fmt: skip
        if row.clients == OF_CLIENTS:
            reached = ratios[0]
    print(f"server's memory: {peak / 1e6:.0f} MB")
    print(f"{OF_CLIENTS} clients over one at a time: {machine.verdict(reached, TARGET)}")
    print(json.dumps({"rates": rates, "served": [vars(row) for row in rows]}))


if __name__ == "__main__":
    main()
