"""What an answer shows to the holder of the key: measured with the key."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from clean_room.encryption import SLOTS, Evaluator, Parameters, SecretKey, evaluator
from clean_room.encryption.serialisation import forms
from clean_room.errors import PeerViolation

SMALL, LARGE = Parameters(35_184_371_613_697), Parameters(281_474_976_694_273)
BLOCKS = 64


@pytest.mark.parametrize(("parameters", "margin"), [(SMALL, 48), (LARGE, 51)], ids=["45 bits", "48 bits"])
def test_flooding_hides_the_noise_of_sixty_four_blocks_by_the_margin_stated(
    parameters: Parameters, margin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SecretKey(parameters)
    side, total = Evaluator(parameters, key.public_key), None
    block, rng = side.ciphertext(key.encrypt(np.full(SLOTS, 10**6))), np.random.default_rng(2)
    for _ in range(BLOCKS):
        total = side.add_product(total, block, side.plaintext(rng.integers(0, 2, SLOTS)))
    budgets: list[int] = []
    switch_down = evaluator.switch_down

    def watched(seal_evaluator: Any, ciphertext: Any) -> None:
        budgets.append(key._budget(ciphertext))
        switch_down(seal_evaluator, ciphertext)

    monkeypatch.setattr(evaluator, "switch_down", watched)
    answer, _ = side.hide(total, os.urandom)
    side._evaluator.transform_from_ntt_inplace(total)
    assert key._budget(total) - budgets[0] >= margin
    assert budgets[0] >= 10
    left = key._budget(forms(parameters).answer.load(parameters, answer))
    assert left >= 3


def test_the_same_question_twice_gives_answers_that_share_no_slot_and_no_coefficient() -> None:
    key = SecretKey(SMALL)
    side = Evaluator(SMALL, key.public_key)
    block, plain = side.ciphertext(key.encrypt(np.arange(SLOTS))), side.plaintext(np.ones(SLOTS, dtype=int))
    one, two = (side.hide(side.add_product(None, block, plain), os.urandom)[0] for _ in range(2))
    assert (key.slots(one) == key.slots(two)).sum() < 3
    words = [np.frombuffer(data[113:], dtype="<u8") for data in (one, two)]
    assert (words[0] == words[1]).sum() < 3


def test_an_answer_under_another_key_is_a_violation() -> None:
    answer, _ = Evaluator(SMALL, SecretKey(SMALL).public_key).hide(None, os.urandom)
    with pytest.raises(PeerViolation, match="another key"):
        SecretKey(SMALL).slot_sum(answer)


def test_an_answer_whose_coefficients_are_random_is_a_violation() -> None:
    key = SecretKey(SMALL)
    answer, _ = Evaluator(SMALL, key.public_key).hide(None, os.urandom)
    noise = np.random.default_rng(4).integers(0, 1 << 59, 2 * SLOTS, dtype=np.uint64)
    with pytest.raises(PeerViolation, match="too noisy"):
        key.slot_sum(answer[:113] + noise.astype("<u8").tobytes())


def test_nothing_secret_has_a_repr() -> None:
    key = SecretKey(SMALL)
    assert repr(key) == "SecretKey(…)"
    assert repr(Evaluator(SMALL, key.public_key)) == "Evaluator(…)"
