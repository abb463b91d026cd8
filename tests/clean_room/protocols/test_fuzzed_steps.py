"""Every step of every protocol, given everything but the message that is due.

One run of each protocol is recorded as `Arrival`s: a state, and the bytes that came to it. What is then sent
in their place is derived from the type of each field, so a new protocol needs a run in `RUNS` and nothing
else; without one, `test_every_step_of_the_table_and_every_message_is_in_a_run` fails.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clean_room.errors import IllegalStep, PeerViolation, Refused, Tampered
from clean_room.group import BlindingPool, new_scalar
from clean_room.group.points import WHOLE, Points
from clean_room.group.ristretto import new_key
from clean_room.protocols import (
    ActivateTerms,
    AlignTerms,
    ColumnTerms,
    EpochTerms,
    MeasureTerms,
    OverlapTerms,
    Padding,
    PartnerList,
    ReachTerms,
    RefreshTerms,
    WaterfallTerms,
    activation,
    alignment,
    cardinality,
    circle,
    epochs,
    parse_message,
    reach,
    receive,
    sums,
    waterfall,
)
from clean_room.protocols.messages import MESSAGES, InputCommitment, Message
from clean_room.protocols.states import TABLE
from tests.clean_room.protocols.conftest import attestations, column

VIOLATIONS = (PeerViolation, Tampered, Refused)
LOW_ORDER = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]
NON_CANONICAL = [(2**255 - 19).to_bytes(32, "little"), (2**255 - 1).to_bytes(32, "little"), b"\xff" * 32]
FITTING = {
    # Whose column a ciphertext holds shows when the sum is opened.
    ("ValueColumns", "key", "another's"),
    ("ValueColumns", "ciphertexts", "another's"),
    # Compared with the analyst's own results and used for nothing else: what is no point equals none.
    *(("PairPoints", "returned", f"bad point {bad}") for bad in ("0000", "0100", "ecff", "edff", "ffff")),
    # Which of the points that are there go is the sender's to say.
    *(
        (kind, name, "another's")
        for kind, name in (
            ("AnalystChange", "gone"),
            ("ContributorChange", "returned_gone"),
            ("ContributorChange", "own_gone"),
        )
    ),
    # Every point of the curve is the base point under some key.
    *(
        (kind, "header", label)
        for kind in ("ReachOwn", "ReachList")
        for label in ("a bit turned over", "another's")
    ),
}
"""What does not matter, or what nobody can tell from the right thing."""


# ── recorded runs ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(eq=False)
class Arrival:
    """A message about to be taken. `state` is what must not change if it is refused."""

    run: str
    state: Any
    data: bytes
    take: Callable[[Message], Any] = field(repr=False)

    @property
    def message(self) -> Any:
        return parse_message(self.data)

    @property
    def name(self) -> str:
        return f"{self.run}-{type(self.state).__name__}-{type(self.message).__name__}"


class Tape(list[Arrival]):
    """The arrivals of one run."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run

    def take(self, state: Any, message: Message, **given: Any) -> Any:
        """Have `state` receive the message, as bytes."""
        return self.call(state, message, partial(_received, state, given))

    def call(self, state: Any, message: Message, take: Callable[[Message], Any]) -> Any:
        """Have `take` receive the message, as bytes."""
        self.append(Arrival(self._run, state, message.to_bytes(), take))
        return take(self[-1].message)


def _received(state: Any, given: dict[str, Any], message: Message) -> Any:
    return receive(state, message, **given)


GIVEN = {"job": "f" * 32, "purpose": "overlap.reach", "analyst": "bank", "contributor": "shop"}
PADDED = Padding(1, 4)
MINE, THEIRS = ["a", "b", "c"], ["b", "c", "d", "e"]


def _job() -> dict[str, Any]:
    return GIVEN | {"job": os.urandom(16).hex(), "padding": PADDED}


def _seal(tape: Tape, a: Any, c: Any) -> None:
    sealing, message = a.seal()
    done, reply = tape.take(c, message)
    assert tape.take(sealing, reply)[0].transcript == done.transcript


def _counted(tape: Tape, pool: BlindingPool, terms: OverlapTerms) -> tuple[Any, Any]:
    one, two = attestations()
    scalar = new_scalar(os.urandom)
    asked, offer = cardinality.start(
        terms, [column(MINE), column(["x"])], scalar=scalar, attestation=one, random=os.urandom, pool=pool
    )
    own: dict[str, Any] = {
        "scalar": new_scalar(os.urandom), "attestation": two, "random": os.urandom, "pool": pool,
        "matching": np.full((2, 1), 1),
    }  # fmt: skip
    theirs = [column(THEIRS)]
    c, accept = tape.call(None, offer, lambda m: cardinality.answer(m, terms, theirs, **own))  # type: ignore[arg-type]
    a, points = tape.take(asked, accept)
    c, reply = tape.take(c, points)
    a, none = tape.take(a, reply)
    assert none is None
    assert a.counts.tolist() == [[2], [0]]
    return a, c


def overlap(tape: Tape, pool: BlindingPool) -> None:
    segments = {"analyst_segments": ("a0", "a1"), "contributor_segments": ("c0",), "dummies": 2}
    _seal(tape, *_counted(tape, pool, OverlapTerms(**_job(), **segments)))


def measure(tape: Tape, pool: BlindingPool) -> None:
    segments = {"analyst_segments": ("a0", "a1"), "contributor_segments": ("c0",), "dummies": 2}
    columns = (ColumnTerms("spend", -1000, 1000), ColumnTerms("visits", 0, 50))
    a, c = _counted(tape, pool, MeasureTerms(**_job(), **segments, columns=columns))
    c, message = sums.offer_values(c, [[np.array([1, -2, 30, 4])], [np.array([5, 6, 7, 8])]])
    a, message = tape.take(a, message)
    c, message = tape.take(c, message, noise=np.zeros((2, 1, 2), dtype=np.int64))
    a, none = tape.take(a, message)
    assert none is None
    assert a.sums.tolist() == [[[-1, 11]], [[0, 0]]]
    _seal(tape, a, c)


def align(tape: Tape, pool: BlindingPool) -> None:
    one, two = attestations()
    terms = AlignTerms(**_job())
    own = {"random": os.urandom, "pool": pool}
    a, offer = alignment.start(terms, column(MINE), scalar=new_scalar(os.urandom), attestation=one, **own)
    mine = own | {"scalar": new_scalar(os.urandom), "attestation": two}
    c, accept = tape.call(None, offer, lambda m: alignment.answer(m, terms, column(THEIRS), **mine))  # type: ignore[arg-type]
    a, points = tape.take(a, accept)
    c, reply = tape.take(c, points)
    a, rows = tape.take(a, reply)
    c, none = tape.take(c, rows)
    assert none is None
    assert a.ids.equals(c.ids)
    assert len(a.ids) == 2
    _seal(tape, a, c)


def activate(tape: Tape, pool: BlindingPool) -> None:
    one, two = attestations()
    terms = ActivateTerms(**_job() | {"purpose": "activate.ads"}, profile="pair-1")
    own = {"random": os.urandom, "pool": pool}
    a, offer = activation.start(terms, column(MINE), scalar=new_key(os.urandom), attestation=one, **own)
    mine = own | {"scalar": new_key(os.urandom), "attestation": two, "salt": os.urandom(32)}
    c, accept, salt = tape.call(None, offer, lambda m: activation.answer(m, terms, column(THEIRS), **mine))  # type: ignore[arg-type]
    a, _ = tape.take(a, accept)
    a, points = tape.take(a, salt)
    c, reply = tape.take(c, points)
    a, _ = tape.take(a, reply)
    assert len(a.ids) == 2
    _seal(tape, a, c)


def several_keys(tape: Tape, pool: BlindingPool) -> None:
    one, two = attestations()
    labels = {"analyst_segments": ("a0", "a1"), "contributor_segments": ("c0",)}
    terms = WaterfallTerms(**_job(), **labels, keys=("email", "phone"), dummies=6)
    own = {"random": os.urandom, "pool": pool}
    mine, theirs = [_rows(MINE), _rows(["x"])], [_rows(THEIRS)]
    a, offer = waterfall.start(terms, mine, scalar=new_scalar(os.urandom), attestation=one, **own)
    more = own | {"scalar": new_scalar(os.urandom), "attestation": two, "matching": np.full((2, 1, 3), 1)}
    c, accept = tape.call(None, offer, lambda m: waterfall.answer(m, terms, theirs, **more))  # type: ignore[arg-type]
    a, rows = tape.take(a, accept)
    c, reply = tape.take(c, rows)
    a, none = tape.take(a, reply)
    assert none is None
    assert a.counts.tolist() == [[2], [0]]
    _seal(tape, a, c)


def _rows(names: list[str]) -> pa.StructArray:
    phones = pa.array([None if name == "a" else name.encode() for name in names], pa.binary())
    return pa.StructArray.from_arrays([column(names), phones], names=["email", "phone"])


def ring(tape: Tape, pool: BlindingPool) -> None:
    partners = (PartnerList("c1", "d1"), PartnerList("c2", "d2"))
    shared = _job() | {"partners": partners, "dummies": 2, "size_slack": 1, "epsilon": 1.0}
    terms = [
        ReachTerms(**shared | {"collaboration": p.collaboration, "contributor_dataset": p.dataset})
        for p in partners
    ]
    signing = [attestations() for _ in terms]
    own: dict[str, Any] = {"random": os.urandom, "pool": pool}
    ours = {"consents": [b""] * 2, "policies": [bytes(32)] * 2, "attestations": [one for one, _ in signing]}
    asked, offers = circle.start(terms, column(MINE), **ours, **own)
    contributors, accepts, lines = [], [], list(asked.lines)
    for n, offer in enumerate(offers):
        mine = own | {"scalar": new_scalar(os.urandom), "attestation": signing[n][1], "size_noise": 1 - n}
        mine |= {"matching": np.array([2, 0, 1])}
        c, accept = tape.call(None, offer, partial(_answered, terms[n], mine))
        contributors.append(c)
        accepts.append(accept)
        lines[n], _ = tape.take(lines[n], accept)
    state, told = asked.accepted(accepts)
    replies: list[Any] = []
    for n, message in enumerate(told):
        contributors[n], reply = tape.take(contributors[n], message)
        tape.take(state.lines[n], reply)
        replies.append(reply)
    circling, lists = state.opened(replies)
    while True:
        for n, message in enumerate(lists):
            contributors[n], replies[n] = tape.take(contributors[n], message)
            tape.take(circling.lines[n], replies[n])
        if circling.closing:
            break
        circling, lists = circling.returned(replies)
    counted = circling.closed(replies)
    assert counted.counts[0b111] == 2
    for line, c in zip(counted.lines, contributors, strict=True):
        _seal(tape, line, c)


def _answered(terms: ReachTerms, own: dict[str, Any], offer: Any) -> Any:
    return reach.answer(offer, terms, column(THEIRS), **own)


def refresh(tape: Tape, pool: BlindingPool) -> None:
    one, two = attestations()
    shared = _job() | {"padding": Padding(8, 4), "refreshes": 2, "dummies": 2}
    first = EpochTerms(**shared)
    runs = (first, MINE, THEIRS), (RefreshTerms(**shared, epoch="e", number=1), MINE[1:], [*THEIRS, "a"])
    held: Any = None
    kept: Any = None
    for terms, mine, theirs in runs:
        part = Tape("cold") if terms is first else tape
        own: dict[str, Any] = {"random": os.urandom, "pool": pool, "scalar": new_scalar(os.urandom)}
        a, offer = epochs.start(terms, [column(mine)], held=held, attestation=one, **own)
        own |= {"scalar": new_scalar(os.urandom), "attestation": two, "held": kept}
        own |= {"matching": np.full(terms.pairs, 1) if terms is first else None}
        c, accept = part.call(None, offer, partial(_begun, terms, column(theirs), own))  # type: ignore[arg-type]
        a, change = part.take(a, accept)
        c, reply = part.take(c, change)
        a, none = part.take(a, reply)
        assert none is None
        assert a.counts.tolist() == [[2]]
        held, kept = a.held, c.held
    _seal(tape, a, c)


def _begun(terms: EpochTerms, people: Any, own: dict[str, Any], offer: Any) -> Any:
    return epochs.answer(offer, terms, [people], **own)


RUNS: dict[str, Callable[[Tape, BlindingPool], None]] = {
    "overlap": overlap, "measure": measure, "align": align, "activate": activate, "reach": ring,
    "waterfall": several_keys, "refresh": refresh,
}  # fmt: skip


def _recorded() -> dict[str, list[Tape]]:
    """Two runs of each protocol: the one tampered with, and another job."""
    pool = BlindingPool(workers=0)
    tapes: dict[str, list[Tape]] = {}
    for name, run in RUNS.items():
        tapes[name] = [Tape(name), Tape(name)]
        for tape in tapes[name]:
            run(tape, pool)
    return tapes


TAPES = _recorded()
ARRIVALS = [pair for tapes in TAPES.values() for pair in zip(*tapes, strict=True)]
each = pytest.mark.parametrize(("arrival", "other"), ARRIVALS, ids=[a.name for a, _ in ARRIVALS])


# ── what is sent instead ────────────────────────────────────────────────────────────────────────────────


def variants(message: Any, other: Any) -> Iterator[tuple[str, str, Message]]:
    """(field, what is wrong with it, the message) for every field of a message; `other` is another job's."""
    for one in fields(message):
        found = False
        for label, value in _values(one.name, getattr(message, one.name), getattr(other, one.name)):
            found = True
            yield one.name, label, replace(message, **{one.name: value})
        assert found, f"nothing is known to be wrong for {type(message).__name__}.{one.name}"


def _values(name: str, value: Any, other: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Points):
        yield from _points(value)
    elif isinstance(value, InputCommitment):
        yield from _commitments(value, other)
    elif isinstance(value, tuple):
        yield "nothing", ()
        yield "one fewer", value[:-1]
        yield "one more", (*value, value[-1])
        for label, first in _values(name, value[0], other[0]):
            yield label, (first, *value[1:])
    elif name == "role":
        yield from (("the other side", 3 - value),)
    elif name in ("lengths", "stated"):
        yield from (("one more", value + 1), ("beyond all bounds", 2**32 - 1))
    elif name in ("owner", "hop"):
        yield from (("another", value + 1), ("none there is", 255))
    elif isinstance(value, int):
        yield from (("beyond the modulus", 2**64 - 1), ("half of it", 2**63))
    elif name == "salt":  # 32 bytes, any
        yield "longer", value + b"\0"
    elif name == "positions":
        yield "one fewer", value[:-4]
        yield "one that does not exist", b"\xff" * 4 + value[4:]
        yield "one twice", value[4:8] + value[4:]
    elif name == "ids":
        yield "one fewer", value[:-16]
        yield "one twice", value[:16] + value[:16] + value[32:]
        yield "not in order", value[16:32] + value[:16] + value[32:]
    else:
        data, stranger = bytes(value), bytes(other)
        yield "a bit turned over", bytes([data[0] ^ 1]) + data[1:]
        if any(data):  # but for `previous` of the first message, which is the same in every job
            yield "zeros", bytes(len(data))
            yield "another's", stranger
        if len(data) == WHOLE and name in ("key", "header"):
            yield from ((f"bad point {bad.hex()[:4]}", bad) for bad in LOW_ORDER + NON_CANONICAL)
        if name in ("key", "ciphertexts", "terms"):
            yield "cut", data[:-1]
            yield "longer", data + b"\0"
            yield "empty", b""
        if len(data) > 1000:
            yield "a coefficient out of range", data[:-128] + b"\xff" * 8 + data[-120:]


def _points(points: Points) -> Iterator[tuple[str, Points]]:
    flat, width = bytes(points.buffer), points.width
    yield "none", Points(b"", width)
    yield "one fewer", Points(flat[:-width], width)
    yield "one more", Points(flat + flat[:width][::-1], width)
    if len(points) > 1:
        yield "one twice", Points(flat[width : 2 * width] + flat[width:], width)
    if width == WHOLE:
        for bad in LOW_ORDER + NON_CANONICAL:
            yield f"bad point {bad.hex()[:4]}", Points(bad + flat[width:], width)


def _commitments(value: InputCommitment, other: InputCommitment) -> Iterator[tuple[str, InputCommitment]]:
    yield "a list more", replace(value, sizes=(*value.sizes, 1))
    yield "no size class", replace(value, sizes=(1_000_001,))
    yield "more than can be", replace(value, sizes=(1 << 31,))
    yield "another consent", replace(value, consent=other.consent + b"x")
    yield "another policy", replace(value, policy=b"\1" * 32)


def image(value: Any) -> Any:
    """Everything a state holds, as plain values that can be compared."""
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(image(getattr(value, f.name)) for f in fields(value))
    if isinstance(value, Points):
        return bytes(value.buffer)
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return value.to_pylist()
    if isinstance(value, tuple | list):
        return [image(v) for v in value]
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    return value if isinstance(value, bytes | str | int | float | bool | None) else id(value)


def refused(arrival: Arrival, data: bytes) -> None:
    """The bytes are refused for what they are, and the state is as it was."""
    before = image(arrival.state)
    with pytest.raises(VIOLATIONS) as caught:
        arrival.take(parse_message(data))
    assert image(arrival.state) == before
    shown = f"{caught.value} {caught.value.detail} {vars(caught.value)}"
    assert not any(
        secret in shown for secret in (*map(repr, THEIRS), data[-16:].hex(), repr(data[-16:])[2:-1])
    )


# ── the tests ───────────────────────────────────────────────────────────────────────────────────────────


def test_every_step_of_the_table_and_every_message_is_in_a_run() -> None:
    arrived = {(type(a.state), type(a.message)) for a, _ in ARRIVALS}
    missing = [step for step in TABLE if (step.state, step.message) not in arrived]
    assert not missing, "record a run of this protocol in RUNS"
    assert {message for _, message in arrived} == set(MESSAGES.values())


@each
def test_no_field_can_be_anything_else_and_the_right_message_is_still_taken(
    arrival: Arrival, other: Arrival
) -> None:
    message = arrival.message
    for name, label, bad in variants(message, other.message):
        if (type(message).__name__, name, label) in FITTING:
            continue
        try:
            refused(arrival, bad.to_bytes())
        except pytest.fail.Exception as missed:
            raise AssertionError(f"{type(message).__name__}.{name}, {label}: taken") from missed
    arrival.take(message)


@each
def test_a_message_of_another_job_is_refused(arrival: Arrival, other: Arrival) -> None:
    refused(arrival, other.data)


@each
def test_nothing_is_taken_out_of_turn_or_twice(arrival: Arrival, other: Arrival) -> None:
    """Every other message of the same run, before and after its time, and every message of the other runs."""
    for late, _ in ARRIVALS:
        if late.data != arrival.data and arrival.state is not None:
            refused(arrival, late.data)
    outcome = arrival.take(arrival.message)
    after = outcome[0]
    before = image(after)
    with pytest.raises((PeerViolation, IllegalStep)):
        receive(after, arrival.message)
    assert image(after) == before


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@each
@given(data=st.data())
def test_changed_bytes_are_refused_or_are_another_message_and_nothing_else_ever_comes_of_them(
    arrival: Arrival, other: Arrival, data: st.DataObject
) -> None:
    raw = bytearray(arrival.data)
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "zero", "swap"]))
        at = data.draw(st.integers(0, max(len(raw) - 1, 0)))
        if kind == "set" and raw:
            raw[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del raw[at : at + data.draw(st.integers(1, 64))]
        elif kind == "insert":
            raw[at:at] = data.draw(st.binary(min_size=1, max_size=64))
        elif kind == "zero":
            raw[at : at + 32] = bytes(len(raw[at : at + 32]))
        else:
            end = min(at + 32, len(raw))
            raw[at:end] = raw[at:end][::-1]
    before = image(arrival.state)
    with contextlib.suppress(*VIOLATIONS):
        arrival.take(parse_message(bytes(raw)))
    assert image(arrival.state) == before


def test_what_the_states_hold_is_looked_into() -> None:
    """The comparison above would otherwise compare nothing."""
    (arrival, _) = next(pair for pair in ARRIVALS if type(pair[0].state) is cardinality.AnalystSent)
    changed = replace(arrival.state, side=replace(arrival.state.side, segments=(column(["z"]),)))
    assert image(changed) != image(arrival.state)
