from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st

from clean_room.encryption import evaluator
from clean_room.errors import IllegalStep, Misuse, PeerViolation, Refused
from clean_room.group import Points
from clean_room.protocols import ColumnTerms, receive, sums
from clean_room.protocols.bfv import PARAMETERS, SLOTS, Decryptor, Summator, blocks
from clean_room.protocols.messages import DecryptedSums, MaskedSums, ValueColumns
from clean_room.protocols.terms import PLAIN_MODULUS

uniform = PARAMETERS.uniform
COLUMNS = (ColumnTerms("amount", -1000, 10**9, 100), ColumnTerms("visits", 0, 50))


def truth(mine: list[list[str]], theirs: list[list[str]], values: Any) -> list[list[list[int]]]:
    return [
        [
            [sum(int(v) for person, v in zip(c, column[j], strict=True) if person in a) for column in values]
            for j, c in enumerate(theirs)
        ]
        for a in mine
    ]


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), dummies=st.sampled_from([0, 4]))
def test_sums_are_exact_without_noise(
    new_pair: Any, measure_terms: Any, people: Any, seed: int, dummies: int
) -> None:
    rng = np.random.default_rng(seed)
    names = [f"p{i}" for i in range(30)]
    mine, theirs = (
        [list(s) for s in np.split(rng.permutation(names)[:25], np.sort(rng.integers(0, 25, cuts)))]
        for cuts in rng.integers(0, 2, 2)
    )
    values = [[rng.integers(c.lower, c.upper + 1, len(s)) for s in theirs] for c in COLUMNS]
    terms = measure_terms(len(mine), len(theirs), dummies=dummies, columns=COLUMNS)
    pair = new_pair()
    matching = rng.integers(0, dummies + 1, terms.groups)
    pair.exchange(terms, [people(s) for s in mine], [people(s) for s in theirs], matching)
    assert (pair.a.counts - (matching - dummies // 2)).tolist() == [
        [len({*a} & {*c}) for c in theirs] for a in mine
    ]
    pair.sums(values, np.zeros((*terms.groups, 2), dtype=int))
    assert pair.a.sums.tolist() == truth(mine, theirs, values)
    assert pair.a.sums.dtype == np.int64
    pair.seal()
    assert pair.a.transcript == pair.c.transcript


def test_the_largest_sums_agreed_are_exact_on_both_sides_of_zero(
    pair: Any, measure_terms: Any, people: Any
) -> None:
    edge = (PLAIN_MODULUS // 4 - 1) // 64
    names = [f"p{i}" for i in range(64)]
    terms = measure_terms(columns=(ColumnTerms("up", 0, edge), ColumnTerms("down", -edge, 0)))
    pair.exchange(terms, [people(names)], [people(names)])
    pair.sums(
        [[np.full(64, edge)], [np.full(64, -edge)]],
        np.array([[[PLAIN_MODULUS // 4 - 1, 1 - PLAIN_MODULUS // 4]]]),
    )
    most = 64 * edge + PLAIN_MODULUS // 4 - 1
    assert pair.a.sums.tolist() == [[[most, -most]]]


def test_a_column_longer_than_one_ciphertext_sums_right() -> None:
    rows = SLOTS + 100
    rng = np.random.default_rng(1)
    values, mask = rng.integers(0, 10**6, rows), rng.random(rows) < 0.5
    decryptor = Decryptor()
    summator = Summator(decryptor.key, rng.bytes)
    assert blocks(rows) == 2
    for at in range(0, rows, SLOTS):
        block = summator.column(decryptor.encrypt(values[at : at + SLOTS]))
        plain = summator.mask(mask[at : at + SLOTS])
        summator.add(0, 0, block, plain)
    data, hidden = summator.close(0, 0)
    assert (decryptor.sum(data) - hidden) % PLAIN_MODULUS == values[mask].sum()


def test_a_block_travels_as_one_polynomial_and_a_seed_and_an_answer_over_one_prime(ready: Any) -> None:
    assert {len(block) for column in ready.columns.ciphertexts for block in column[0]} == {196_802}
    assert {len(answer) for answer in ready.masked.ciphertexts} == {131_185}


def test_noise_is_added_as_given(pair: Any, measure_terms: Any, people: Any) -> None:
    terms = measure_terms(1, 2, columns=COLUMNS)
    pair.exchange(terms, [people(["a"])], [people(["a"]), people([])])
    noise = np.array([[[7, -7], [-(10**9), 0]]])
    pair.sums([[np.array([5]), np.array([], dtype=int)], [np.array([1]), np.array([], dtype=int)]], noise)
    assert pair.a.sums.tolist() == [[[12, -6], [-(10**9), 0]]]


def test_what_the_contributor_decrypts_is_uniform_whoever_matched() -> None:
    decryptor = Decryptor()
    seen = []
    for _ in range(24):
        summator = Summator(decryptor.key, np.random.default_rng().bytes)
        summator.add(
            0, 0, summator.column(decryptor.encrypt(np.full(SLOTS, 5))), summator.mask(np.ones(SLOTS, bool))
        )
        seen.append(decryptor.sum(summator.close(0, 0)[0]) / PLAIN_MODULUS)
    assert min(seen) < 0.3 and max(seen) > 0.7 and len(set(seen)) == 24


def test_smudging_leaves_little_budget_and_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    # Measured through the key holder's eyes: a masked block alone would leave some 70 bits.
    decryptor = Decryptor()
    summator = Summator(decryptor.key, np.random.default_rng(3).bytes)
    mask = summator.mask(np.random.default_rng(4).random(SLOTS) < 0.5)
    for _ in range(64):
        summator.add(0, 0, summator.column(decryptor.encrypt(np.full(SLOTS, 10**6))), mask)
    left, switch_down = [], evaluator.switch_down

    def watched(seal_evaluator: Any, ciphertext: Any) -> None:
        left.append(decryptor._secret._budget(ciphertext))
        switch_down(seal_evaluator, ciphertext)

    monkeypatch.setattr(evaluator, "switch_down", watched)
    summator.close(0, 0)
    assert 8 <= left[0] <= 24


def test_uniform_numbers_stay_below_the_modulus_and_reject_the_rest() -> None:
    calls = iter([b"\xff" * 6 * 3, bytes(6 * 2) + b"\xff" * 6, b"\x01" + bytes(5)])
    assert uniform(3, lambda n: next(calls)[:n]).tolist() == [0, 0, 1]
    assert (uniform(5000, np.random.default_rng(0).bytes) < PLAIN_MODULUS).all()


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ready(pair: Any, measure_terms: Any, people: Any) -> Any:
    """A pair that has counted, with the columns encrypted, asked for and ready to be answered."""
    terms = measure_terms(2, 1, dummies=2, columns=COLUMNS)
    pair.exchange(terms, [people(["a", "b"]), people(["c"])], [people(["b", "c", "d"])])
    pair.joined, pair.returned = pair.a, pair.c
    pair.values = [[np.array([10, 20, 30])], [np.array([1, 2, 3])]]
    pair.c, columns = sums.offer_values(pair.c, pair.values)
    pair.columns = pair.send(columns)
    pair.a, masked = receive(pair.a, pair.columns)
    pair.masked = pair.send(masked)
    pair.zero = np.zeros((2, 1, 2), dtype=int)
    return pair


@pytest.mark.parametrize(
    "values",
    [
        [], [[np.array([1, 2, 3])]], [[np.array([1, 2])], [np.array([1, 2, 3])]], [[], []],
        [[np.array([1.0, 2.0, 3.0])], [np.array([1, 2, 3])]], [[np.array([1, 2, 3])], [np.array([1, 2, 51])]],
        [[np.array([-1001, 2, 3])], [np.array([1, 2, 3])]],
    ],
    ids=["none", "a column less", "a row less", "no segment", "fractions", "above", "below"],
)  # fmt: skip
def test_values_that_do_not_fit_the_terms_are_refused(ready: Any, values: Any) -> None:
    with pytest.raises(Misuse):
        sums.offer_values(ready.returned, values)


@pytest.mark.parametrize(
    "noise",
    [np.zeros((2, 1)), np.zeros((2, 1, 2)), np.full((2, 1, 2), PLAIN_MODULUS // 4)],
    ids=["shape", "type", "size"],
)
def test_noise_that_does_not_fit_is_refused(ready: Any, noise: Any) -> None:
    with pytest.raises(Misuse):
        ready.c.masked(ready.masked, noise)
    assert ready.c.masked(ready.masked, ready.zero)[1].sums


def test_so_many_rows_that_a_sum_could_wrap_are_refused_at_the_start(
    new_pair: Any, measure_terms: Any, people: Any
) -> None:
    terms = measure_terms(columns=(ColumnTerms("a", 0, 1 << 40),))
    with pytest.raises(Refused) as caught:
        new_pair().begin(terms, [people(["a"])], [people([str(i) for i in range(100)])])
    assert caught.value.code == "bounds_exceeded"


def test_sums_cannot_be_skipped_nor_added_to_an_overlap(
    ready: Any, new_pair: Any, overlap_terms: Any, people: Any
) -> None:
    with pytest.raises(IllegalStep):
        ready.joined.seal()
    with pytest.raises(IllegalStep):
        ready.returned.sealed(None)
    other = new_pair()
    other.exchange(overlap_terms(), [people(["a"])], [people(["a"])])
    with pytest.raises(IllegalStep):
        sums.offer_values(other.c, [])
    with pytest.raises(IllegalStep):
        sums.ask(other.a, ready.columns)


def hostile(data: bytes) -> list[bytes]:
    """Ciphertexts that are not one: cut, longer, zero, compressed, with a coefficient out of range."""
    return [
        b"", data[:-1], data + b"\0", bytes(len(data)),
        data[:5] + b"\2" + data[6:], data[:20] + bytes([data[20] ^ 1]) + data[21:],
        data[:16] + bytes(32) + data[48:], data[:-128] + b"\xff" * 8 + data[-120:],
    ]  # fmt: skip


@pytest.mark.parametrize("n", range(8))
def test_a_bad_ciphertext_or_key_is_a_violation_on_either_side(ready: Any, n: int) -> None:
    (column, other), key = ready.columns.ciphertexts, bytes(ready.columns.key)
    bad = hostile(bytes(column[0][0]))[n]
    with pytest.raises(PeerViolation):
        sums.ask(ready.joined, ValueColumns(ready.columns.previous, key, (((bad,),), other)))
    with pytest.raises(PeerViolation):
        sums.ask(ready.joined, replace(ready.columns, key=hostile(key)[n]))
    bad = hostile(bytes(ready.masked.ciphertexts[0]))[n]
    with pytest.raises(PeerViolation):
        ready.c.masked(MaskedSums(ready.masked.previous, (bad, *ready.masked.ciphertexts[1:])), ready.zero)
    assert len(ready.c.masked(ready.masked, ready.zero)[1].sums) == 4


def test_a_ciphertext_of_another_key_is_a_violation(ready: Any) -> None:
    stranger, _ = Summator(Decryptor().key, np.random.default_rng(5).bytes).close(0, 0)
    with pytest.raises(PeerViolation, match="another key"):
        ready.c.masked(
            MaskedSums(ready.masked.previous, (stranger, *ready.masked.ciphertexts[1:])), ready.zero
        )


def test_a_ciphertext_of_other_parameters_is_a_violation(ready: Any, tmp_path: Any) -> None:
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(SLOTS)
    parameters.set_coeff_modulus(seal.CoeffModulus.BFVDefault(SLOTS, seal.SEC_LEVEL_TYPE.TC128))
    parameters.set_plain_modulus(seal.PlainModulus.Batching(SLOTS, 40))
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    generator, public = seal.KeyGenerator(context), seal.PublicKey()
    generator.create_public_key(public)
    zero = seal.Ciphertext()
    seal.Encryptor(context, public).encrypt_zero(zero)
    for thing in (zero, public):
        thing.save(str(tmp_path / "thing"))
        data = (tmp_path / "thing").read_bytes()
        (column, other) = ready.columns.ciphertexts
        assert column
        with pytest.raises(PeerViolation):
            sums.ask(ready.joined, replace(ready.columns, ciphertexts=(((data,),), other)))
        with pytest.raises(PeerViolation):
            sums.ask(ready.joined, replace(ready.columns, key=data))


def test_columns_sums_and_answers_of_another_shape_are_violations(ready: Any) -> None:
    first, second = ready.columns.ciphertexts
    for ciphertexts in (
        (first,),
        (first, second, second),
        (first, ((),)),
        (first, second * 2),
        (first * 2, second),
    ):
        with pytest.raises(PeerViolation):
            sums.ask(ready.joined, replace(ready.columns, ciphertexts=ciphertexts))
    with pytest.raises(PeerViolation):
        ready.c.masked(MaskedSums(ready.masked.previous, ready.masked.ciphertexts[:3]), ready.zero)
    ready.c, answer = ready.c.masked(ready.masked, ready.zero)
    for bad in (answer.sums[:3], (*answer.sums, 0), (*answer.sums[:3], PLAIN_MODULUS)):
        with pytest.raises(PeerViolation):
            ready.a.answered(DecryptedSums(answer.previous, bad))
    with pytest.raises(PeerViolation):
        ready.a.answered(replace(answer, previous=bytes(32)))
    assert ready.a.answered(answer).sums.tolist() == [[[10, 1]], [[20, 2]]]


def test_no_value_and_no_key_shows_in_a_message_or_a_state(ready: Any) -> None:
    assert "secret" not in repr(ready.c) and "Decryptor" not in repr(ready.c)
    assert len(repr(ready.columns)) < 200 and len(repr(ready.masked)) < 200
    one, two = (Decryptor(), Decryptor())
    assert one.key != two.key
    assert one.encrypt(np.arange(3)) != one.encrypt(np.arange(3))
    assert isinstance(ready.joined.side.segments, tuple) and not isinstance(ready.joined, Points)
