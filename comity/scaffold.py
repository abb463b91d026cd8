"""Making a new node's directory: configuration, keys, database, first admin key."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from comity.access import AccessKeys
from comity.config import CONFIG_FILE, NodeConfig, load_config
from comity.database import migrate, open_engine
from comity.errors import ConfigError
from privacy.errors import StorageError
from privacy.keyfiles import write_key_file
from privacy.keys import KeyRing
from privacy.signing import SigningKey

__all__ = ["MadeNode", "make_node"]

_TEMPLATE = """\
# Configuration of one Comity node. Every key is optional but name; what is commented out shows the default.
# A value may stand elsewhere: "env:NAME" is read from the environment, "file:PATH" from a file.

# How partners know this node: lower-case letters, digits, hyphens.
name = {name}

[server]
host = {host}
port = {port}
# The URL partners reach this node at. Their requests are signed for exactly this host and port.
{public_url}
# An address that is not loopback needs TLS, or a proxy in front that ends it.
# tls_certificate = "tls/certificate.pem"
# tls_key = "tls/key.pem"
# behind_proxy = false
# max_body_bytes = 67108864

[database]
# SQLite by default. For production: "postgresql+psycopg://comity@db.example/comity", or "env:DATABASE_URL".
url = {database_url}

[log]
# Origin of the transparency log and name of its key: a URL without scheme. It cannot change later.
origin = {origin}
# Further witnesses and the quorum (c2sp.org/tlog-policy). Without it partners are each other's witnesses.
# trust_policy = "witnesses.policy"

[paths]
# keys = "keys"
# log = "log"
# data = "data"
# datasets = "datasets.toml"

[engine]
# Curve arithmetic: auto, cryptography or ipp (the extra [fast]). Worker processes: one a core by default.
# blinder = "auto"
# workers = 2

[jobs]
# threads = 2
# feed_seconds = 0.25

[budget]
# Privacy loss allowed per dataset lineage, partner and calendar month.
# epsilon = 8.0
# delta = 1e-4

[peers]
# timeout_seconds = 30.0
# clock_skew_seconds = 60.0
# max_response_bytes = 268435456
# A PEM file of certificate authorities to trust for partners, instead of the system's.
# ca_certificates = "tls/partners.pem"
"""


@dataclass(frozen=True, slots=True)
class MadeNode:
    """A node just made."""

    config: NodeConfig
    public_key: str
    fingerprint: str


def make_node(
    directory: Path,
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8440,
    public_url: str = "",
    origin: str = "",
    database_url: str = "sqlite:///comity.db",
    clock: Callable[[], dt.datetime],
    random: Callable[[int], bytes],
) -> MadeNode:
    """Make a node in `directory`, which must be empty or not exist; on any failure nothing is left there.

    Raises `ConfigError` (an occupied directory, unusable values) or `StorageError` (disk, database).
    """
    made = not directory.exists()
    if not made and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(
            f"{directory} is there already and not empty.",
            advice="Name a new directory; an existing node is never overwritten.",
            code="already_exists",
        )
    name = name or re.sub(r"[^a-z0-9-]+", "-", directory.resolve().name.lower()).strip("-") or "node"
    quoted = partial(json.dumps, ensure_ascii=True)  # a JSON string is a TOML basic string
    text = _TEMPLATE.format(
        name=quoted(name),
        host=quoted(host),
        port=port,
        public_url=f"public_url = {quoted(public_url)}"
        if public_url
        else '# public_url = "https://comity.example"',
        database_url=quoted(database_url),
        origin=quoted(origin or f"{name}.comity.invalid/log"),
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG_FILE).write_text(text, encoding="utf-8")
        config = load_config(directory)
        for folder in (config.keys_dir, config.log_dir, config.data_dir):
            folder.mkdir(mode=0o700)
        key = SigningKey.generate()
        key.save(config.identity_key)
        KeyRing.create(config.ring_key)
        engine = open_engine(config.database_url)
        try:
            migrate(engine)
            operator = AccessKeys(engine, clock=clock, random=random).create("operator", "admin")
        finally:
            engine.dispose()
        write_key_file(config.operator_key, operator.token.encode() + b"\n")
    except BaseException as e:
        _undo(directory, made)
        if isinstance(e, OSError):
            raise StorageError(f"{directory} cannot be written: {e.strerror}.") from None
        raise
    return MadeNode(config, key.public.to_text(), key.public.fingerprint)


def _undo(directory: Path, made: bool) -> None:
    if made:
        shutil.rmtree(directory, ignore_errors=True)
        return
    for child in directory.iterdir():
        if child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
        else:
            child.unlink(missing_ok=True)
