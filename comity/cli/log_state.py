"""Proofs of what stands about a person now: made on the node's directory, checked anywhere."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.opening import opened
from comity.cli.output import moment, show, table

if TYPE_CHECKING:
    from consent.notes import VerifierKey
    from consent.state_proofs import ProvedState

_MOST_BYTES = 4 << 20


def prove_state(
    person: tuple[str, bytes] | None,
    handle: str,
    purpose: str,
    partner: str,
    *,
    directory: Path,
    as_json: bool,
) -> None:
    """`comity log prove --state`, of a person by (kind, canonical identifier) or by handle."""
    from consent.state_proofs import places_of
    from consent.state_roots import StateRoots

    with opened(directory) as records:
        roots = StateRoots(records.ledger)
        if person is None:
            records.ledger.policy.require(purpose)
            proof = roots.prove_subject(_handle(handle), places_of(purpose, partner))
        else:
            proof = roots.prove(person[1], person[0], purpose, partner)
        vkey = records.ledger.vkey
        proved = proof.verify(records.ledger.key)
        now = records.clock()
        policy = records.ledger.policy
    value = {"vkey": vkey, "proof": proof.to_dict()}
    lines = [f"handle {proof.handle.hex()}", *_lines(proved)]
    decision = proved.decide(purpose, partner, _micros(now), policy)
    lines.append(
        f"{purpose} with {partner}: {'allowed' if decision.allowed else 'denied'} ({decision.reason})"
    )
    show(as_json, value, lines)


def check_proof(file: Path, key: VerifierKey, purpose: str, partner: str, as_json: bool) -> None:
    """`comity log check-state`."""
    from consent.encoding import from_micros, parse_json
    from consent.purposes import PurposePolicy
    from consent.state_proofs import StateProof
    from privacy.errors import BadInput, Tampered

    with file.open("rb") as data:
        document = parse_json(data.read(_MOST_BYTES + 1), limit=_MOST_BYTES)
    found = document.get("proof", document) if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise Tampered("This is not a state proof.", code="malformed_proof")
    proof = StateProof.from_dict(found)
    proved = proof.verify(key)
    value: dict[str, object] = {
        "ok": True,
        "handle": proof.handle.hex(),
        "state_after": proved.size,
        "recorded_at": from_micros(proved.recorded_at),
        "entries_since": proved.since,
        "log_size": proved.checkpoint.size,
        "places": [place.to_dict() | {"siblings": len(place.path.siblings)} for place in proof.places],
    }
    lines = [f"handle {proof.handle.hex()}", *_lines(proved)]
    if purpose or partner:
        if not purpose or not partner:
            raise BadInput("A decision is about a purpose and a partner.")
        at = _micros(dt.datetime.now(dt.UTC))
        decision = proved.decide(purpose, partner, at, PurposePolicy.default())
        value["allowed"], value["reason"] = decision.allowed, decision.reason.value
        answer = "allowed" if decision.allowed else "denied"
        lines.append(f"{purpose} with {partner}: {answer} ({decision.reason})")
    show(as_json, value, lines)


def _lines(proved: ProvedState) -> list[str]:
    from consent.encoding import from_micros

    rows = []
    for (purpose, partner), standing in proved.state.items():
        times = (standing.granted_at, standing.restricted_at) if standing else (None, None)
        named = zip(("granted", "restricted"), times, strict=True)
        what = [f"{name} {moment(from_micros(at))}" for name, at in named if at is not None]
        rows.append((purpose, partner, ", ".join(what) or "nothing"))
    since = (
        "nothing was recorded since" if not proved.since else f"{proved.since} entries were recorded since"
    )
    head = f"the state after {proved.size} entries, {moment(from_micros(proved.recorded_at))}; {since}"
    return [head, *table(["purpose", "partner", "stands"], rows)]


def _micros(at: dt.datetime) -> int:
    from consent.encoding import to_micros

    return to_micros(at)


def _handle(text: str) -> bytes:
    from privacy.errors import BadInput

    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 16:
        raise BadInput("A handle is 32 hexadecimal digits.")
    return found
