"""`comity doctor`: everything about a node that can be checked from outside its process.

Each check is small, independent and says what to do. One that cannot be made because another failed is
left out, so that the list shows causes and not consequences.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import httpx
import sqlalchemy as sa

from comity.config import NodeConfig, load_config
from comity.database import check_migrated, open_engine
from privacy.errors import ComityError, Tampered
from privacy.keyfiles import read_key_file
from privacy.keys import KeyRing
from privacy.signing import SigningKey

__all__ = ["Finding", "Verdict", "examine"]

Clock = Callable[[], dt.datetime]
_PATIENCE = 4.0  # seconds
_UNSEEN = dt.timedelta(minutes=10)  # that the newest entries may go without a witness's cosignature
_SKEW = 5.0  # seconds a clock may be off before it is worth a word


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, how it came out, in words, and what to do about it."""

    check: str
    verdict: Verdict
    detail: str
    advice: str = ""


def examine(directory: Path, *, clock: Clock) -> Iterator[Finding]:
    """Check the node in `directory`, yielding findings as they are made. Changes nothing."""
    try:
        config = load_config(directory)
    except ComityError as e:
        yield _failed("configuration", e)
        return
    yield _ok("configuration", f"{config.name}, {config.public_url}")
    yield _attempt("exposure", lambda: _exposure(config))
    key = None
    try:
        key = SigningKey.load(config.identity_key)
        KeyRing.load(config.ring_key)
        read_key_file(config.operator_key)
        yield _ok("keys", f"fingerprint {key.public.fingerprint}; files readable by their owner only")
    except ComityError as e:
        yield _failed("keys", e)
    yield _attempt("engine", lambda: _engine(config))
    yield _port(config, key)
    engine = open_engine(config.database_url)
    try:
        try:
            check_migrated(engine)
            with engine.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
        except ComityError as e:
            yield _failed("database", e)
            return
        yield _ok("database", f"{engine.dialect.name}, tables of this version")
        if key is not None:
            yield _attempt("log", lambda: _log(config, key.public.bytes32))
            yield _witnesses(config, engine, key.public.bytes32, clock)
        yield from _partners(config, engine, clock)
    finally:
        engine.dispose()


def _ok(check: str, detail: str) -> Finding:
    return Finding(check, Verdict.OK, detail)


def _failed(check: str, error: ComityError) -> Finding:
    return Finding(check, Verdict.FAILED, error.detail, error.advice)


def _attempt(check: str, work: Callable[[], str]) -> Finding:
    try:
        return _ok(check, work())
    except ComityError as e:
        return _failed(check, e)


def _exposure(config: NodeConfig) -> str:
    config.check_exposed()
    if config.server.tls_certificate:
        return "TLS"
    return "plain HTTP behind a proxy" if config.server.behind_proxy else "plain HTTP on loopback"


def _engine(config: NodeConfig) -> str:
    from clean_room.group.engines import choose_blinder

    chosen = choose_blinder(config.engine.blinder)
    return f"{chosen.name}, {config.engine.workers or 'no'} worker processes"


def _log(config: NodeConfig, public_key: bytes) -> str:
    from consent.notes import VerifierKey
    from consent.verify import directory_reader, verify_log

    if not (config.log_dir / "checkpoint").exists():
        return "not begun; the node has not run yet"
    report = verify_log(directory_reader(config.log_dir), VerifierKey(config.log_origin, public_key))
    if not report.ok:
        raise Tampered(report.detail, advice="Find out why before anything else: see comity log verify.")
    return f"{report.size} entries, verified up to the signed head"


def _witnesses(config: NodeConfig, engine: sa.Engine, public_key: bytes, clock: Clock) -> Finding:
    from comity.witnessing import read_trust_policy
    from consent.cosignatures import open_cosigned, witness_key
    from consent.notes import VerifierKey
    from consent.sql import SqlStore
    from consent.static import COSIGNED

    try:
        policy = read_trust_policy(config)
        if not (config.log_dir / "checkpoint").exists():
            return _ok("witnesses", "none yet: the log is not begun")
        with SqlStore(engine).read() as view:
            joined = {row.name: row.vkey for row in view.partners() if row.removed_at is None}
            caught = sorted({row.origin for row in view.split_views()})
            size = view.head().size
        if caught:
            advice = "Both signed checkpoints are kept: comity log split-views. Ask the log's owner."
            return Finding("witnesses", Verdict.FAILED, f"caught forking: {', '.join(caught)}", advice)
        names = {witness_key(VerifierKey.from_text(vkey)): name for name, vkey in joined.items()}
        names.update({w.key: w.name for w in policy.witnesses} if policy is not None else {})
        if not names:
            return _ok("witnesses", "none yet: partners are, once an agreement is made")
        advice = "While they do not answer, nobody else can tell a fork or a rollback of this log."
        if not (config.log_dir / COSIGNED).exists():
            return Finding("witnesses", Verdict.WARNING, "nobody has cosigned the log yet", advice)
        log = VerifierKey(config.log_origin, public_key)
        found = open_cosigned((config.log_dir / COSIGNED).read_bytes(), log, list(names))
    except OSError as e:
        return Finding("witnesses", Verdict.FAILED, f"the cosigned checkpoint cannot be read ({e.strerror})")
    except ComityError as e:
        return _failed("witnesses", e)
    by = ", ".join(sorted(names[made.key] for made in found.cosignatures)) or "nobody known"
    behind = size - found.checkpoint.size
    detail = f"{found.checkpoint.size} entries cosigned by {by}; {behind} newer"
    newest = max((made.at for made in found.cosignatures), default=None)
    if newest is None or (behind and clock() - newest > _UNSEEN):
        return Finding("witnesses", Verdict.WARNING, detail, advice)
    return _ok("witnesses", detail)


def _port(config: NodeConfig, key: SigningKey | None) -> Finding:
    host, port = config.server.host, config.server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        return _ok("port", f"{host} port {port} is free; the node does not run")
    except OSError:
        pass
    try:
        # Its certificate is for the public name; that it is this node is shown by the key it answers with.
        local = httpx.Client(timeout=_PATIENCE / 2, trust_env=False, verify=False)  # noqa: S501
        with local:
            answer = local.get(f"{config.local_url}/v1/node")
        said = answer.json().get("public_key") if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError, AttributeError):
        said = None
    if key is not None and said == key.public.to_text():
        return _ok("port", f"the node runs on {host} port {port}")
    return Finding(
        "port",
        Verdict.FAILED,
        f"{host} port {port} is not to be had, and what answers there is not this node.",
        "Stop the other process or change [server] port in node.toml.",
    )


def _partners(config: NodeConfig, engine: sa.Engine, clock: Clock) -> Iterator[Finding]:
    from clean_room.storage import Store

    open_states = ("invited", "accepting", "agreed")
    rows = [row for row in Store(engine).collaborations.all() if row.state in open_states]
    pins = {row.partner: (row.partner_url, row.partner_key) for row in rows}
    if not pins:
        yield _ok("partners", "none yet")
    verify = str(config.path(config.peers.ca_certificates)) if config.peers.ca_certificates else True
    for name, (url, key) in sorted(pins.items()):
        check = f"partner {name}"
        try:
            answer = httpx.get(
                f"{url.rstrip('/')}/v1/node", timeout=_PATIENCE, trust_env=False, verify=verify
            )
            card = answer.json()
            said, date = card.get("public_key"), answer.headers.get("date")
        except (httpx.HTTPError, ValueError, AttributeError, OSError) as e:
            advice = "Its node may be down; jobs with it wait or fail until it is back."
            yield Finding(check, Verdict.FAILED, f"not reachable at {url} ({type(e).__name__})", advice)
            continue
        if said != key:
            advice = "Compare fingerprints with the partner by another way before doing anything else."
            yield Finding(check, Verdict.FAILED, "answers with another key than the one agreed", advice)
            continue
        yield _clock(check, date, clock())


def _clock(check: str, date: str | None, now: dt.datetime) -> Finding:
    try:
        theirs = email.utils.parsedate_to_datetime(date or "")
    except ValueError:
        return _ok(check, "reachable, right key")
    off = abs((now - theirs).total_seconds())
    if off > _SKEW:
        advice = "Set both clocks by NTP; requests signed too far apart are refused."
        return Finding(check, Verdict.WARNING, f"right key, but its clock is {off:.0f} s from ours", advice)
    return _ok(check, "reachable, right key, clocks agree")
