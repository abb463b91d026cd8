"""`node.toml` as frozen objects.

The file is read once, strictly: an unknown key, a wrong type or an impossible value is an error that names
the file, the line, the section and the key. A value may stand elsewhere: `"env:NAME"` is read from the
environment and `"file:PATH"` from a file (relative to the node's directory), so that no secret need be in
the file itself. Nothing else in the house reads configuration.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import sqlalchemy as sa

from comity.errors import ConfigError

__all__ = [
    "CONFIG_FILE",
    "BudgetConfig",
    "ConsentConfig",
    "DatabaseConfig",
    "EngineConfig",
    "JobsConfig",
    "LogConfig",
    "NodeConfig",
    "PathsConfig",
    "PeersConfig",
    "ServerConfig",
    "load_config",
    "parse_config",
]

CONFIG_FILE = "node.toml"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ORIGIN = re.compile(r"[a-z0-9][a-z0-9.\-]*(:[0-9]{1,5})?(/[A-Za-z0-9._~\-]+)*")
_URL = re.compile(r"https?://([A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?")
_MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where the node listens and how partners reach it."""

    host: str = "127.0.0.1"
    port: int = 8440
    public_url: str = ""
    behind_proxy: bool = False
    tls_certificate: str = ""
    tls_key: str = ""
    max_body_bytes: int = 64 * _MEGABYTE


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """One database a node. `url` may hold a password, so it is kept out of the repr."""

    url: str = field(default="sqlite:///comity.db", repr=False)


@dataclass(frozen=True, slots=True)
class LogConfig:
    """The transparency log: its origin (a schemeless URL prefix) is also the name of its key.

    `trust_policy` is a file (c2sp.org/tlog-policy) of further witnesses, logs, and the quorum; without one
    the partners are each other's witnesses.
    """

    origin: str = ""
    trust_policy: str = ""


@dataclass(frozen=True, slots=True)
class ConsentConfig:
    """What consents are held to: `policy` is a file of purposes and notices (that of the release without
    one), `vendor` this organisation's id in the Global Vendor List of the IAB (0 for none).
    """

    policy: str = ""
    vendor: int = 0


@dataclass(frozen=True, slots=True)
class PathsConfig:
    """Folders and files, relative to the node's directory unless absolute."""

    keys: str = "keys"
    log: str = "log"
    data: str = "data"
    datasets: str = "datasets.toml"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Curve arithmetic: `blinder` is auto, cryptography or ipp; spread over `workers` processes.

    One worker a core unless told otherwise. With 0 the arithmetic runs inside the node, whose API stands
    still meanwhile, because the library holds the interpreter's lock.
    """

    blinder: str = "auto"
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class JobsConfig:
    """Background work: `threads` jobs at a time; new partners looked for every `feed_seconds`."""

    threads: int = 2
    feed_seconds: float = 0.25


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    """Privacy loss allowed for one dataset lineage, partner and calendar month."""

    epsilon: float = 8.0
    delta: float = 1e-4


@dataclass(frozen=True, slots=True)
class PeersConfig:
    """Talking to partners: seconds and bytes."""

    timeout_seconds: float = 30.0
    max_response_bytes: int = 256 * _MEGABYTE
    clock_skew_seconds: float = 60.0
    ca_certificates: str = ""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A whole `node.toml`, checked. `directory` is the folder it was read from."""

    name: str
    directory: Path
    server: ServerConfig = ServerConfig()
    database: DatabaseConfig = DatabaseConfig()
    log: LogConfig = LogConfig()
    consent: ConsentConfig = ConsentConfig()
    paths: PathsConfig = PathsConfig()
    engine: EngineConfig = EngineConfig()
    jobs: JobsConfig = JobsConfig()
    budget: BudgetConfig = BudgetConfig()
    peers: PeersConfig = PeersConfig()

    @property
    def public_url(self) -> str:
        """The URL partners sign requests for, without a trailing slash."""
        if self.server.public_url:
            return self.server.public_url.rstrip("/")
        scheme = "https" if self.server.tls_certificate else "http"
        host = f"[{self.server.host}]" if ":" in self.server.host else self.server.host
        return f"{scheme}://{host}:{self.server.port}"

    @property
    def local_url(self) -> str:
        """The URL at which commands on this machine reach the node."""
        scheme = "https" if self.server.tls_certificate else "http"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.server.host, self.server.host)  # noqa: S104
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.server.port}"

    @property
    def log_origin(self) -> str:
        """Origin of the log and name of its key."""
        return self.log.origin or f"{self.name}.comity.invalid/log"

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL with a relative SQLite path resolved against the node's directory."""
        url = sa.make_url(self.database.url)
        if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
            url = url.set(database=str(self.directory / str(url.database)))
        return url.render_as_string(hide_password=False)

    def path(self, relative: str) -> Path:
        """A configured path, relative to the node's directory unless absolute."""
        return self.directory / relative

    @property
    def keys_dir(self) -> Path:
        return self.path(self.paths.keys)

    @property
    def log_dir(self) -> Path:
        return self.path(self.paths.log)

    @property
    def data_dir(self) -> Path:
        return self.path(self.paths.data)

    @property
    def datasets_file(self) -> Path:
        return self.path(self.paths.datasets)

    @property
    def identity_key(self) -> Path:
        return self.keys_dir / "identity.key"

    @property
    def ring_key(self) -> Path:
        return self.keys_dir / "ring.key"

    @property
    def operator_key(self) -> Path:
        return self.keys_dir / "operator.key"

    def check_exposed(self) -> None:
        """Raise `ConfigError` where serving would carry plain HTTP beyond this machine."""
        server = self.server
        if is_loopback(server.host) or server.tls_certificate or server.behind_proxy:
            return
        raise ConfigError(
            f"[server] host = {server.host!r} is not a loopback address and no TLS certificate is set.",
            advice="Set tls_certificate and tls_key, or behind_proxy = true where a proxy ends TLS.",
            code="tls_required",
        )


def is_loopback(host: str) -> bool:
    """Whether listening on `host` stays on this machine (names other than localhost count as no)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_config(directory: Path | str) -> NodeConfig:
    """Read `DIRECTORY/node.toml`.

    Raises `ConfigError`: no such directory or file, not UTF-8, not TOML, an unknown key, a bad value.
    """
    folder = Path(directory).resolve()
    file = folder / CONFIG_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no {CONFIG_FILE} in {directory}.", advice=f"Make a node with: comity init {directory}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8.") from None
    except OSError as e:
        raise ConfigError(f"{file} cannot be read: {e.strerror}.") from None
    return parse_config(text, folder, file=str(file))


def parse_config(text: str, directory: Path, *, file: str = CONFIG_FILE) -> NodeConfig:
    """The configuration in `text`, for a node living in `directory`. Raises `ConfigError`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{file} is not TOML: {e}.") from None
    source = _Source(text, file, directory)
    hints = get_type_hints(NodeConfig)
    sections = {f.name: hints[f.name] for f in fields(NodeConfig) if f.name not in ("name", "directory")}
    for key, value in document.items():
        if key != "name" and key not in sections:
            raise source.unknown("", key, [*sections, "name"])
        if key in sections and not isinstance(value, dict):
            raise source.wrong("", key, f"is a section: write [{key}]")
    if "name" not in document:
        raise ConfigError(f"{file}: name is missing.", advice='Add the node\'s name, as in: name = "bank"')
    name = source.value("", "name", document["name"], str)
    if not _NAME.fullmatch(name):
        raise source.wrong("", "name", "must be 1 to 63 lower-case letters, digits or hyphens")
    read = {key: _section(kind, document.get(key, {}), key, source) for key, kind in sections.items()}
    config = NodeConfig(name=name, directory=directory, **read)
    _check(config, source)
    return config


SectionT = TypeVar("SectionT")


def _section(kind: type[SectionT], given: Mapping[str, Any], section: str, source: _Source) -> SectionT:
    hints = get_type_hints(kind)
    for key in given:
        if key not in hints:
            raise source.unknown(section, key, list(hints))
    return kind(**{key: source.value(section, key, raw, hints[key]) for key, raw in given.items()})


@dataclass(frozen=True)
class _Source:
    """The text being read: knows where each key stands, and resolves env: and file: values."""

    text: str = field(repr=False)
    file: str
    directory: Path

    def place(self, section: str, key: str) -> str:
        current, where = "", f"[{section}] {key}" if section else key
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[\s*([^\]\s]+)\s*\]", line):
                current = header[1]
                if not section and current == key:
                    return f"{self.file}, line {number}, [{key}]"
            elif current == section and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", line):
                return f"{self.file}, line {number}, {where}"
        return f"{self.file}, {where}"

    def unknown(self, section: str, key: str, known: list[str]) -> ConfigError:
        near = difflib.get_close_matches(key, known, 1)
        advice = f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(sorted(known))}."
        return ConfigError(f"{self.place(section, key)}: unknown key.", advice=advice)

    def wrong(self, section: str, key: str, what: str) -> ConfigError:
        return ConfigError(f"{self.place(section, key)}: {what}.")

    def value(self, section: str, key: str, raw: object, kind: type) -> Any:
        """`raw` as `kind` (str, int, float or bool), following env: and file: references."""
        indirect = isinstance(raw, str) and raw.startswith(("env:", "file:"))
        if indirect:
            raw = self._resolve(section, key, str(raw))
        if kind is float and isinstance(raw, int) and not isinstance(raw, bool):
            return float(raw)
        if type(raw) is kind:
            return raw
        if indirect and isinstance(raw, str):
            try:
                if kind is bool:
                    return {"true": True, "false": False}[raw.lower()]
                return kind(raw)
            except (ValueError, KeyError):
                pass
        words = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}
        raise self.wrong(section, key, f"must be {words[kind]}")

    def _resolve(self, section: str, key: str, reference: str) -> str:
        scheme, _, target = reference.partition(":")
        if scheme == "env":
            if target not in os.environ:
                raise self.wrong(section, key, f"the environment variable {target} is not set")
            return os.environ[target]
        try:
            return (self.directory / target).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise self.wrong(section, key, f"the file {target} cannot be read as text") from None


def _check(config: NodeConfig, source: _Source) -> None:
    def need(condition: bool, section: str, key: str, what: str) -> None:
        if not condition:
            raise source.wrong(section, key, what)

    server = config.server
    need(0 < server.port < 65536, "server", "port", "must be between 1 and 65535")
    need(bool(server.host), "server", "host", "must not be empty")
    need(server.max_body_bytes >= 4096, "server", "max_body_bytes", "must be at least 4096")
    for key, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
        if getattr(server, key):
            need(bool(getattr(server, other)), "server", key, f"needs {other} as well")
            need(config.path(getattr(server, key)).is_file(), "server", key, "there is no such file")
    if server.public_url:
        need(
            bool(_URL.fullmatch(server.public_url)),
            "server",
            "public_url",
            "must be http(s)://HOST or http(s)://HOST:PORT, without a path",
        )
    if config.log.origin:
        need(
            bool(_ORIGIN.fullmatch(config.log.origin)),
            "log",
            "origin",
            "must be a host and path without scheme, as in bank.example/consent",
        )
    if config.log.trust_policy:
        there = config.path(config.log.trust_policy).is_file()
        need(there, "log", "trust_policy", "there is no such file")
    if config.consent.policy:
        need(config.path(config.consent.policy).is_file(), "consent", "policy", "there is no such file")
    need(0 <= config.consent.vendor < 1 << 16, "consent", "vendor", "must be between 0 and 65535")
    try:
        backend = sa.make_url(config.database.url).get_backend_name()
    except sa.exc.ArgumentError:
        backend = ""
    need(
        backend in ("sqlite", "postgresql"),
        "database",
        "url",
        "must be sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME",
    )
    need(config.engine.blinder in ("auto", "cryptography", "ipp"), "engine", "blinder",
         "must be auto, cryptography or ipp")  # fmt: skip
    need(0 <= config.engine.workers <= 256, "engine", "workers", "must be between 0 and 256")
    need(1 <= config.jobs.threads <= 64, "jobs", "threads", "must be between 1 and 64")
    need(0.01 <= config.jobs.feed_seconds <= 60, "jobs", "feed_seconds", "must be between 0.01 and 60")
    need(0 < config.budget.epsilon < 1e6, "budget", "epsilon", "must be above 0")
    need(0 <= config.budget.delta < 1, "budget", "delta", "must be at least 0 and below 1")
    need(
        0 < config.peers.timeout_seconds <= 3600,
        "peers",
        "timeout_seconds",
        "must be above 0, at most an hour",
    )
    need(config.peers.max_response_bytes >= 4096, "peers", "max_response_bytes", "must be at least 4096")
    need(
        1 <= config.peers.clock_skew_seconds <= 600,
        "peers",
        "clock_skew_seconds",
        "must be between 1 and 600",
    )
    if config.peers.ca_certificates:
        need(
            config.path(config.peers.ca_certificates).is_file(),
            "peers",
            "ca_certificates",
            "there is no such file",
        )
