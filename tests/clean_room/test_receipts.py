"""Two-sided receipts, checked with nothing but keys, hashes and the result shown."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from clean_room.receipts import ReceiptCheck, check_receipt
from privacy.signing import SigningKey


@pytest.fixture(scope="module")
def signed(make_standing: Any) -> dict[str, Any]:
    """A finished query: its receipt, result, keys and agreements."""
    pair = make_standing(terms={"epsilon_per_month": 10_000.0})
    job = pair.bank.run(pair.query(dimensions=("age_band",)))
    return {
        "document": pair.bank.service.receipt(job.receipt_id),
        "other": pair.shop.service.receipt(job.receipt_id),
        "keys": pair.bank.collaborations.keys(pair.collaboration),
        "agreements": [version.hash for version in pair.bank.collaborations.versions(pair.collaboration)],
        "result": job.result,
    }


def check(signed: dict[str, Any], **changed: Any) -> ReceiptCheck:
    given = {name: signed[name] for name in ("document", "keys", "agreements", "result")} | changed
    return check_receipt(given.pop("document"), **given)


def test_both_sides_hold_a_receipt_of_which_everything_holds(signed: dict[str, Any]) -> None:
    assert check(signed) == ReceiptCheck(True, True, True, True)
    assert check(signed, document=signed["other"], result=None) == ReceiptCheck(True, True, True, None)
    assert check(signed).holds and check(signed, result=None).holds


@pytest.mark.parametrize("name", ["value", "epsilon_spent", "cells", "suppressed", "ci95"])
def test_a_result_that_was_changed_is_not_the_one_signed(signed: dict[str, Any], name: str) -> None:
    changed = copy.deepcopy(signed["result"]) | {name: 7}
    assert check(signed, result=changed) == ReceiptCheck(True, True, True, False)
    assert not check(signed, result=changed).holds


def test_what_a_node_adds_after_signing_is_no_part_of_the_result(signed: dict[str, Any]) -> None:
    assert check(signed, result={**signed["result"], "budget_left": -1}).holds


@pytest.mark.parametrize(
    "place",
    [("purpose",), ("agreement_hash",), ("transcript_hash",), ("noise", "epsilon"), ("at",), ("terms_hash",),
     ("analyst", "padded_sizes"), ("contributor", "consent", "log_size"), ("contributor", "policy")],
)  # fmt: skip
def test_no_word_of_the_body_can_be_changed(signed: dict[str, Any], place: tuple[str, ...]) -> None:
    document = copy.deepcopy(signed["document"])
    inner = document["body"]
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = "changed"
    for with_id in (document, {k: v for k, v in document.items() if k != "id"}):
        found = check(signed, document=with_id)
        assert not found.analyst and not found.contributor and not found.holds


def test_another_key_or_agreement_does_not_hold(signed: dict[str, Any]) -> None:
    other = SigningKey.generate().public
    assert not check(signed, keys=signed["keys"] | {"shop": other}).contributor
    assert not check(signed, keys=signed["keys"] | {"bank": other}).analyst
    assert check(signed, agreements=["0" * 64]) == ReceiptCheck(True, True, False, True)


@pytest.mark.parametrize("document", [None, [], {}, "x", {"body": {}}, {"body": {"analyst": 1}}, {"id": 1}])
def test_what_is_no_receipt_does_not_hold(signed: dict[str, Any], document: Any) -> None:
    assert not check(signed, document=document).holds
    assert not check(signed, keys={}).holds
