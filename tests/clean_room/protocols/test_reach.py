from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clean_room.errors import IllegalStep, Misuse, PeerViolation, Tampered
from clean_room.group import BlindingPool, CryptographyBlinder, Points, new_scalar
from clean_room.group.blinding import BASE_POINT
from clean_room.group.hash_to_curve import hash_to_curve
from clean_room.protocols import (
    Attestation,
    Padding,
    PartnerList,
    ReachTerms,
    circle,
    parse_message,
    parse_terms,
    reach,
    receive,
)
from clean_room.protocols.messages import ReachList, ReachOwn, ReachSizes
from clean_room.protocols.regions import region_counts
from clean_room.protocols.ring import length_after, list_at, sets_beside, transit_keys
from tests.clean_room.protocols.conftest import attestations, column

UNSIGNED = Attestation(sign=lambda context, message: bytes(64), verify=lambda *signed: None)
Change = Callable[[int, int, Any], Any]


def partners(number: int) -> tuple[PartnerList, ...]:
    return tuple(PartnerList(f"c{n}", f"list {n}") for n in range(1, number))


def terms_of(number: int, **more: Any) -> list[ReachTerms]:
    shared = {"job": "1", "purpose": "overlap.reach", "analyst": "A", "padding": Padding(1, 4)} | more
    return [
        ReachTerms(
            partners=partners(number),
            contributor=f"node {one.collaboration}",
            collaboration=one.collaboration,
            contributor_dataset=one.dataset,
            **shared,
        )
        for one in partners(number)
    ]


def raw_truth(lists: Sequence[set[int]]) -> np.ndarray:
    counts = np.zeros(1 << len(lists), dtype=np.int64)
    for person in set().union(*lists):
        counts[sum(1 << i for i, people in enumerate(lists) if person in people)] += 1
    return counts


def shared_truth(lists: Sequence[set[int]]) -> np.ndarray:
    """People in exactly so many lists, of regions of two and more."""
    counts = raw_truth(lists)
    counts[[m for m in range(len(counts)) if m.bit_count() < 2]] = 0
    return counts


def names(people: set[int]) -> list[str]:
    return [f"person-{n}@example.org" for n in sorted(people)]


@dataclass
class Ring:
    """Everybody in one process; every message travels as bytes. `wire[n]` is what contributor n was sent and
    has sent; `change(n, message number, message)` may swap a message on its way to contributor n."""

    pool: BlindingPool
    lists: Sequence[set[int]]
    matching: Any = None
    size_noise: Sequence[int] | None = None
    signing: Any = None
    change: Change = field(default=lambda n, number, message: message)
    more: dict[str, Any] = field(default_factory=dict)
    wire: list[list[bytes]] = field(default_factory=list)
    contributors: list[Any] = field(default_factory=list)
    counted: Any = None
    keys: Any = None
    final: list[Points] = field(default_factory=list)
    """All lists at the end, under the contributors' keys alone, dummies included."""

    def begin(self) -> Any:
        """Up to and including the Accepts; returns (the analyst, the Accepts)."""
        number = len(self.lists)
        terms = terms_of(number, **self.more)
        own = {"random": os.urandom, "pool": self.pool}
        signing = self.signing or [(UNSIGNED, UNSIGNED)] * len(terms)
        asked, offers = circle.start(
            terms,
            column(names(self.lists[0])),
            attestations=[one for one, _ in signing],
            consents=[b"checkpoint"] * len(terms),
            policies=[bytes(32)] * len(terms),
            **own,
        )
        accepts = []
        for n, offer in enumerate(offers):
            sets = len(sets_beside(number, n + 1))
            matching = np.full(sets, terms[n].dummies // 2) if self.matching is None else self.matching[n]
            self.wire.append([offer.to_bytes()])
            state, accept = reach.answer(
                parse_message(self.wire[n][0]),
                terms[n],
                column(names(self.lists[n + 1])),
                matching=matching,
                size_noise=0 if self.size_noise is None else self.size_noise[n],
                scalar=new_scalar(os.urandom),
                attestation=signing[n][1],
                **own,
            )
            self.wire[n].append(accept.to_bytes())
            self.contributors.append(state.prepared())
            accepts.append(parse_message(self.wire[n][1]))
        return asked, accepts

    def everybody(self, messages: Sequence[Any]) -> list[Any]:
        """Have every contributor take its message; their replies."""
        replies = []
        for n, message in enumerate(messages):
            self.wire[n].append(self.change(n, len(self.wire[n]) // 2, message).to_bytes())
            self.contributors[n], reply = receive(self.contributors[n], parse_message(self.wire[n][-1]))
            self.wire[n].append(reply.to_bytes())
            replies.append(parse_message(self.wire[n][-1]))
        return replies

    def run(self) -> Ring:
        asked, accepts = self.begin()
        self.keys = asked.keys
        sized, messages = asked.accepted(accepts)
        circling, messages = sized.opened(self.everybody(messages))
        while not circling.closing:
            circling, messages = circling.returned(self.everybody(messages))
        replies = self.everybody(messages)
        self.counted = circling.closed(replies)
        # In the last round list 1 rests with the analyst.
        last = {1: circling.lists[1][1], **{reply.owner: reply.points for reply in replies}}
        self.final = [
            Points(self.pool.blind(key, last[n].buffer)).truncated() for n, (_, key) in enumerate(self.keys)
        ]
        return self

    def seal(self) -> list[tuple[Any, Any]]:
        done = []
        for line, state in zip(self.counted.lines, self.contributors, strict=True):
            sealing, message = line.seal()
            end, reply = receive(state, parse_message(message.to_bytes()))
            done.append((receive(sealing, parse_message(reply.to_bytes()))[0], end))
        return done


def memberships(number: int) -> Any:
    return st.lists(st.sets(st.integers(0, 25), max_size=12), min_size=number, max_size=number)


# ── what comes out ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", range(3, 9))
@settings(max_examples=6)
@given(data=st.data())
def test_regions_are_those_of_the_lists_in_the_clear(
    blinding: BlindingPool, number: int, data: st.DataObject
) -> None:
    lists = data.draw(memberships(number))
    counted = Ring(blinding, lists).run().counted
    assert counted.counts.tolist() == shared_truth(lists).tolist()
    assert counted.counts.dtype == np.int64
    assert counted.sizes == tuple(len(people) for people in lists)


@pytest.mark.parametrize("number", [3, 4])
@settings(max_examples=8)
@given(data=st.data())
def test_every_region_is_off_by_exactly_the_noise_drawn_for_it(
    blinding: BlindingPool, number: int, data: st.DataObject
) -> None:
    lists = data.draw(memberships(number))
    drawn = [
        np.array(data.draw(st.lists(st.integers(0, 4), min_size=sets, max_size=sets)))
        for sets in [(1 << number - 1) - 1] * (number - 1)
    ]
    nu = [data.draw(st.integers(-3, 3)) for _ in range(number - 1)]
    more = {"dummies": 4, "size_slack": 3, "epsilon": 1.0, "size_epsilon": 0.5}
    counted = Ring(blinding, lists, matching=drawn, size_noise=nu, more=more).run().counted
    expected = shared_truth(lists)
    for place in range(1, number):
        for mask, k in zip(sets_beside(number, place), drawn[place - 1], strict=True):
            expected[mask | 1 << place] += k - 2
            if mask.bit_count() > 1:
                expected[mask] -= k - 2
    assert counted.counts.tolist() == expected.tolist()
    assert counted.sizes == tuple(len(p) + n for p, n in zip(lists, [0, *nu], strict=True))


def test_both_ends_of_every_line_sign_the_same_transcript_of_their_own(blinding: BlindingPool) -> None:
    signing = [attestations() for _ in range(3)]
    ring = Ring(blinding, [{1, 2}, {2, 3}, {3}, {1, 3}], signing=signing, more={"dummies": 2}).run()
    done = ring.seal()
    assert len({a.transcript for a, _ in done}) == 3
    for a, c in done:
        assert a.transcript == c.transcript
        assert (a.own_signature, a.partner_signature) == (c.partner_signature, c.own_signature)


# ── what protects people ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("region", range(8))
def test_one_person_more_or_less_is_hidden_by_one_unit_of_one_draw_and_of_the_size(
    blinding: BlindingPool, region: int
) -> None:
    # The coupling the docstring argues with: with the person, k_T and ν; without, k_T + 1 and ν + 1. All that
    # anybody sees, the length of every message and the counts of every region, single lists included, is the
    # same. Region m: the person is in lists 0, 2 and 3 as the bits of m say, and in list 1 or not.
    lists = [{1, 2, 3, 4}, {2, 3, 9}, {3, 4, 5}, {1, 3, 5, 6}]
    others = [n for n in range(3) if region >> n & 1]
    for n in others:
        lists[(0, 2, 3)[n]].add(99)
    mask = sum(1 << (0, 2, 3)[n] for n in others)
    drawn = [np.array([1] * 7) for _ in range(3)]
    views = []
    for inside in (True, False):
        own = [np.array(k) for k in drawn]
        if not inside and mask:
            own[0][sets_beside(4, 1).index(mask)] += 1
        with_them = [people | {99} if n == 1 and inside else set(people) for n, people in enumerate(lists)]
        ring = Ring(
            blinding,
            with_them,
            matching=own,
            size_noise=[0 if inside else 1, 0, 0],
            more={"dummies": 2, "size_slack": 2, "epsilon": 1.0},
        )
        ring.run()
        lengths = [[len(message) for message in line] for line in ring.wire]
        views.append((region_counts(ring.final).tolist(), lengths))
    assert views[0] == views[1]


def test_contributors_together_cannot_join_what_they_have_seen(blinding: BlindingPool) -> None:
    # All of them, with all their keys: every list brought under the product of their keys. The same people
    # are in every list, and still no point is in two.
    ring = Ring(blinding, [set(range(6))] * 4).run()
    scalars = [state.side.scalar for state in ring.contributors]
    seen: dict[int, set[bytes]] = {}
    for line, messages in enumerate(ring.wire):
        for hop, data in enumerate(messages[4::2], 1):
            message = parse_message(data)
            missing = {1, 2, 3} - _stops(4, message.owner, hop - 1)
            points = message.points.buffer
            for place in missing:
                points = blinding.blind(scalars[place - 1], points)
            assert line + 1 in missing
            seen.setdefault(message.owner, set()).update(bytes(p) for p in Points(points).array)
    assert sorted(seen) == [0, 1, 2, 3]
    assert all(len(points) == 6 for points in seen.values())
    assert len(set().union(*seen.values())) == 4 * 6


def _stops(number: int, owner: int, hop: int) -> set[int]:
    """Contributors whose key is on a list after so many rounds, its owner among them."""
    return {(owner + h) % number for h in range(hop + 1)} - {0}


def test_what_a_contributor_sees_tells_others_sizes_only_within_a_class(blinding: BlindingPool) -> None:
    shapes = set()
    for size, noise in ((18, 0), (19, 1), (20, -1), (20, 1)):
        lists = [set(range(size)), set(range(7)), set(range(5, 5 + size)), set(range(2, 2 + size))]
        more = {"dummies": 2, "size_slack": 3, "padding": Padding(16, 4), "epsilon": 1.0}
        ring = Ring(blinding, lists, size_noise=[0, noise, -noise], more=more).run()
        shapes.add(tuple(len(message) for message in ring.wire[0]))
    assert len(shapes) == 1


def test_no_identifier_and_no_unkeyed_point_of_one_travels(blinding: BlindingPool) -> None:
    ring = Ring(blinding, [{1, 2, 3}, {2, 3, 4}, {3, 4}], more={"dummies": 2}).run()
    wire = b"".join(data for line in ring.wire for data in line)
    for name in names({1, 2, 3, 4}):
        assert name.encode() not in wire
        assert hash_to_curve([name.encode()]) not in wire


def test_lists_carry_no_order(blinding: BlindingPool) -> None:
    # Where does one of 24 people stand in its list after each contributor? Always elsewhere.
    places: dict[int, list[int]] = {}
    for _ in range(25):
        ring = Ring(blinding, [set(range(24))] * 3).run()
        mine = hash_to_curve([names({0})[0].encode()])
        for state in ring.contributors:
            mine = blinding.blind(state.side.scalar, mine)
        for owner, points in enumerate(ring.final):
            at = [bytes(p) for p in points.array].index(mine[:16])
            places.setdefault(owner, []).append(at)
    for seen in places.values():
        assert 7 < np.mean(seen) < 16
        assert len(set(seen)) > 8


# ── hostile analysts ────────────────────────────────────────────────────────────────────────────────────


def refused_at(blinding: BlindingPool, change: Change, match: str, **more: Any) -> None:
    """The contributor refuses the changed message, is as it was, and takes the right one."""
    taken: list[tuple[Any, Any]] = []

    def watch(n: int, number: int, message: Any) -> Any:
        bad = change(n, number, message)
        if bad is not message:
            state = ring.contributors[n]
            before = (state.transcript, getattr(state, "hop", None))
            with pytest.raises(PeerViolation, match=match):
                receive(state, parse_message(bad.to_bytes()))
            assert (state.transcript, getattr(state, "hop", None)) == before
            taken.append((state, message))
        return message

    ring = Ring(blinding, [{1, 2}, {2, 3}, {3, 4}], change=watch, more=more or {"dummies": 2})
    ring.run()
    assert taken
    assert ring.counted.counts.tolist() == shared_truth(ring.lists).tolist()


def at(place: int, number: int, **fields: Any) -> Change:
    return lambda n, k, message: replace(message, **fields) if (n, k) == (place, number) else message


def twist_point() -> bytes:
    from clean_room.group.hash_to_curve import on_curve

    return next(u.to_bytes(32, "little") for u in range(20, 99) if not on_curve(u))


def test_a_header_that_would_give_dummies_away_is_refused(blinding: BlindingPool) -> None:
    for header in (bytes(32), BASE_POINT, twist_point(), b"\xff" * 32, (2**255 - 19).to_bytes(32, "little")):
        refused_at(blinding, at(1, 3, header=header), "header|canonical")


def test_the_header_of_the_analysts_list_is_the_one_in_its_offer(blinding: BlindingPool) -> None:
    other = CryptographyBlinder().blind(new_scalar(os.urandom), BASE_POINT)
    refused_at(blinding, at(0, 2, header=other), "not the one in its offer")


def test_two_lists_never_share_a_header(blinding: BlindingPool) -> None:
    seen: dict[int, bytes] = {}

    def again(n: int, number: int, message: Any) -> Any:
        if number == 2:
            seen[n] = message.header
        return replace(message, header=seen[n]) if number == 3 else message

    refused_at(blinding, again, "header came twice")


def test_a_list_passes_a_contributor_once(blinding: BlindingPool) -> None:
    # The first list again, in the next round: as itself, or under the number that is due.
    first: dict[int, Any] = {}

    def replayed(named: bool) -> Change:
        def change(n: int, number: int, message: Any) -> Any:
            if number == 2:
                first[n] = message
            if number != 3 or n != 0:
                return message
            old = first[n]
            header = old.header if named else message.header
            owner, hop = (old.owner, old.hop) if named else (message.owner, message.hop)
            return ReachList(message.previous, owner, hop, header, old.points)

        return change

    refused_at(blinding, replayed(True), "out of turn")
    # Under another number only its length gives it away; what it could tell is under the same noise.
    refused_at(blinding, replayed(False), "sizes agreed", dummies=2, padding=Padding(1, 4))


def test_nothing_comes_after_the_last_list_but_the_seal(blinding: BlindingPool) -> None:
    ring = Ring(blinding, [{1}, {2}, {3}]).run()
    state = ring.contributors[0]
    late = ReachList(state.transcript, 1, 1, ring.counted.lines[0].header, Points(b""))
    with pytest.raises(PeerViolation, match="Seal was due"):
        receive(state, late)
    with pytest.raises(IllegalStep):
        state.passed(late)
    with pytest.raises(IllegalStep):
        ring.counted.lines[0].passes(b"", Points(b""))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"owner": 2}, "out of turn"),
        ({"hop": 2}, "out of turn"),
        ({"points": Points(b"")}, "sizes agreed"),
        ({"points": Points(bytes(32) * 2)}, "twice"),
        ({"points": Points(bytes(32) + BASE_POINT)}, "low order"),
        ({"points": Points(b"\xff" * 32 + BASE_POINT)}, "canonical"),
        ({"previous": bytes(32)}, "does not belong"),
    ],
)
def test_a_list_that_is_not_the_one_due_is_refused(
    blinding: BlindingPool, fields: dict[str, Any], match: str
) -> None:
    refused_at(blinding, at(0, 2, **fields), match, dummies=0, padding=Padding(1, 4))


@pytest.mark.parametrize(
    "lengths", [(2, 2), (2, 2, 2, 2), (3, 2, 2), (2, 3, 2), (2, 2, 1_000_001), (2, 2, 2**31)]
)
def test_lengths_must_be_those_committed_to(blinding: BlindingPool, lengths: tuple[int, ...]) -> None:
    def change(n: int, number: int, message: Any) -> Any:
        return ReachSizes(message.previous, lengths) if (n, number) == (0, 1) else message

    match = "ReachSizes|lengths|lists"
    if len(lengths) == 2:
        with pytest.raises(PeerViolation, match=match):
            parse_message(ReachSizes(bytes(32), lengths).to_bytes())
        return
    refused_at(blinding, change, match)


def test_terms_that_name_other_partners_are_not_the_ones_agreed(blinding: BlindingPool) -> None:
    ring = Ring(blinding, [{1}, {2}, {3}])
    asked, _ = ring.begin()
    offer = parse_message(ring.wire[0][0])
    told = terms_of(4)[0]
    with pytest.raises(PeerViolation, match="not the ones agreed"):
        reach.answer(
            offer, told, column([]), matching=np.zeros(7, dtype=np.int64), size_noise=0,
            scalar=new_scalar(os.urandom), random=os.urandom, pool=blinding, attestation=UNSIGNED,
        )  # fmt: skip
    assert asked.lines[0].side.ring.panel != told.panel


# ── hostile contributors ────────────────────────────────────────────────────────────────────────────────


def test_a_contributor_that_sends_something_else_is_named_and_nothing_has_changed(
    blinding: BlindingPool,
) -> None:
    ring = Ring(blinding, [{1, 2}, {2, 3}, {3}], more={"dummies": 2})
    asked, accepts = ring.begin()
    with pytest.raises(PeerViolation, match="node c2: "):
        asked.accepted([accepts[0], replace(accepts[1], previous=bytes(32))])
    sized, messages = asked.accepted(accepts)
    owns = ring.everybody(messages)
    for change in (
        {"stated": 7},
        {"header": bytes(32)},
        {"points": owns[1].points.slice(1, len(owns[1].points))},
        {"previous": bytes(32)},
    ):
        with pytest.raises(PeerViolation, match="node c2: "):
            sized.opened([owns[0], replace(owns[1], **change)])
    circling, messages = sized.opened(owns)
    lists = ring.everybody(messages)
    for change in (
        {"owner": 2},
        {"hop": 2},
        {"header": messages[1].header},
        {"points": lists[0].points.slice(1, len(lists[0].points))},
    ):
        with pytest.raises(PeerViolation, match="node c2: "):
            circling.returned([lists[0], replace(lists[1], **change)])
    with pytest.raises(IllegalStep):
        circling.closed(lists)
    circling, messages = circling.returned(lists)
    replies = ring.everybody(messages)
    with pytest.raises(IllegalStep):
        circling.returned(replies)
    assert circling.closed(replies).counts.tolist() == shared_truth(ring.lists).tolist()


def test_a_signature_that_does_not_hold_is_tampering_and_names_the_contributor(
    blinding: BlindingPool,
) -> None:
    ring = Ring(blinding, [{1}, {2}, {3}], signing=[attestations() for _ in range(2)])
    asked, accepts = ring.begin()
    with pytest.raises(Tampered, match="node c1: "):
        asked.accepted([replace(accepts[0], signature=bytes(64)), accepts[1]])


# ── own misuse ──────────────────────────────────────────────────────────────────────────────────────────


def started(blinding: BlindingPool, terms: Sequence[Any], people: pa.BinaryArray | None = None) -> Any:
    return circle.start(
        terms,
        column([]) if people is None else people,
        random=os.urandom,
        pool=blinding,
        attestations=[UNSIGNED] * len(terms),
        consents=[b""] * len(terms),
        policies=[bytes(32)] * len(terms),
    )


def test_terms_for_all_of_one_panel_in_the_order_of_the_ring(blinding: BlindingPool) -> None:
    good = terms_of(4)
    started(blinding, good)
    for bad in ([], good[:2], good[::-1], [*good[:2], replace(good[2], dummies=2)], [object()]):
        with pytest.raises(Misuse):
            started(blinding, bad)
    with pytest.raises(Misuse):
        started(blinding, good, column(["a", "a"]))


@pytest.mark.parametrize(
    "change",
    [
        {"matching": np.zeros(2, dtype=np.int64)},
        {"matching": np.zeros(3)},
        {"matching": np.array([0, 0, 5])},
        {"matching": np.array([0, -1, 0])},
        {"size_noise": 4},
        {"size_noise": -4},
    ],
)
def test_noise_that_does_not_fit_the_terms_is_misuse(blinding: BlindingPool, change: dict[str, Any]) -> None:
    terms = terms_of(3, dummies=4, size_slack=3)
    _, offers = started(blinding, terms)
    given_: dict[str, Any] = {"matching": np.zeros(3, dtype=np.int64), "size_noise": 0} | change
    with pytest.raises(Misuse):
        reach.answer(
            offers[0], terms[0], column([]), scalar=new_scalar(os.urandom), random=os.urandom,
            pool=blinding, attestation=UNSIGNED, **given_,
        )  # fmt: skip


# ── terms ───────────────────────────────────────────────────────────────────────────────────────────────


def test_terms_survive_their_bytes_and_say_who_is_where() -> None:
    for number in range(3, 9):
        all_ = terms_of(number, dummies=2, size_slack=5, epsilon=1.0, size_epsilon=0.25, delta=1e-6)
        assert [terms.place for terms in all_] == list(range(1, number))
        assert len({terms.panel for terms in all_}) == 1
        assert all(parse_terms(terms.to_bytes()) == terms for terms in all_)
        assert all_[0].parties == number
        assert all_[0].region_epsilon == 0.75


@pytest.mark.parametrize(
    "change",
    [
        {"partners": partners(2)},
        {"partners": tuple(PartnerList(f"c{n}", "d") for n in range(1, 9))},
        {"partners": partners(4)[::-1]},
        {"partners": (*partners(3), PartnerList("c2", "another"))},
        {"partners": "c1"},
        {"partners": ("c1", "c2")},
        {"collaboration": "c9"},
        {"contributor_dataset": "another"},
        {"dummies": 3},
        {"dummies": -2},
        {"size_slack": -1},
        {"epsilon": float("nan")},
        {"epsilon": 0.5, "size_epsilon": 0.6},
        {"delta": -1.0},
        {"analyst_segment": 7},
    ],
)
def test_terms_that_make_no_ring_are_misuse(change: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        replace(terms_of(3)[0], **change)


def test_more_dummies_than_can_be_are_refused_with_advice() -> None:
    with pytest.raises(Misuse) as caught:
        terms_of(8, dummies=20_000)
    assert caught.value.code == "too_many_dummies"


# ── the ring and the counting ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", range(3, 9))
def test_every_list_is_with_every_other_contributor_once_under_keys_of_its_own(number: int) -> None:
    visits = {(owner, place): 0 for owner in range(number) for place in range(1, number) if place != owner}
    for place in range(1, number):
        before = []
        for hop in range(1, number):
            owner = list_at(number, place, hop)
            visits[owner, place] += 1
            before.append(frozenset(_stops(number, owner, hop - 1)) | ({0} if owner == 0 else set()))
        assert len(set(before)) == number - 1
    assert set(visits.values()) == {1}


@pytest.mark.parametrize("number", range(3, 9))
def test_lengths_grow_by_what_each_contributor_mixes_in(number: int) -> None:
    terms = terms_of(number, dummies=6)[0]
    lengths = tuple(range(10, 10 + number))
    for owner in range(number):
        for hop in range(number):
            mixed = sum(
                sum(owner == place or mask >> owner & 1 for mask in sets_beside(number, place))
                for place in _stops(number, owner, hop)
            )
            assert length_after(terms, lengths, owner, hop) == lengths[owner] + 6 * mixed


def test_a_transit_key_comes_off_again() -> None:
    engine = CryptographyBlinder()
    for _ in range(20):
        on, off = transit_keys(os.urandom)
        points = engine.blind(new_scalar(os.urandom), hash_to_curve([b"a", b"b"]))
        assert engine.blind(off, engine.blind(on, points)) == points
        for key in (on, off):
            scalar = int.from_bytes(key, "little")
            assert scalar % 8 == 0 and 2**254 <= scalar < 2**255


@given(memberships(5))
def test_regions_are_counted_exactly_once_each(lists: list[set[int]]) -> None:
    # Points that share their first eight bytes are told apart by the rest.
    points = [
        Points(b"".join((n // 3).to_bytes(8, "big") + n.to_bytes(8, "big") for n in sorted(people)), 16)
        for people in lists
    ]
    assert region_counts(points).tolist() == raw_truth(lists).tolist()
    assert region_counts([Points(b"", 16)] * 3).tolist() == [0] * 8


def test_own_message_is_checked_like_any_other() -> None:
    message = ReachOwn(bytes(32), 3, bytes(32), Points(b""))
    assert parse_message(message.to_bytes()) == message
    doubled = message.to_bytes()[:-6] + b"\0\2" + bytes(8)
    with pytest.raises(PeerViolation):
        parse_message(doubled)
