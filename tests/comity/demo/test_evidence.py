"""The demonstration's checks fail when they should: a check that cannot fail shows nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clean_room.receipts import Receipt
from comity.demo.evidence import AbsenceCheck, Join, check_joins
from comity.demo.sites import Site
from privacy.signing import SigningKey

GOOD = AbsenceCheck(people=200, receipts=12, proofs=2_400, present_before=200, failed=0, complete=True)
KEYS = {name: SigningKey.generate() for name in ("bank", "shop", "stranger")}
SITES = {n: Site(n, Path("/nowhere"), "", KEYS[n].public.to_text(), "") for n in ("bank", "shop")}
BODY = {
    "analyst": {"partner": "bank"}, "contributor": {"partner": "shop"}, "purpose": "overlap.reach",
    "at": "2025-03-01T12:00:00+00:00",
}  # fmt: skip


def document(body: dict[str, Any], analyst: str = "bank", contributor: str = "shop") -> dict[str, Any]:
    signed = Receipt.by_analyst(body, "00" * 32, KEYS[analyst]).countersigned(KEYS[contributor])
    return signed.document() | {"verified": True}


def test_absence_is_proved_only_when_everything_held() -> None:
    assert GOOD.proved


@pytest.mark.parametrize(
    "flaw", [{"failed": 1}, {"complete": False}, {"receipts": 0}, {"present_before": 199}], ids=str
)
def test_one_flaw_and_absence_is_not_proved(flaw: dict[str, Any]) -> None:
    assert not replace(GOOD, **flaw).proved


def test_the_same_receipt_signed_by_both_and_held_by_both_is_verified() -> None:
    held = {"bank": document(BODY), "shop": document(BODY)}
    (found,) = check_joins([Join("overlap", held)], SITES)
    assert found.verified and list(found.partners) == ["bank", "shop"] and found.purpose == "overlap.reach"


@pytest.mark.parametrize(
    "held",
    [
        {"bank": document(BODY)},
        {"bank": document(BODY), "shop": document(BODY | {"purpose": "model.credit"})},
        {"bank": document(BODY), "shop": document(BODY, contributor="stranger")},
        {"bank": document(BODY, analyst="stranger"), "shop": document(BODY)},
        {"bank": document(BODY) | {"output_hash": "11" * 32}, "shop": document(BODY)},
    ],
    ids=["one side only", "two documents", "wrong contributor", "wrong analyst", "changed output"],
)
def test_a_receipt_that_does_not_hold_is_not_verified(held: dict[str, Any]) -> None:
    (found,) = check_joins([Join("overlap", held)], SITES)
    assert not found.verified
