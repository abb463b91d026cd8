"""The node's process: configuration, node, application, uvicorn, in and out in order."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from comity.app import create_app
from comity.bootstrap import build_node
from comity.config import NodeConfig, load_config
from comity.errors import ConfigError
from comity.logs import configure_logs, log
from comity.system import system_random, utc_now

__all__ = ["serve_node"]


class _Server(uvicorn.Server):
    """Says once that it is ready, after the sockets listen; stops by a signal without dying of it."""

    def __init__(self, config: uvicorn.Config, ready_line: str, leaving: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready_line = ready_line
        self._leaving = leaving

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # uvicorn would raise the signal again once it has stopped, before the node has been closed.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        # Answers that go on would be waited for.
        self._leaving()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            sys.stdout.write(self._ready_line + "\n")
            sys.stdout.flush()


def serve_node(directory: Path, *, log_level: str = "info", ready_json: bool = False) -> None:
    """Serve the node in `directory` until SIGINT or SIGTERM; return after an orderly stop.

    Raises whatever keeps it from starting: `ConfigError` (a port in use too), `StorageError`, `Tampered`.
    """
    config = load_config(directory)
    config.check_exposed()
    listener = _listen(config)
    try:
        configure_logs(level=log_level)
        node = build_node(config, clock=utc_now, random=system_random)
        try:
            node.check_heads()
            where = {"name": config.name, "url": config.public_url, "local_url": config.local_url}
            line = (
                json.dumps({"ready": True, **where})
                if ready_json
                else f"{config.name} is ready at {config.local_url}"
            )
            server = _Server(_uvicorn(config, create_app(node)), line, node.leave)
            log.info("starting", node=config.name, host=config.server.host, port=config.server.port)
            server.run(sockets=[listener])
            log.info("stopped", node=config.name)
        finally:
            node.close()
    finally:
        listener.close()


def _uvicorn(config: NodeConfig, app: object) -> uvicorn.Config:
    server = config.server
    tls = bool(server.tls_certificate)
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        date_header=True,
        # The peer's address is only shown in nothing we log; forwarded headers are never believed.
        proxy_headers=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 * 1024,
        ssl_certfile=str(config.path(server.tls_certificate)) if tls else None,
        ssl_keyfile=str(config.path(server.tls_key)) if tls else None,
    )


def _listen(config: NodeConfig) -> socket.socket:
    host, port = config.server.host, config.server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as e:
        raise ConfigError(
            f"The node cannot listen on {host} port {port} ({e.strerror}).",
            advice="Another process may use it: see [server] in node.toml.",
            code="address_in_use",
        ) from None
    listener.set_inheritable(True)
    return listener
