"""Checking a log offline, from its entries up to the signed checkpoint.

`verify_log` needs nothing but the published files and the log's key: it re-derives every tile from the
entries, compares it with what is published, and compares the root with what was signed. With a trust policy
it also asks that a quorum of witnesses has cosigned it. `verify_ledger` is for the node itself: it goes on to
the database, every sealed payload, and the state derived from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from consent.checkpoint import Checkpoint
from consent.cosignatures import Cosignature
from consent.encoding import to_micros
from consent.errors import InvalidNote
from consent.ledger import Ledger
from consent.notes import MAX_NOTE, VerifierKey
from consent.rebuild import Missing, Reader, Rebuilt, directory_reader, rebuild, url_reader
from consent.self_check import check_database
from consent.static import CHECKPOINT, COSIGNED
from consent.trust_policy import TrustPolicy
from privacy.errors import PeerUnreachable, Tampered

__all__ = ["LogReport", "Outcome", "Reader", "directory_reader", "url_reader", "verify_ledger", "verify_log"]


class Outcome(StrEnum):
    """What the check found; the worst first wins. `exit_code` is what a command ends with."""

    OK = "ok"
    TAMPERED = "tampered"  # something signed, hashed or sealed does not hold
    WRONG_KEY = "wrong_key"  # no signature by the key that was given
    INCOMPLETE = "incomplete"  # a file that the checkpoint promises is not there
    UNWITNESSED = "unwitnessed"  # sound, but not cosigned as the trust policy asks
    STALE = "stale"  # sound, but older than what was already known or than the age allowed
    UNREACHABLE = "unreachable"  # the log could not be read at all

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Outcome.OK: 0,
    Outcome.UNREACHABLE: 3,
    Outcome.TAMPERED: 4,
    Outcome.WRONG_KEY: 4,
    Outcome.INCOMPLETE: 5,
    Outcome.STALE: 6,
    Outcome.UNWITNESSED: 7,
}


@dataclass(frozen=True, slots=True)
class LogReport:
    """What was found, of which log.

    `detail` is one sentence for people. `newest` is the last entry's time in microseconds. Under a trust
    policy `witnessed` is how many of the entries a quorum has cosigned, `cosignatures` by whom and when,
    and `newest` is about those entries.
    """

    outcome: Outcome
    detail: str
    origin: str
    size: int = 0
    root: bytes = b""
    newest: int | None = None
    checkpoint: Checkpoint | None = None
    witnessed: int | None = None
    cosignatures: tuple[Cosignature, ...] = ()

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK


def verify_log(
    read: Reader,
    key: VerifierKey,
    *,
    known: Checkpoint | None = None,
    not_older_than: datetime | None = None,
    policy: TrustPolicy | None = None,
    each: Callable[[int], None] | None = None,
    workers: int = 0,
) -> LogReport:
    """Check a whole published log. Never raises for what it finds; says so in the report.

    `known` is a checkpoint seen before: the log must extend it. `not_older_than` asks that the last entry
    be that recent. `policy` asks that a quorum has cosigned the checkpoint, or, where the log has just
    grown, the one published as `checkpoint.cosigned`, which the log must extend. `each(n)` is called with
    the number of entries checked so far. A long log is hashed in `workers` processes beside this one.
    """
    try:
        # In this order: of a log that grows meanwhile, the newest checkpoint must be the later one.
        cosigned, newest = read(COSIGNED), read(CHECKPOINT)
        if newest is None:
            raise Missing("The checkpoint")
        opened = _open(newest, key, policy)
        try:
            earlier = None if cosigned is None else _open(cosigned, key, policy)
        except _OtherKey:
            raise Tampered(
                "The cosigned checkpoint is not signed by the key that signed the newest."
            ) from None
        seen = [c for c in (known, earlier.checkpoint if earlier else None) if c is not None]
        if any(c.size > opened.checkpoint.size for c in seen):
            detail, head = "The log is smaller than a checkpoint seen before.", opened.checkpoint
            return LogReport(Outcome.STALE, detail, key.name, head.size, head.root)
        size = opened.checkpoint.size
        built = rebuild(read, size, {c.size for c in seen if c.size < size}, each, workers)
        return _judge(built, opened, earlier, seen=seen, policy=policy, since=not_older_than)
    except _OtherKey:
        return LogReport(Outcome.WRONG_KEY, "The checkpoint is not signed by the key given.", key.name)
    except Missing as missing:
        return LogReport(Outcome.INCOMPLETE, f"{missing} is missing.", key.name)
    except PeerUnreachable as error:
        return LogReport(Outcome.UNREACHABLE, error.detail, key.name)
    except Tampered as error:
        return LogReport(Outcome.TAMPERED, error.detail, key.name)


class _OtherKey(Exception):
    """The checkpoint is well-formed, but not by the key that was given."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A checkpoint of the log, who of the policy has cosigned it, and whether that is a quorum."""

    checkpoint: Checkpoint
    cosignatures: tuple[Cosignature, ...]
    enough: bool


def _open(data: bytes, key: VerifierKey, policy: TrustPolicy | None) -> _Opened:
    if len(data) > MAX_NOTE:
        raise InvalidNote("The checkpoint is too large.")
    try:
        opened, enough = (policy or TrustPolicy()).open(data, key)
    except InvalidNote as error:
        if error.code == "unknown_signer":
            raise _OtherKey from error
        raise
    return _Opened(opened.checkpoint, opened.cosignatures, enough)


def _judge(
    built: Rebuilt,
    opened: _Opened,
    earlier: _Opened | None,
    *,
    seen: list[Checkpoint],
    policy: TrustPolicy | None,
    since: datetime | None,
) -> LogReport:
    checkpoint, size = opened.checkpoint, opened.checkpoint.size
    if built.tip.root != checkpoint.root:
        raise Tampered("The entries do not have the root that was signed.")
    if any(built.tips.get(c.size, built.tip).root != c.root for c in seen):
        raise Tampered("The log does not extend a checkpoint seen before: its history was rewritten.")
    detail = f"{size} entries lead to the signed root."
    tip, believed = built.tip, None
    if policy is not None:
        believed = next((o for o in (opened, earlier) if o is not None and o.enough), None)
        if believed is not None:
            tip = built.tips.get(believed.checkpoint.size, tip)
            detail = detail[:-1] + f"; a quorum has cosigned {believed.checkpoint.size} of them."
    outcome = Outcome.OK
    if policy is not None and believed is None:
        outcome, detail = Outcome.UNWITNESSED, "No quorum of the trust policy's witnesses has cosigned."
    elif since is not None and (tip.newest is None or tip.newest < to_micros(since)):
        outcome, detail = Outcome.STALE, "The log's last entry is older than allowed."
    return LogReport(
        outcome,
        detail,
        checkpoint.origin,
        size,
        checkpoint.root,
        tip.newest,
        checkpoint,
        witnessed=None if believed is None else believed.checkpoint.size,
        cosignatures=() if believed is None else believed.cosignatures,
    )


# the node's own check


def verify_ledger(ledger: Ledger) -> LogReport:
    """Check the database against itself and against the published log.

    What is checked of the database is said in `consent.self_check`. Never raises for what it finds.
    """
    try:
        with ledger.store.read() as view:
            size = check_database(ledger, view)
    except Tampered as error:
        return LogReport(Outcome.TAMPERED, error.detail, ledger.origin)
    static = ledger.log.static
    if static is None:
        return LogReport(Outcome.OK, f"{size} entries and what they open to hold.", ledger.origin, size)
    return verify_log(directory_reader(static.directory), ledger.key)
