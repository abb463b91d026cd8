"""Proof of what the state says about one person now, complete enough to check offline.

A `StateProof` holds, for each purpose and partner that a decision depends on, the path of that place in the
state tree (`consent.state_tree`), and the log entry of type `state.committed` that commits to the tree's
root, with its opening and its inclusion proof in a signed checkpoint. The entry's payload is canonical JSON
with the members `effective_at`, `pairs`, `root` (64 hexadecimal digits), `size` and `v`: the state after the
log's first `size` entries. The entry itself is number `size` or later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from consent.checkpoint import Checkpoint
from consent.encoding import commitment, parse_json, parse_time, render_time
from consent.errors import InvalidProof
from consent.events import EVERY_PARTNER, EventType
from consent.notes import VerifierKey
from consent.proofs import EntryProof, from_base64, integer_from, path_from, to_base64
from consent.purposes import PurposePolicy, ancestry
from consent.state import Decision, Standing, StateKey, decide
from consent.state_tree import Pair, TreeProof, standing_value, state_key, verify_path
from privacy.errors import BadInput, ComityError, Misuse, Tampered

__all__ = ["PlaceProof", "ProvedState", "StateCommitment", "StateProof", "places_of"]

_LIMIT = 1 << 16
_MOST_PLACES = 64
_MEMBERS = tuple(sorted(Standing._fields))
_TIMES = {"expires_at", "granted_at", "restricted_at"}


def places_of(purpose: str, partner: str) -> list[StateKey]:
    """Every (purpose, partner) that `consent.state.decide` looks at for a question."""
    return [(above, who) for above in ancestry(purpose) for who in dict.fromkeys((partner, EVERY_PARTNER))]


@dataclass(frozen=True, slots=True)
class PlaceProof:
    """What stands at one (purpose, partner) of a subject: a salted standing, or provably nothing."""

    purpose: str
    partner: str
    standing: Standing | None
    salt: bytes | None = field(repr=False)
    path: TreeProof = field(repr=False)

    def verify(self, handle: bytes, root: bytes) -> None:
        """Raises InvalidProof unless the tree with this root says so."""
        value = verify_path(self.path, state_key(handle, self.purpose, self.partner), root)
        expected = None
        if self.standing is not None:
            expected = standing_value(self.salt or b"", self.standing)
        if value != expected:
            raise InvalidProof("The state tree holds something else at this place.")

    def to_dict(self) -> dict[str, object]:
        end = self.path.end
        return {
            "purpose": self.purpose,
            "partner": self.partner,
            "standing": None if self.standing is None else _standing_dict(self.standing),
            "salt": None if self.salt is None else to_base64(self.salt),
            "siblings": [to_base64(item) for item in self.path.siblings],
            "end": None if end is None else {"key": to_base64(end.key), "value": to_base64(end.value)},
        }

    @classmethod
    def from_dict(cls, value: object) -> PlaceProof:
        """Raises Tampered for anything malformed."""
        if not isinstance(value, Mapping):
            raise _malformed()
        siblings, end, standing, salt = (value.get(n) for n in ("siblings", "end", "standing", "salt"))
        if not isinstance(siblings, list) or len(siblings) > 256 or (standing is None) != (salt is None):
            raise _malformed()
        path = tuple(
            item for start in range(0, len(siblings), 64) for item in path_from(siblings[start:][:64])
        )
        if end is not None:
            if not isinstance(end, Mapping):
                raise _malformed()
            end = Pair(from_base64(end.get("key"), size=32), from_base64(end.get("value"), size=32))
        return cls(
            str(value.get("purpose", "")),
            str(value.get("partner", "")),
            None if standing is None else _standing_from(standing),
            None if salt is None else from_base64(salt, size=32),
            TreeProof(path, end),
        )


def _malformed() -> Tampered:
    return Tampered("A state proof is malformed.", code="malformed_proof")


def _standing_dict(standing: Standing) -> dict[str, object]:
    found = standing._asdict()
    return {
        name: render_time(found[name]) if name in _TIMES and found[name] is not None else found[name]
        for name in _MEMBERS
    }


def _standing_from(value: object) -> Standing:
    if not isinstance(value, Mapping) or set(value) != set(_MEMBERS):
        raise _malformed()
    fields: dict[str, int | str | None] = {}
    for name, item in value.items():
        if item is None:
            fields[name] = None
        elif name in _TIMES:
            try:
                fields[name] = parse_time(str(item))
            except BadInput:
                raise _malformed() from None
        elif name == "restriction":
            if str(item) not in {t.value for t in EventType}:
                raise _malformed()
            fields[name] = str(item)
        else:
            fields[name] = integer_from(item)
    return Standing(**fields)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class StateCommitment:
    """A `state.committed` entry opened: the root, and the checkpoint that holds the entry."""

    salt: bytes = field(repr=False)
    payload: bytes = field(repr=False)
    entry: EntryProof

    def verify(self, key: VerifierKey) -> tuple[bytes, int, int, Checkpoint]:
        """(root, log size the state is of, when, checkpoint). Raises Tampered."""
        leaf, checkpoint = self.entry.verify(key)
        if leaf.type != EventType.STATE_COMMITTED.value or leaf.commit != commitment(self.salt, self.payload):
            raise Tampered("The log entry does not commit to this state root.", code="wrong_commitment")
        try:
            body = parse_json(self.payload, limit=_LIMIT)
            root, size = bytes.fromhex(str(body["root"])), integer_from(body["size"])
        except (ComityError, KeyError, TypeError, ValueError) as error:
            raise Tampered("The committed payload is not a state root.", code="wrong_commitment") from error
        if len(root) != 32 or size > self.entry.index:
            raise Tampered("The committed payload is not a state root.", code="wrong_commitment")
        return root, size, leaf.recorded_at, checkpoint

    def to_dict(self) -> dict[str, object]:
        return {
            "salt": to_base64(self.salt),
            "payload": to_base64(self.payload),
            "entry": self.entry.to_dict(),
        }

    @classmethod
    def from_dict(cls, value: object) -> StateCommitment:
        if not isinstance(value, Mapping) or not isinstance(value.get("entry"), Mapping):
            raise _malformed()
        return cls(
            from_base64(value.get("salt"), size=32),
            from_base64(value.get("payload")),
            EntryProof.from_dict(value["entry"]),
        )


@dataclass(frozen=True, slots=True)
class ProvedState:
    """What a proof proved. `size`: the state is that after so many entries; `recorded_at`: microseconds.

    `since` is how many entries the checkpoint holds after the commitment: 0 when nothing at all has been
    recorded later. Of later entries the proof says nothing.
    """

    state: Mapping[StateKey, Standing | None]
    size: int
    recorded_at: int
    since: int
    checkpoint: Checkpoint

    def decide(self, purpose: str, partner: str, at: int, policy: PurposePolicy) -> Decision:
        """The rules of `consent.state` on what was proved.

        Raises InvalidProof where the proof leaves a place open that the answer depends on.
        """
        if any(place not in self.state for place in places_of(purpose, partner)):
            raise InvalidProof("The proof leaves open what the answer depends on.")
        known = {place: standing for place, standing in self.state.items() if standing is not None}
        return decide(known, purpose, partner, at, policy)


@dataclass(frozen=True, slots=True)
class StateProof:
    """What the state says about one subject. `handle` is the subject's random 16 bytes, not an identifier."""

    handle: bytes
    places: Sequence[PlaceProof]
    committed: StateCommitment

    def verify(self, key: VerifierKey) -> ProvedState:
        """Check everything offline against the log's key. Raises Tampered (InvalidProof, InvalidNote)."""
        root, size, at, checkpoint = self.committed.verify(key)
        if not self.places or len(self.handle) != 16:
            raise InvalidProof("A state proof is about a subject and at least one place.")
        for place in self.places:
            place.verify(self.handle, root)
        state = {(place.purpose, place.partner): place.standing for place in self.places}
        return ProvedState(state, size, at, checkpoint.size - self.committed.entry.index - 1, checkpoint)

    def to_dict(self) -> dict[str, object]:
        return {
            "v": 1,
            "handle": self.handle.hex(),
            "places": [place.to_dict() for place in self.places],
            "committed": self.committed.to_dict(),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> StateProof:
        """Raises Tampered for anything malformed."""
        places = value.get("places")
        if value.get("v") != 1 or not isinstance(places, list) or len(places) > _MOST_PLACES:
            raise _malformed()
        try:
            handle = bytes.fromhex(str(value.get("handle", "")))
        except ValueError:
            raise _malformed() from None
        if len(handle) != 16:
            raise _malformed()
        return cls(
            handle,
            tuple(PlaceProof.from_dict(place) for place in places),
            StateCommitment.from_dict(value.get("committed")),
        )


def checked_places(places: Sequence[StateKey]) -> list[StateKey]:
    """Each place once; raises Misuse for none or too many."""
    found = list(dict.fromkeys(places))
    if not 1 <= len(found) <= _MOST_PLACES:
        raise Misuse(f"A state proof is about 1 to {_MOST_PLACES} places.")
    return found
