from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room.encryption import SLOTS, Evaluator, Parameters, SecretKey, blocks
from clean_room.errors import Misuse

SMALL, LARGE = Parameters(35_184_371_613_697), Parameters(281_474_976_694_273)


@pytest.mark.parametrize("parameters", [SMALL, LARGE], ids=["45 bits", "48 bits"])
def test_sums_of_products_are_exact_and_signed(parameters: Parameters) -> None:
    rng = np.random.default_rng(1)
    theirs, ours = (rng.integers(-(1 << 15), 1 << 15, (3, SLOTS)) for _ in range(2))
    key = SecretKey(parameters)
    evaluator, total = Evaluator(parameters, key.public_key), None
    for a, b in zip(theirs, ours, strict=True):
        total = evaluator.add_product(total, evaluator.ciphertext(key.encrypt(a)), evaluator.plaintext(b))
    answer, mask = evaluator.hide(total, os.urandom)
    lifted = parameters.residues(np.array([key.slot_sum(answer) - mask]))
    assert parameters.centred(lifted).tolist() == [(theirs * ours).sum()]


def test_a_short_block_leaves_the_other_slots_zero_and_nothing_added_is_zero() -> None:
    key = SecretKey(SMALL)
    evaluator = Evaluator(SMALL, key.public_key)
    total = evaluator.add_product(
        None, evaluator.ciphertext(key.encrypt(np.array([7]))), evaluator.plaintext(np.full(SLOTS, 3))
    )
    for given_total, truth in ((total, 21), (None, 0)):
        answer, mask = evaluator.hide(given_total, os.urandom)
        assert (key.slot_sum(answer) - mask) % SMALL.plain_modulus == truth


def test_zeros_modulo_t_make_no_plaintext() -> None:
    evaluator = Evaluator(SMALL, SecretKey(SMALL).public_key)
    assert evaluator.plaintext(np.zeros(5, dtype=np.int64)) is None
    assert evaluator.plaintext(np.full(5, SMALL.plain_modulus)) is None


@pytest.mark.parametrize(
    "values", [np.zeros(SLOTS + 1, dtype=np.int64), np.array([1 << 47]), np.array([-(1 << 63)])]
)
def test_values_that_do_not_fit_are_not_encrypted(values: np.ndarray) -> None:
    with pytest.raises(Misuse):
        SecretKey(SMALL).encrypt(values)


@pytest.mark.parametrize("modulus", [0, 1 << 20, 17_592_185_929_729, 1 << 48])
def test_a_plaintext_modulus_too_small_to_flood_or_too_large_to_decrypt_is_refused(modulus: int) -> None:
    with pytest.raises(Misuse, match="45 to 48 bits"):
        Parameters(modulus)


@pytest.mark.parametrize("modulus", [(1 << 46) + 1, (1 << 47) + 5])
def test_a_plaintext_modulus_that_cannot_pack_is_refused(modulus: int) -> None:
    with pytest.raises(Misuse, match="prime"):
        SecretKey(Parameters(modulus))


@given(st.lists(st.integers(-(SMALL.plain_modulus // 2), SMALL.plain_modulus // 2), max_size=20))
def test_residues_and_the_integers_of_least_magnitude_are_inverse(values: list[int]) -> None:
    assert SMALL.centred(SMALL.residues(np.array(values, dtype=np.int64))).tolist() == values


def test_uniform_numbers_use_every_bit_of_the_modulus_and_none_above() -> None:
    stream = iter([b"\xff" * 12, bytes.fromhex("0100000000e0") + bytes(6)])
    assert SMALL.uniform(2, lambda n: next(stream)[:n]).tolist() == [1, 0]
    for parameters in (SMALL, LARGE):
        drawn = parameters.uniform(20_000, os.urandom) / parameters.plain_modulus
        assert drawn.min() < 0.01 and drawn.max() > 0.99 and abs(drawn.mean() - 0.5) < 0.02


def test_rows_are_counted_in_blocks() -> None:
    assert [blocks(n) for n in (0, 1, SLOTS, SLOTS + 1)] == [0, 1, 1, 2]
