"""The BFV layer: exact sums, uniform masks, nothing accepted that is not what it claims to be."""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clean_room.encryption import evaluator as inside
from federated.errors import PeerViolation, TrainingMisuse
from federated.vertical.encryption import (
    PARAMETERS,
    PLAIN_MODULUS,
    SLOTS,
    PublicEvaluator,
    SecretKeyHolder,
)


@pytest.fixture(scope="module")
def keys() -> SecretKeyHolder:
    return SecretKeyHolder()


@pytest.fixture(scope="module")
def columns() -> np.ndarray:
    drawn = np.random.default_rng(1).integers(-(1 << 17), 1 << 17, (SLOTS + 700, 4))
    drawn[:, 3] = 0
    return drawn


def unmasked(keys: SecretKeyHolder, sums: tuple[bytes, ...], masks: np.ndarray) -> np.ndarray:
    total = np.array([keys.slot_sum(c) for c in sums], dtype=np.uint64)
    return PARAMETERS.centred((total + np.uint64(PLAIN_MODULUS) - masks) % np.uint64(PLAIN_MODULUS))


def test_masked_sums_over_several_blocks_are_exact(keys: SecretKeyHolder, columns: np.ndarray) -> None:
    residuals = np.random.default_rng(2).integers(-(1 << 14), 1 << 14, len(columns))
    evaluator = PublicEvaluator(keys.public_key, columns)
    sums, masks = evaluator.masked_products(keys.encrypt(residuals), os.urandom)
    assert unmasked(keys, sums, masks).tolist() == (columns.T @ residuals).tolist()


def test_what_the_key_holder_decrypts_is_uniform_whatever_the_columns_hold(
    keys: SecretKeyHolder, columns: np.ndarray
) -> None:
    evaluator = PublicEvaluator(keys.public_key, columns)
    sums, _ = evaluator.masked_products(keys.encrypt(np.ones(len(columns), dtype=np.int64)), os.urandom)
    for ciphertext in sums:
        slots = keys.slots(ciphertext)
        counts = np.bincount((slots // np.uint64(PLAIN_MODULUS // 32 + 1)).astype(np.int64), minlength=32)
        statistic = ((counts - SLOTS / 32) ** 2 / (SLOTS / 32)).sum()
        assert statistic < 100  # χ² with 31 degrees of freedom exceeds 100 once in 10⁹ draws


def test_two_answers_to_the_same_question_share_no_slot_and_no_bytes(keys: SecretKeyHolder) -> None:
    column = np.arange(SLOTS)[:, None]
    blocks = keys.encrypt(np.arange(SLOTS))
    evaluator = PublicEvaluator(keys.public_key, column)
    (first,), (second,) = (evaluator.masked_products(blocks, os.urandom)[0] for _ in range(2))
    assert (keys.slots(first) == keys.slots(second)).sum() < 3
    assert first[100:] != second[100:]


def test_the_noise_left_is_flooded_but_far_from_spent(
    keys: SecretKeyHolder, columns: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, switch_down = [], inside.switch_down

    def watched(seal_evaluator: Any, ciphertext: Any) -> None:
        left.append(keys._secret._budget(ciphertext))
        switch_down(seal_evaluator, ciphertext)

    monkeypatch.setattr(inside, "switch_down", watched)
    evaluator = PublicEvaluator(keys.public_key, columns)
    evaluator.masked_products(keys.encrypt(np.full(len(columns), 1 << 14)), os.urandom)
    assert len(left) == 4 and all(10 <= budget <= 30 for budget in left)


def test_uniform_numbers_stay_below_the_modulus_and_reject_what_is_above() -> None:
    stream = iter([b"\xff" * 32, b"".join(n.to_bytes(6, "little") for n in (5, 6, 7, 8))])
    assert PARAMETERS.uniform(4, lambda n: next(stream)[:n]).tolist() == [5, 6, 7, 8]
    assert PARAMETERS.uniform(1000, os.urandom).max() < PLAIN_MODULUS


def test_a_ciphertext_under_another_key_is_a_violation(keys: SecretKeyHolder) -> None:
    other = SecretKeyHolder()
    evaluator = PublicEvaluator(other.public_key, np.ones((10, 1), dtype=np.int64))
    sums, _ = evaluator.masked_products(other.encrypt(np.ones(10, dtype=np.int64)), os.urandom)
    with pytest.raises(PeerViolation):
        keys.slot_sum(sums[0])


def damaged(blob: bytes) -> list[bytes]:
    header = struct.Struct("<HBBBBHQ")
    magic, size, major, minor, _, reserved, length = header.unpack_from(blob)
    bomb = pa.Codec("zstd").compress(bytes(64 << 20), asbytes=True)
    return [
        b"",
        blob[:15],
        blob[:-1],
        blob[: len(blob) // 2],
        blob + b"\0",
        b"\0" * len(blob),
        os.urandom(len(blob)),
        header.pack(magic, size, major + 1, minor, 2, reserved, length) + blob[16:],
        header.pack(magic, size, major, minor, 1, reserved, length) + blob[16:],
        header.pack(magic, size, major, minor, 2, reserved, length) + blob[16:],
        header.pack(magic, size, major, minor, 2, reserved, 16 + len(bomb)) + bomb,
        blob[:16] + os.urandom(len(blob) - 16),
        os.urandom(3 << 20),
    ]


def test_damaged_ciphertexts_and_keys_are_violations(keys: SecretKeyHolder) -> None:
    column = np.ones((10, 1), dtype=np.int64)
    evaluator = PublicEvaluator(keys.public_key, column)
    blocks = keys.encrypt(np.ones(10, dtype=np.int64))
    sums, _ = evaluator.masked_products(blocks, os.urandom)
    for blob in damaged(sums[0]):
        with pytest.raises(PeerViolation):
            keys.slot_sum(blob)
    for blob in damaged(blocks[0]):
        with pytest.raises(PeerViolation):
            evaluator.masked_products([blob], os.urandom)
    for blob in damaged(keys.public_key):
        with pytest.raises(PeerViolation):
            PublicEvaluator(blob, column)


def test_ciphertexts_of_another_level_or_number_are_violations(keys: SecretKeyHolder) -> None:
    evaluator = PublicEvaluator(keys.public_key, np.ones((10, 1), dtype=np.int64))
    blocks = keys.encrypt(np.ones(10, dtype=np.int64))
    sums, _ = evaluator.masked_products(blocks, os.urandom)
    for wrong in ([sums[0]], [], [blocks[0], blocks[0]], [keys.public_key]):
        with pytest.raises(PeerViolation):
            evaluator.masked_products(wrong, os.urandom)
    with pytest.raises(PeerViolation):
        keys.slot_sum(blocks[0])


def test_values_that_do_not_fit_are_not_encrypted(keys: SecretKeyHolder) -> None:
    for values in ([], [PLAIN_MODULUS], [-(1 << 63)]):
        with pytest.raises(TrainingMisuse):
            keys.encrypt(np.array(values, dtype=np.int64))


def test_nothing_secret_has_a_repr(keys: SecretKeyHolder) -> None:
    assert repr(keys) == "SecretKeyHolder(…)"
