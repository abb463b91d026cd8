"""`activate`: the analyst ends with the publisher ids of those whom both have, and with nothing else."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clean_room.errors import Misuse, PeerViolation
from clean_room.group.points import Points
from clean_room.group.ristretto import encrypt, hash_to_points, new_key
from clean_room.protocols import ActivateTerms, OverlapTerms, Padding, activation, parse_message, receive
from clean_room.protocols.messages import AnalystPoints, PairPoints, PairSalt
from privacy.identifiers import match_key
from tests.clean_room.protocols.conftest import attestations, column

EPOCH_KEY, SALT = new_key(os.urandom), os.urandom(32)


def terms(**more: Any) -> ActivateTerms:
    fields: dict[str, Any] = {
        "job": "j", "purpose": "activate.ads", "analyst": "brand", "contributor": "site",
        "profile": "pair-1", "padding": Padding(8, 4),
    }  # fmt: skip
    return ActivateTerms(**(fields | more))


class Run:
    """Both roles in one process; every message travels as bytes."""

    def __init__(
        self, pool: Any, mine: list[str], theirs: list[str], agreed: ActivateTerms | None = None
    ) -> None:
        self.agreed = agreed or terms()
        one, two = attestations()
        own = {"random": os.urandom, "pool": pool}
        self.a, self.offer = activation.start(
            self.agreed, column(mine), scalar=new_key(os.urandom), attestation=one, **own
        )
        self.c, self.accept, self.salt = activation.answer(
            self.carry(self.offer), self.agreed, column(theirs),
            salt=SALT, scalar=EPOCH_KEY, attestation=two, **own,
        )  # fmt: skip

    @staticmethod
    def carry(message: Any) -> Any:
        return parse_message(message.to_bytes())

    def points(self) -> Any:
        self.a, none = receive(self.a, self.carry(self.accept))
        assert none is None
        self.a, points = receive(self.a, self.carry(self.salt))
        return points

    def finish(self) -> Any:
        self.c, reply = receive(self.c, self.carry(self.points()))
        self.a, _ = receive(self.a, self.carry(reply))
        return self


def publisher_id(address: str) -> bytes:
    return encrypt(EPOCH_KEY, hash_to_points([match_key(address.encode(), "pair-1")], SALT))


@settings(max_examples=15)
@given(mine=st.sets(st.integers(0, 20), max_size=10), theirs=st.sets(st.integers(0, 20), max_size=10))
def test_the_ids_are_those_of_the_shared_people(blinding: Any, mine: set[int], theirs: set[int]) -> None:
    a, c = [f"p{i}@x.org" for i in sorted(mine)], [f"p{i}@x.org" for i in sorted(theirs)]
    run = Run(blinding, a, c).finish()
    ids = {row.tobytes() for row in run.a.ids.array}
    assert ids == {publisher_id(f"p{i}@x.org") for i in mine & theirs}
    assert [row.tobytes() for row in run.c.id_rows] == [publisher_id(address) for address in c]


def test_both_seal_one_transcript(blinding: Any) -> None:
    run = Run(blinding, ["a@x.org"], ["a@x.org"]).finish()
    run.a, seal = run.a.seal()
    run.c, back = receive(run.c, run.carry(seal))
    run.a, _ = receive(run.a, run.carry(back))
    assert run.a.transcript == run.c.transcript


def test_the_points_that_come_back_are_in_another_order(blinding: Any) -> None:
    """Or the analyst would see which of its own people are shared."""
    names = [f"p{i}@x.org" for i in range(64)]
    run = Run(blinding, names, names[:1], terms(padding=Padding(64, 4)))
    points = run.points()
    key = run.a.side.scalar
    run.c, reply = receive(run.c, run.carry(points))
    in_order = encrypt(EPOCH_KEY, points.lists[0].buffer)
    assert bytes(reply.returned.buffer) != in_order
    assert {r.tobytes() for r in reply.returned.array} == {r.tobytes() for r in Points(in_order).array}
    assert key != EPOCH_KEY


def test_thinning_drops_about_the_share_agreed(blinding: Any) -> None:
    names = [f"p{i}@x.org" for i in range(1200)]
    run = Run(blinding, names, names, terms(keep=850)).finish()
    # 1200 · 0.85 = 1020, σ ≈ 12.4: seven of them on either side.
    assert 1020 - 87 < len(run.a.ids) < 1020 + 87


def test_other_profiles_and_other_terms_are_refused(blinding: Any) -> None:
    with pytest.raises(Misuse) as refused:
        Run(blinding, ["a@x.org"], ["a@x.org"], terms(profile="comity-1"))
    assert refused.value.code == "profile_mismatch"
    other = OverlapTerms(job="j", purpose="p", analyst="a", contributor="c")
    with pytest.raises(Misuse):
        Run(blinding, ["a@x.org"], ["a@x.org"], other)  # type: ignore[arg-type]
    with pytest.raises(Misuse):
        terms(keep=0)


def test_an_offer_with_a_key_that_is_no_point_is_refused(blinding: Any) -> None:
    run = Run(blinding, ["a@x.org"], ["a@x.org"])
    one, two = attestations()
    _, offer = activation.start(
        run.agreed, column(["a@x.org"]), scalar=new_key(os.urandom), attestation=one, random=os.urandom,
        pool=blinding,
    )  # fmt: skip
    bad = replace(offer, key=bytes(32))
    bad = replace(bad, signature=one.sign("clean-room-offer", bad.unsigned()))
    with pytest.raises(PeerViolation):
        activation.answer(
            bad, run.agreed, column(["a@x.org"]), salt=SALT, scalar=EPOCH_KEY, attestation=two,
            random=os.urandom, pool=blinding,
        )  # fmt: skip


@pytest.mark.parametrize("wrong", ["short", "twice", "invalid", "identity", "replayed"])
def test_hostile_points_stop_the_run_and_change_nothing(blinding: Any, wrong: str) -> None:
    run = Run(blinding, ["a@x.org", "b@x.org"], ["b@x.org"])
    points = run.points()
    flat = bytearray(bytes(points.lists[0].buffer))
    previous = points.previous
    if wrong == "short":
        flat = flat[:-32]
    elif wrong == "twice":
        flat[32:64] = flat[:32]
    elif wrong == "invalid":
        flat[:32] = b"\xff" * 32
    elif wrong == "identity":
        flat[:32] = bytes(32)
    else:
        previous = bytes(32)
    before = run.c
    with pytest.raises(PeerViolation):
        receive(run.c, run.carry(AnalystPoints(previous, (Points(bytes(flat)),))))
    assert run.c is before
    run.c, _ = receive(run.c, run.carry(points))


@pytest.mark.parametrize("cut", [0, 8, 40, 71])
def test_cut_messages_are_violations(cut: int) -> None:
    for message in (PairSalt(bytes(32), bytes(32)), PairPoints(bytes(32), Points(bytes(32)), Points(b""))):
        data = message.to_bytes()
        with pytest.raises(PeerViolation):
            parse_message(data[:cut])
        with pytest.raises(PeerViolation):
            parse_message(data + b"x")


def test_padding_is_never_an_id(blinding: Any) -> None:
    run = Run(blinding, ["a@x.org"], [], terms(padding=Padding(32, 4))).finish()
    assert len(run.a.ids) == 0 and run.c.id_rows.shape == (0, 32)
