from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clean_room.errors import IllegalStep, Misuse, PeerViolation, Tampered
from clean_room.group import CryptographyBlinder, Points, new_scalar
from clean_room.group.hash_to_curve import on_curve
from clean_room.protocols import AlignTerms, Padding, cardinality, parse_message, receive
from clean_room.protocols.cardinality import AnalystDone, ContributorDone
from clean_room.protocols.dummies import draw_dummies
from clean_room.protocols.messages import AnalystPoints, ContributorPoints


def partition(segments: list[set[int]]) -> list[set[int]]:
    """Each person in the first of the segments that has it."""
    return [segment.difference(*segments[:i]) for i, segment in enumerate(segments)]


segmentation = st.lists(st.sets(st.integers(0, 25), max_size=12), min_size=1, max_size=3).map(partition)


def columns(people: Any, segments: Any) -> list[pa.BinaryArray]:
    return [people([f"person-{n}@example.org" for n in segment]) for segment in segments]


@settings(max_examples=30)
@given(analyst=segmentation, contributor=segmentation)
def test_counts_are_exact_without_dummies(
    new_pair: Any, overlap_terms: Any, people: Any, analyst: list[set[int]], contributor: list[set[int]]
) -> None:
    pair = new_pair()
    pair.exchange(
        overlap_terms(len(analyst), len(contributor)), columns(people, analyst), columns(people, contributor)
    )
    assert pair.a.counts.tolist() == [[len(a & c) for c in contributor] for a in analyst]
    assert pair.a.counts.dtype == np.int64
    assert pair.a.total == len(set().union(*analyst) & set().union(*contributor))


@settings(max_examples=15)
@given(analyst=segmentation, contributor=segmentation, data=st.data())
def test_every_cell_is_off_by_exactly_its_noise(  # noqa: PLR0917
    new_pair: Any, overlap_terms: Any, people: Any, analyst: Any, contributor: Any, data: st.DataObject
) -> None:
    shape = (len(analyst), len(contributor))
    k = np.array(
        data.draw(st.lists(st.integers(0, 4), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    )
    k = k.reshape(shape)
    pair = new_pair()
    pair.exchange(overlap_terms(*shape, dummies=4), columns(people, analyst), columns(people, contributor), k)
    truth = np.array([[len(a & c) for c in contributor] for a in analyst])
    assert (pair.a.counts - truth == k - 2).all()
    assert pair.a.total - len(set().union(*analyst) & set().union(*contributor)) == (k - 2).sum()


def test_the_noise_has_the_distribution_it_was_drawn_from(pair: Any, overlap_terms: Any, people: Any) -> None:
    # 40 cells of one run, k uniform in 0..8: value − truth must be those very numbers less 4.
    k = np.random.default_rng(7).integers(0, 9, (5, 8))
    segments = [[f"p{i}-{j}" for j in range(3)] for i in range(5)]
    mine = [people(s) for s in segments]
    theirs = [people([s[n % 3] for s in segments] if n < 3 else []) for n in range(8)]
    pair.exchange(overlap_terms(5, 8, dummies=8), mine, theirs, k)
    truth = np.array([[1 if n < 3 else 0 for n in range(8)] for _ in range(5)])
    assert np.bincount((pair.a.counts - truth + 4).reshape(-1), minlength=9).tolist() == (
        np.bincount(k.reshape(-1), minlength=9).tolist()
    )


def test_list_sizes_tell_neither_the_noise_nor_the_input_within_a_class(
    new_pair: Any, overlap_terms: Any, people: Any
) -> None:
    shapes = set()
    for k, size in ((0, 17), (6, 17), (3, 18), (3, 20)):
        pair = new_pair()
        pair.exchange(
            overlap_terms(1, 1, dummies=6, padding=Padding(16, 4)),
            [people([str(i) for i in range(size)])], [people([str(i) for i in range(5)])],
            np.array([[k]]),
        )  # fmt: skip
        lengths = [len(message) for message in pair.wire]
        shapes.add((*lengths[1:], lengths[0] > 0))
    assert len(shapes) == 1


def test_both_sides_end_with_the_same_signed_transcript(pair: Any, overlap_terms: Any, people: Any) -> None:
    pair.exchange(overlap_terms(), [people(["a", "b"])], [people(["b"])])
    pair.seal()
    assert isinstance(pair.a, AnalystDone) and isinstance(pair.c, ContributorDone)
    assert pair.a.transcript == pair.c.transcript
    assert pair.a.own_signature == pair.c.partner_signature
    assert pair.a.partner_signature == pair.c.own_signature
    digest = hashlib.sha256(b"comity/transcript/v1\n" + pair.wire[3]).digest()
    assert pair.a.transcript == digest


def test_preparing_early_changes_nothing(pair: Any, overlap_terms: Any, people: Any) -> None:
    accept = pair.begin(overlap_terms(dummies=2), [people(["a", "b"])], [people(["b", "c"])])
    pair.a, points = receive(pair.a, accept)
    prepared = pair.c.prepared()
    assert prepared.prepared() is prepared
    pair.c, reply = receive(prepared, pair.send(points))
    pair.a, _ = receive(pair.a, pair.send(reply))
    assert pair.a.counts.tolist() == [[1]]


def test_the_contributor_keeps_where_each_of_its_rows_stands(
    pair: Any, overlap_terms: Any, people: Any
) -> None:
    theirs = [people(["x", "y", "z"]), people([])]
    pair.exchange(overlap_terms(1, 2, dummies=4), [people(["y"])], theirs)
    assert [sorted(rows[rows >= 0].tolist()) for rows in pair.c.rows] == [[0, 1, 2], []]
    own = parse_message(pair.wire[3]).own
    assert [len(rows) for rows in pair.c.rows] == [len(points) for points in own]
    found = np.flatnonzero(pair.a.masks[0])
    assert 1 in pair.c.rows[0][found[found < pair.a.bounds[1]]]


# ── what travels ────────────────────────────────────────────────────────────────────────────────────────


def test_no_identifier_and_no_unkeyed_hash_of_one_travels(pair: Any, overlap_terms: Any, people: Any) -> None:
    names = [f"someone.{i}@example.org" for i in range(30)]
    pair.exchange(overlap_terms(dummies=4), [people(names[:20])], [people(names[10:])])
    pair.seal()
    wire = b"\n".join(pair.wire)
    from clean_room.group import hash_to_curve

    for name in names:
        raw = name.encode()
        forbidden = [raw, raw.split(b"@")[0], hash_to_curve([raw])]
        for algorithm in ("md5", "sha1", "sha256", "sha512", "blake2b", "sha3_256"):
            digest = hashlib.new(algorithm, raw).digest()
            forbidden += [digest[:12], digest.hex().encode()[:20]]
        assert not any(piece in wire for piece in forbidden)


def test_lists_carry_no_order(new_pair: Any, overlap_terms: Any, people: Any) -> None:
    # Where does the first of 24 people land in each list? In 60 runs an unshuffled list would say 0 always.
    names = [f"p{i}" for i in range(24)]
    single = CryptographyBlinder()
    seen: dict[str, list[int]] = {"sent": [], "returned": [], "own": []}
    for _ in range(60):
        pair = new_pair()
        pair.exchange(overlap_terms(), [people(names)], [people(names)])
        from clean_room.group import hash_to_curve

        a, c = pair.a.side.scalar, pair.c.side.scalar
        first = hash_to_curve([b"p0"])
        sent, back = parse_message(pair.wire[2]), parse_message(pair.wire[3])
        both = single.blind(c, single.blind(a, first))[:16]
        seen["sent"].append([bytes(p) for p in sent.lists[0].array].index(single.blind(a, first)))
        seen["own"].append([bytes(p) for p in back.own[0].array].index(single.blind(c, first)))
        seen["returned"].append([bytes(p) for p in back.returned[0].array].index(both))
    for places in seen.values():
        assert 6 < np.mean(places) < 17
        assert len(set(places)) > 12
    assert abs(np.corrcoef(seen["sent"], seen["returned"])[0, 1]) < 0.5


def test_every_point_that_travels_is_on_the_curve_never_the_twist(
    pair: Any, overlap_terms: Any, people: Any
) -> None:
    pair.exchange(
        overlap_terms(2, 2, dummies=10, padding=Padding(16, 4)),
        [people(["a"]), people([])],
        [people(["a"]), people([])],
    )
    points = [*parse_message(pair.wire[2]).lists, *parse_message(pair.wire[3]).own]
    coordinates = [int.from_bytes(bytes(p), "little") for some in points for p in some.array]
    assert len(coordinates) == 2 * 16 + 2 * (16 + 20)
    assert all(on_curve(u) for u in coordinates)


def test_dummies_are_on_the_curve_and_match_only_where_told(overlap_terms: Any) -> None:
    x, engine = new_scalar(os.urandom), CryptographyBlinder()
    key = engine.blind(x, (9).to_bytes(32, "little"))
    k = np.array([[3, 0], [6, 1]])
    drawn = draw_dummies(overlap_terms(2, 2, dummies=6), k, key, os.urandom, engine)
    points = [p for some in (*drawn.returned, *drawn.own) for p in some.array]
    assert len(points) == 48 and len({bytes(p) for p in points}) == 48
    assert all(on_curve(int.from_bytes(bytes(p), "little")) for p in points)
    for i in range(2):
        for j in range(2):
            own = {bytes(p) for p in Points(engine.blind(x, drawn.own[j].buffer)).array}
            assert len(own & {bytes(p) for p in drawn.returned[i].array}) == k[i, j]


# ── own misuse ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_person_twice_in_a_segment_is_refused_on_both_sides(
    new_pair: Any, overlap_terms: Any, people: Any
) -> None:
    for mine, theirs in ((["a", "a"], ["b"]), (["b"], ["a", "a"])):
        with pytest.raises(Misuse) as caught:
            new_pair().begin(overlap_terms(), [people(mine)], [people(theirs)])
        assert caught.value.code == "duplicate_people"


def test_the_same_person_in_two_segments_is_refused_on_both_sides(
    new_pair: Any, overlap_terms: Any, people: Any
) -> None:
    several, one = [people(["a", "b"]), people(["b"])], [people(["b"])]
    for terms, mine, theirs in ((overlap_terms(2, 1), several, one), (overlap_terms(1, 2), one, several)):
        with pytest.raises(Misuse) as caught:
            new_pair().begin(terms, mine, theirs)
        assert caught.value.code == "overlapping_segments"


@pytest.mark.parametrize(
    "bad",
    [[], [pa.array([b"a", None], pa.binary())], [pa.array(["text"])], [pa.array([1, 2])]],
    ids=["no segment", "a null", "text", "numbers"],
)
def test_input_that_does_not_fit_the_terms_is_refused(
    new_pair: Any, overlap_terms: Any, people: Any, bad: Any
) -> None:
    with pytest.raises(Misuse):
        new_pair().begin(overlap_terms(), bad, [people(["a"])])
    with pytest.raises(Misuse):
        new_pair().begin(overlap_terms(), [people(["a"])], bad)


@pytest.mark.parametrize("k", [[[7]], [[-1]], [[1, 1]], [1], [[1.5]]], ids=str)
def test_noise_that_does_not_fit_the_terms_is_refused(
    new_pair: Any, overlap_terms: Any, people: Any, k: Any
) -> None:
    with pytest.raises(Misuse):
        new_pair().begin(overlap_terms(dummies=6), [people(["a"])], [people(["a"])], np.array(k))


def test_alignment_terms_do_not_start_an_overlap(pair: Any, align_terms: Any, people: Any) -> None:
    terms: AlignTerms = align_terms()
    with pytest.raises(Misuse):
        cardinality.start(
            terms, [people(["a"])], scalar=bytes(32), random=os.urandom, pool=pair.pool, attestation=None,  # type: ignore[arg-type]
        )  # fmt: skip


# ── the partner's violations ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def half(pair: Any, overlap_terms: Any, people: Any) -> Any:
    """Both sides with the analyst's points and the contributor's answer ready but not yet received."""
    accept = pair.begin(
        overlap_terms(2, 1, dummies=2), [people(["a", "b", "c"]), people(["d"])], [people(["a", "e"])]
    )
    pair.accept, pair.asked = accept, pair.a
    pair.a, points = receive(pair.a, accept)
    pair.points, pair.agreed = pair.send(points), pair.c
    pair.c, reply = receive(pair.c, pair.points)
    pair.reply = pair.send(reply)
    return pair


def edited(points: Points, at: int, value: bytes) -> Points:
    flat = bytearray(points.buffer)
    flat[at * points.width : (at + 1) * points.width] = value
    return Points(bytes(flat), points.width)


LOW_ORDER = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]
NON_CANONICAL = [(2**255 - 19 + d).to_bytes(32, "little") for d in (0, 9, 18)] + [b"\xff" * 32]


@pytest.mark.parametrize("bad", LOW_ORDER + NON_CANONICAL, ids=lambda b: b.hex()[:4] + b.hex()[-4:])
def test_a_bad_point_from_either_side_is_a_violation(half: Any, bad: bytes) -> None:
    lists = (edited(half.points.lists[0], 1, bad), half.points.lists[1])
    with pytest.raises(PeerViolation):
        half.agreed.returned(AnalystPoints(half.points.previous, lists))
    own = (edited(half.reply.own[0], 0, bad),)
    with pytest.raises(PeerViolation):
        half.a.joined(ContributorPoints(half.reply.previous, half.reply.returned, own))
    assert half.a.joined(half.reply).counts.tolist() == [[1], [0]]  # the states were left as they were
    half.agreed.returned(half.points)


def test_lists_of_another_number_or_size_are_violations(half: Any) -> None:
    first, second = half.points.lists
    for lists in (
        (),
        (first,),
        (first, second, second),
        (second, first),
        (first.slice(1, len(first)), second),
    ):
        with pytest.raises(PeerViolation):
            half.agreed.returned(AnalystPoints(half.points.previous, lists))
    back, own = half.reply.returned, half.reply.own
    bad = [
        ((), own), (back, ()), (back[:1], own), (back[::-1], own), (back, own * 2),
        ((back[0].slice(1, len(back[0])), back[1]), own), (back, (own[0].slice(1, len(own[0])),)),
    ]  # fmt: skip
    for returned, mine in bad:
        with pytest.raises(PeerViolation):
            half.a.joined(ContributorPoints(half.reply.previous, returned, mine))


def test_a_point_sent_twice_is_a_violation(half: Any) -> None:
    first, second = half.points.lists
    with pytest.raises(PeerViolation, match="twice"):
        half.agreed.returned(
            AnalystPoints(half.points.previous, (edited(first, 0, bytes(first.array[1])), second))
        )
    back, own = half.reply.returned, half.reply.own
    with pytest.raises(PeerViolation, match="twice"):
        half.a.joined(
            ContributorPoints(
                half.reply.previous, (edited(back[0], 0, bytes(back[0].array[1])), back[1]), own
            )
        )
    with pytest.raises(PeerViolation, match="twice"):
        half.a.joined(
            ContributorPoints(half.reply.previous, back, (edited(own[0], 0, bytes(own[0].array[1])),))
        )


def test_one_list_sent_for_every_segment_is_a_violation_as_its_noise_could_be_averaged(
    pair: Any, overlap_terms: Any, people: Any
) -> None:
    names = ["a", "b", "c"]
    accept = pair.begin(
        overlap_terms(2, 2, dummies=4),
        [people(names), people(["d", "e", "f"])],
        [people(["a"]), people(["b"])],
    )
    pair.a, points = receive(pair.a, accept)
    first, _ = points.lists
    for lists in ((first, first), (first, first.take(np.arange(len(first))[::-1]))):
        with pytest.raises(PeerViolation, match="twice"):
            pair.c.returned(AnalystPoints(points.previous, lists))
    pair.c, reply = receive(pair.c, points)
    with pytest.raises(PeerViolation, match="twice"):
        pair.a.joined(ContributorPoints(reply.previous, reply.returned, (reply.own[0],) * 2))
    with pytest.raises(PeerViolation, match="twice"):
        pair.a.joined(ContributorPoints(reply.previous, (reply.returned[0],) * 2, reply.own))


def test_messages_of_another_job_out_of_turn_or_sent_again_are_violations(
    half: Any, new_pair: Any, overlap_terms: Any, people: Any
) -> None:
    other = new_pair()
    accept = other.begin(
        overlap_terms(2, 1, dummies=2), [people(["a", "b", "c"]), people(["d"])], [people(["a", "e"])]
    )
    other.a, points = receive(other.a, accept)
    for state, message in (
        (half.asked, accept), (half.agreed, points),  # another job's
        (half.asked, half.points), (half.asked, half.reply),
        (half.agreed, half.accept), (half.agreed, half.reply),
        (half.a, half.accept), (half.a, half.points), (half.c, half.points),  # out of turn, or again
    ):  # fmt: skip
        with pytest.raises(PeerViolation):
            receive(state, message)
    half.a, none = receive(half.a, half.reply)
    assert none is None
    with pytest.raises(IllegalStep):
        receive(half.a.seal()[0].sealed, half.reply)


def test_an_offer_is_refused_unless_its_terms_sizes_key_and_signature_fit(
    pair: Any, overlap_terms: Any, people: Any
) -> None:
    from dataclasses import replace

    from clean_room.protocols.messages import InputCommitment

    terms = overlap_terms()
    pair.begin(terms, [people(["a"])], [people(["a"])])
    offer, side = parse_message(pair.wire[0]), pair.c.side
    given = {
        "scalar": side.scalar, "random": os.urandom, "pool": pair.pool, "attestation": side.attestation,
        "matching": np.zeros((1, 1), int),
    }  # fmt: skip
    cardinality.answer(offer, terms, [people(["a"])], **given)
    for bad in (
        replace(offer, terms=overlap_terms().to_bytes()),
        replace(offer, terms=offer.terms[:-1]),
        replace(offer, commitment=InputCommitment((1, 1))),
        replace(offer, commitment=InputCommitment((1001,))),
        replace(offer, previous=b"\1" * 32),
    ):
        with pytest.raises(PeerViolation):
            cardinality.answer(bad, terms, [people(["a"])], **given)
    for bad in (
        replace(offer, signature=bytes(64)),
        replace(offer, key=(9).to_bytes(32, "little")),
        replace(offer, commitment=InputCommitment((1,), b"other")),
    ):
        with pytest.raises(Tampered):
            cardinality.answer(bad, terms, [people(["a"])], **given)


@pytest.mark.parametrize("key", LOW_ORDER + NON_CANONICAL, ids=lambda b: b.hex()[:4] + b.hex()[-4:])
def test_a_key_of_low_order_is_refused_before_anything_is_computed(
    pair: Any, overlap_terms: Any, people: Any, key: bytes
) -> None:
    from dataclasses import replace

    terms = overlap_terms()
    pair.begin(terms, [people(["a"])], [people(["a"])])
    offer = replace(parse_message(pair.wire[0]), key=key)
    offer = replace(offer, signature=pair.a.side.attestation.sign(cardinality.OFFER, offer.unsigned()))
    with pytest.raises(PeerViolation):
        cardinality.answer(
            offer, terms, [people(["a"])], matching=np.zeros((1, 1), int), scalar=pair.c.side.scalar,
            random=os.urandom, pool=pair.pool, attestation=pair.c.side.attestation,
        )  # fmt: skip


def test_an_accept_with_odd_sizes_or_a_bad_signature_is_refused(half: Any) -> None:
    from dataclasses import replace

    from clean_room.protocols.messages import InputCommitment

    for commitment in (InputCommitment((1, 1)), InputCommitment((1001,)), InputCommitment((1 << 28,))):
        with pytest.raises(PeerViolation):
            half.asked.accepted(replace(half.accept, commitment=commitment))
    with pytest.raises(Tampered):
        half.asked.accepted(replace(half.accept, signature=bytes(64)))


def test_a_seal_must_be_over_this_transcript_by_the_other_role(half: Any) -> None:
    from dataclasses import replace

    joined = half.a.joined(half.reply)
    sealing, seal = joined.seal()
    for bad in (replace(seal, previous=bytes(32)), replace(seal, role=2)):
        with pytest.raises(PeerViolation):
            half.c.sealed(bad)
    with pytest.raises(Tampered):
        half.c.sealed(replace(seal, signature=bytes(64)))
    _, reply = half.c.sealed(seal)
    with pytest.raises(PeerViolation):
        sealing.sealed(seal)  # our own seal, reflected
    assert sealing.sealed(reply).transcript == joined.transcript


def test_states_and_errors_show_no_secret_and_no_person(half: Any) -> None:
    for state in (half.asked, half.agreed, half.a, half.c, half.a.joined(half.reply), half.a.side):
        shown = repr(state)
        assert "scalar" not in shown and "matching" not in shown and "b'a'" not in shown
        assert half.a.side.scalar.hex() not in shown and repr(half.a.side.scalar)[2:-1] not in shown
