"""Epochs: every run counts what is in both lists then, and what A sees of dummies does not tell them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clean_room.errors import Misuse, PeerViolation
from clean_room.group import BlindingPool, new_scalar
from clean_room.protocols import (
    EpochTerms,
    Padding,
    RefreshTerms,
    epochs,
    parse_message,
    parse_terms,
    receive,
)
from clean_room.protocols.epoch_states import AnalystEpoch, ContributorEpoch
from clean_room.protocols.lifetimes import NEVER, EpochOver, alive_pairs, change, laid, length_of, lifetimes
from clean_room.protocols.messages import AnalystChange, ContributorChange
from privacy.errors import Tampered
from tests.clean_room.protocols.conftest import attestations, column

TINY = Padding(1, 4)
REFRESHES = 2
PAIRS = 36


def terms_of(
    generation: int, *, dummies: int = 2, refreshes: int = REFRESHES, keep: int = 1000
) -> EpochTerms:
    common: dict[str, Any] = {
        "job": f"{generation}", "purpose": "overlap.reach", "analyst": "bank", "contributor": "shop",
        "padding": TINY, "dummies": dummies, "refreshes": refreshes, "keep": keep,
    }  # fmt: skip
    return EpochTerms(**common) if generation == 0 else RefreshTerms(**common, epoch="0", number=generation)


@dataclass
class Epoch:
    """Both sides of one epoch; between runs each holds only its bytes."""

    pool: BlindingPool
    dummies: int = 2
    matching: Any = None
    keep: int = 1000
    generation: int = 0
    a: bytes | None = None
    c: bytes | None = None
    changes: list[tuple[AnalystChange, ContributorChange]] = field(default_factory=list)
    view: Any = None

    def run(self, analyst: Sequence[str], contributor: Sequence[str]) -> int:
        """One run, to the end; what A counts."""
        terms = terms_of(self.generation, dummies=self.dummies, keep=self.keep)
        one, two = attestations()
        k = np.full(PAIRS, self.dummies // 2) if self.matching is None else self.matching
        own: dict[str, Any] = {"random": os.urandom, "pool": self.pool}
        a, offer = epochs.start(
            terms, [column(analyst)], scalar=new_scalar(os.urandom), attestation=one,
            held=None if self.a is None else AnalystEpoch.from_bytes(self.a), **own,
        )  # fmt: skip
        c, accept = epochs.answer(
            _sent(offer), terms, [column(contributor)], scalar=new_scalar(os.urandom), attestation=two,
            held=None if self.c is None else ContributorEpoch.from_bytes(self.c),
            matching=k if self.generation == 0 else None, **own,
        )  # fmt: skip
        state: Any
        state, change = receive(a, _sent(accept))
        c, reply = receive(c.prepared(), _sent(change))
        joined, _ = receive(state, _sent(reply))
        sealing, seal = joined.seal()
        done, last = receive(c, _sent(seal))
        assert receive(sealing, _sent(last))[0].transcript == done.transcript
        self.changes.append((change, reply))  # type: ignore[arg-type]
        self.a, self.c = joined.held.to_bytes(), c.held.to_bytes()
        self.view = joined.held
        self.generation += 1
        return int(joined.counts[0, 0])


def _sent(message: Any) -> Any:
    return parse_message(message.to_bytes())


@pytest.fixture(scope="session")
def quick() -> Any:
    with BlindingPool(workers=0) as pool:
        yield pool


people = st.frozensets(st.sampled_from("abcdefghijklmnop"), min_size=1)


@settings(max_examples=25)
@given(st.lists(st.tuples(people, people), min_size=REFRESHES + 1, max_size=REFRESHES + 1))
def test_every_run_counts_those_in_both_lists_now(quick: Any, lists: Any) -> None:
    epoch = Epoch(quick, dummies=0)
    gone: tuple[set[str], set[str]] = set(), set()
    before: list[frozenset[str]] = [frozenset(), frozenset()]
    for pair in lists:
        for side in (0, 1):
            gone[side].update(before[side] - pair[side])
        if any(pair[side] & gone[side] for side in (0, 1)):
            with pytest.raises(EpochOver):
                epoch.run(sorted(pair[0]), sorted(pair[1]))
            return
        try:
            assert epoch.run(sorted(pair[0]), sorted(pair[1])) == len(pair[0] & pair[1])
        except EpochOver:  # more has gone than there is padding for
            return
        before = list(pair)


RUNS = [
    ([f"p{i}" for i in range(40)], [f"p{i}" for i in range(20, 60)]),
    ([f"p{i}" for i in range(2, 44)], [f"p{i}" for i in range(22, 62)]),
    ([f"p{i}" for i in range(5, 46)], [f"p{i}" for i in range(25, 64)]),
]


@pytest.mark.parametrize("seed", range(3))
def test_a_count_is_off_by_the_noise_of_the_pairs_that_run(quick: Any, seed: int) -> None:
    matching = np.random.default_rng(seed).integers(0, 5, PAIRS)
    span = lifetimes(REFRESHES)
    epoch = Epoch(quick, dummies=4, matching=matching)
    for g, (ours, theirs) in enumerate(RUNS):
        running = [
            matching[i * len(span) + j] - 2
            for i, one in enumerate(span)
            for j, two in enumerate(span)
            if one[0] <= g < one[1] and two[0] <= g < two[1]
        ]
        assert len(running) == alive_pairs(REFRESHES, g)
        assert epoch.run(ours, theirs) == len(set(ours) & set(theirs)) + sum(running)


def seen(view: AnalystEpoch) -> tuple[Counter[Any], Counter[Any], Counter[Any]]:
    """All an analyst that keeps everything can tell: lifetimes in either list, and of what is in both."""

    def points(groups: Any) -> dict[bytes, tuple[int, int]]:
        return {
            bytes(point): (born, int(end))
            for born, group in enumerate(groups)
            for point, end in zip(group.points.array, group.ends, strict=True)
        }

    ours, theirs = points(view.returned), points(view.theirs)
    both = Counter((ours[point], theirs[point]) for point in ours.keys() & theirs.keys())
    return Counter(ours.values()), Counter(theirs.values()), both


def test_whatever_an_analyst_keeps_each_pair_of_lifetimes_has_noise_of_its_own(quick: Any) -> None:
    span, d = lifetimes(REFRESHES), 4
    views = []
    draws = [np.full(PAIRS, 0), np.full(PAIRS, d), np.random.default_rng(7).integers(0, d + 1, PAIRS)]
    for matching in draws:
        epoch = Epoch(quick, dummies=d, matching=matching)
        for ours, theirs in RUNS:
            epoch.run(ours, theirs)
        views.append((seen(epoch.view), [[len(m.to_bytes()) for m in pair] for pair in epoch.changes]))
    silent = views[0][0][2]
    for (ours, theirs, both), sizes in views:
        # How many points there are of which lifetime, and how long what was sent: without regard to k.
        assert (ours, theirs, sizes) == (*views[0][0][:2], views[0][1])
        assert set(ours) | set(theirs) <= set(span)
        assert both.keys() <= {(one, two) for one in span for two in span}
    for (_, _, both), matching in zip([view[0] for view in views], draws, strict=True):
        for i, one in enumerate(span):
            for j, two in enumerate(span):
                assert both[one, two] == silent[one, two] + matching[i * len(span) + j]


def test_who_opts_out_or_joins_is_hidden_among_places_of_a_size_class(quick: Any) -> None:
    sizes = []
    for leaving in ((), ("p30",), ("p30", "p31")):
        epoch = Epoch(quick, dummies=2)
        epoch.run(*RUNS[0])
        epoch.run(RUNS[0][0], [p for p in RUNS[0][1] if p not in leaving])
        sizes.append(len(epoch.changes[1][1].own_gone[0]) - 4 * 2 * 6)
    assert sizes == [4, 4, 8]  # four bytes each; classes of 1 and 2


def test_no_place_says_whether_a_person_or_padding_has_gone(quick: Any) -> None:
    """Filling is drawn from all of the padding: taken in order it would leave the early places first."""
    first = set()
    for _ in range(12):
        epoch = Epoch(quick, dummies=0)
        epoch.run(*RUNS[0])
        roles = ContributorEpoch.from_bytes(epoch.c or b"").own[0].roles
        epoch.run(*RUNS[0])
        gone = np.frombuffer(epoch.changes[1][1].own_gone[0], dtype=">u4")
        first.add(int(np.flatnonzero(roles == 0).tolist().index(int(gone[0]))))
    assert len(first) > 1


def test_who_comes_back_ends_the_epoch_on_either_side(quick: Any) -> None:
    for ours, theirs in (((0, 1, 0), (0, 0, 0)), ((0, 0, 0), (0, 1, 0))):
        epoch = Epoch(quick)
        lists = (RUNS[0][0], RUNS[0][0][2:]), (RUNS[0][1], RUNS[0][1][2:])
        epoch.run(lists[0][ours[0]], lists[1][theirs[0]])
        epoch.run(lists[0][ours[1]], lists[1][theirs[1]])
        with pytest.raises(EpochOver):
            epoch.run(lists[0][ours[2]], lists[1][theirs[2]])


def test_a_change_too_large_for_the_padding_ends_the_epoch() -> None:
    tags = np.arange(60, dtype=np.uint64).reshape(-1, 2) + 1
    group, _ = laid(tags, 3, np.empty(0, np.uint8), os.urandom)
    done = change([group], tags[9:], 1, Padding(12), os.urandom)  # nine hide among twelve
    assert [len(gone) for gone in done.gone] == [12]
    with pytest.raises(EpochOver):
        change([group], tags[8:], 1, Padding(12), os.urandom)
    with pytest.raises(EpochOver):
        change(done.groups, tags[9:], 2, Padding(12), os.urandom)


def test_a_generation_neither_side_holds_is_no_refresh(quick: Any) -> None:
    epoch = Epoch(quick)
    epoch.run(*RUNS[0])
    held, epoch.c = epoch.c, None
    with pytest.raises(EpochOver):
        epoch.run(*RUNS[1])
    epoch.c, epoch.generation = held, 2
    with pytest.raises(EpochOver):
        epoch.run(*RUNS[1])
    epoch.generation = 0
    with pytest.raises(Misuse):
        epoch.run(*RUNS[1])


def test_an_epoch_begun_with_other_noise_is_no_refresh(quick: Any) -> None:
    epoch = Epoch(quick)
    epoch.run(*RUNS[0])
    epoch.dummies = 4
    with pytest.raises(EpochOver):
        epoch.run(*RUNS[1])


def _after_one_run(quick: Any) -> tuple[Any, Any, Any]:
    """A's state before C's change, C's before A's, and A's change: in the second run."""
    epoch = Epoch(quick)
    epoch.run(*RUNS[0])
    one, two = attestations()
    own: dict[str, Any] = {"random": os.urandom, "pool": quick}
    a, offer = epochs.start(
        terms_of(1), [column(RUNS[1][0])], scalar=bytes(32), attestation=one,
        held=AnalystEpoch.from_bytes(epoch.a or b""), **own,
    )  # fmt: skip
    c, accept = epochs.answer(
        _sent(offer), terms_of(1), [column(RUNS[1][1])], scalar=bytes(32), attestation=two, matching=None,
        held=ContributorEpoch.from_bytes(epoch.c or b""), **own,
    )  # fmt: skip
    sent, change = receive(a, _sent(accept))
    return sent, c, (change, epoch.changes[0][0])


def test_a_point_is_not_taken_a_second_time(quick: Any) -> None:
    _, c, (change, first) = _after_one_run(quick)
    n = len(change.added)
    for repeated in (first.added.slice(0, n), first.added.slice(3, 3 + n)):
        with pytest.raises(PeerViolation):
            c.returned(AnalystChange(change.previous, change.gone, repeated))
    c.returned(change)


@pytest.mark.parametrize("places", [[], [0, 0], [1, 0], [10**6], [0, 1, 2, 3, 4, 5, 6, 7, 8], [2**32 - 1]])
def test_places_that_are_not_there_are_refused_and_change_nothing(quick: Any, places: list[int]) -> None:
    sent, c, (change, _) = _after_one_run(quick)
    bad = (np.array(places, dtype=">u4").tobytes(),)
    with pytest.raises(PeerViolation):
        c.returned(AnalystChange(change.previous, bad, change.added))
    for gone in ((), (*change.gone, b"")):
        with pytest.raises(PeerViolation):
            c.returned(AnalystChange(change.previous, gone, change.added))
    _, reply = c.returned(change)
    for name in ("own_gone", "returned_gone"):
        given = {n: getattr(reply, n) for n in ("returned_gone", "returned", "own_gone", "own")} | {name: bad}
        if places not in ([], [0, 1, 2, 3, 4, 5, 6, 7, 8]):
            with pytest.raises(PeerViolation):
                sent.joined(ContributorChange(reply.previous, **given))
    sent.joined(reply)


def test_a_refresh_under_another_key_is_refused(quick: Any) -> None:
    epoch = Epoch(quick)
    epoch.run(*RUNS[0])
    held = AnalystEpoch.from_bytes(epoch.a or b"")
    epoch.a = AnalystEpoch(new_scalar(os.urandom), held.key, held.own, held.returned, held.theirs).to_bytes()
    with pytest.raises(PeerViolation):
        epoch.run(*RUNS[1])


def test_thinned_people_stay_out_for_the_whole_epoch(quick: Any) -> None:
    epoch = Epoch(quick, dummies=0, keep=1)
    for ours, theirs in RUNS:
        assert epoch.run(ours, theirs) <= 2


def test_what_is_held_is_read_strictly_and_shows_nothing(quick: Any) -> None:
    epoch = Epoch(quick)
    epoch.run(*RUNS[0])
    for kind, data in ((AnalystEpoch, epoch.a or b""), (ContributorEpoch, epoch.c or b"")):
        again = kind.from_bytes(data)
        assert again.to_bytes() == data
        assert repr(again).removesuffix("dummies_per_pair=2)").removesuffix(")") == f"{kind.__name__}("
        for broken in (b"", data[:-9], b"x" + data[1:]):
            with pytest.raises(Tampered):
                kind.from_bytes(broken)


def test_terms_are_types_of_their_own_and_survive_the_wire() -> None:
    for generation in (0, 1, 2):
        terms = terms_of(generation)
        assert parse_terms(terms.to_bytes()) == terms
        assert terms.generation == generation
        assert terms.epoch_dummies == 2 * PAIRS
    for wrong in (
        {"refreshes": 0},
        {"refreshes": 9},
        {"analyst_segments": ("a", "b")},
        {"dummies": 100_000, "refreshes": 4},
    ):
        with pytest.raises(Misuse):
            EpochTerms(job="j", purpose="p", analyst="a", contributor="c", **wrong)  # type: ignore[arg-type]
    with pytest.raises(Misuse):
        RefreshTerms(job="j", purpose="p", analyst="a", contributor="c", epoch="e", number=4)


@given(st.integers(1, 4), st.integers(0, 10**6))
def test_lifetimes_and_lengths(refreshes: int, people: int) -> None:
    span = lifetimes(refreshes)
    assert len(span) == len(set(span)) == (refreshes + 1) * (refreshes + 2) // 2
    assert all(b < e and (e <= refreshes or e == NEVER) for b, e in span)
    for generation in range(refreshes + 1):
        running = (generation + 1) * (refreshes + 1 - generation)
        assert alive_pairs(refreshes, generation) == running**2
    padding = Padding()
    length = length_of(people, padding, refreshes)
    assert padding.padded(length) == length >= padding.padded(people)
    assert length == length_of(padding.padded(people), padding, refreshes)
