"""Run a server until Ctrl-C: where it listens, and who may ask."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import quote

import uvicorn

from autotune.errors import AutotuneError, ConfigError
from autotune.export import predict
from autotune.serve.app import create_app
from autotune.serve.limits import Limits
from autotune.serve.protocol import BACKLOG, protocol_with_room
from autotune.study.request import Resources

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServeRequest:
    """The options of a server. source: a bundle or a study. public: another host than loopback without a token."""

    source: str
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    public: bool = False


def serve(request: ServeRequest, resources: Resources, say: Callable[[str], None]) -> None:
    """Serve a model until Ctrl-C. Raises AutotuneError if it cannot be loaded, and for a host or port without access.

    say: is told the address, and who can use it.
    """
    _check(request)
    listening = _listen(request.host, request.port)
    with listening:
        model = predict.load(request.source, resources, say)
        limits = Limits()
        app = create_app(model, _hosts(request), request.token and request.token.strip(), limits)
        warnings.filterwarnings("ignore", module="PIL")  # about damaged pictures
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # else each damaged form of a stranger is a line
        listening.listen(BACKLOG)  # requests that arrive from now on wait for the loop to start
        config = uvicorn.Config(
            app,
            http=protocol_with_room(),
            ws="none",
            log_level="error",
            backlog=BACKLOG,
            server_header=False,
            timeout_graceful_shutdown=limits.stop_seconds,
        )
        server = uvicorn.Server(config)
        _stop_when_the_terminal_closes(server)
        with contextlib.suppress(KeyboardInterrupt):  # the normal way to stop
            say("\n".join(_words(request, model.study, listening.getsockname()[1])))
            server.run(sockets=[listening])


def _stop_when_the_terminal_closes(server: uvicorn.Server) -> None:
    """Let SIGHUP stop a server as SIGTERM does, which uvicorn handles, unless it is ignored, as under nohup."""

    def stop(*_: object) -> None:
        server.should_exit = True

    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, stop)


def _check(request: ServeRequest) -> None:
    if request.token is not None and not (
        request.token.isascii() and request.token.isprintable() and request.token.strip()
    ):
        raise ConfigError(
            "The token is empty, or has characters that a header cannot have.", "Use letters, digits and punctuation."
        )
    if request.token is not None and request.public:
        raise ConfigError(
            "The token (--token or AUTOTUNE_TOKEN) and --public exclude each other.", "Use only one of them."
        )
    if not _is_loopback(request.host) and request.token is None and not request.public:
        raise ConfigError(
            f"With --host {request.host}, other machines can use the model.",
            "Add --token TOKEN to ask them for it, or --public to allow everyone.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hosts(request: ServeRequest) -> Collection[str] | None:
    """Return the names that the server answers to; None for any, as behind a proxy, which needs a token or --public."""
    return {*LOOPBACK_NAMES, request.host} if _is_loopback(request.host) and request.token is None else None


def _listen(host: str, port: int) -> socket.socket:
    """Return a bound socket. port 0: any free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # there, it lets two servers share a port
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError:
            found.close()
            raise
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"Host {host!r} is unknown.", "Use an address of this machine, such as 0.0.0.0.") from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"{host} is no address of this machine.", "Use one of them, or 0.0.0.0 for all."
            ) from error
        raise AutotuneError(
            f"{host}:{port} cannot be used: {error.strerror}.", "Use another --port, or --port 0 for any free one."
        ) from error
    return found


def _words(request: ServeRequest, study: str, port: int) -> list[str]:
    host = request.host
    if host in ("0.0.0.0", "::"):
        host = _own_address()
    netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    fragment = f"/#token={quote(request.token.strip(), safe='')}" if request.token else ""
    lines = [f"Study {study}: http://{netloc}{fragment}"]
    if request.public:
        lines.append("Everyone who can reach this machine can use the model: there is no token and no encryption.")
    elif not _is_loopback(request.host):
        lines.append(
            "Everyone with the token can use the model. Nothing is encrypted: on a network that you do not trust, put "
            "a proxy with TLS in front."
        )
    return [*lines, f"API: http://{netloc}/docs  Press Ctrl-C to stop."]


def _own_address() -> str:
    """Return the address by which other machines reach this one. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation (RFC 5737)
        except OSError:  # no network
            return "127.0.0.1"
        return str(probe.getsockname()[0])
