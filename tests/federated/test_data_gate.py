"""The data gate: consent anew each round, approved columns only, receipts that hold where they should."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.receipts import GateEvidence
from federated.errors import BadInput, ReceiptInvalid, TrainingMisuse, TrainingRefused
from federated.gate import DataGate, GatedRows, GateGrant, ReceiptExpectation, RoundReceipt
from privacy.signing import SigningKey

ROWS = 6
KEY = SigningKey.generate()


class Consent:
    """A ledger of one line: who is denied now."""

    def __init__(self) -> None:
        self.denied: set[bytes] = set()
        self.size = 10
        self.order: list[str] = []

    def filter(self, kind: str, canonicals: pa.BinaryArray, *, purpose: str, partner: str) -> Any:
        self.order.append("filter")
        mask = np.array([c.as_py() not in self.denied for c in canonicals])
        evidence = GateEvidence(
            purpose, partner, "shop.example/log", self.size, "cm9vdA==", "aa", int(mask.sum()), "c2V0",
            "c2FsdA==", dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        )  # fmt: skip

        class Result:
            members = object()

        Result.mask, Result.evidence = mask, evidence  # type: ignore[attr-defined]
        return Result()

    def record_use(self, receipt: Any, members: Any) -> int:
        self.order.append("record")
        self.used = receipt
        return 1


class Rows:
    kind = "email"
    rows = ROWS

    def __init__(self, consent: Consent, **columns: Any) -> None:
        self.consent = consent
        self.table = pa.table(
            {"a": [1.5, 2, 3, 4, 5, 6], "b": [True] * ROWS, "hidden": [9] * ROWS, **columns}
        )

    def identifiers(self) -> pa.BinaryArray:
        return pa.array([b"p%d" % i for i in range(ROWS)], pa.binary())

    def read(self, columns: tuple[str, ...], mask: np.ndarray) -> pa.Table:
        self.consent.order.append("read")
        return self.table.select(list(columns)).filter(pa.array(mask))


def make(columns: tuple[str, ...] = ("a", "b"), **more: Any) -> tuple[DataGate, Consent]:
    consent = Consent()
    gate = DataGate(
        consent=consent,
        ledger=consent,
        signer=KEY,
        clock=lambda: dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        random=os.urandom,
    )
    gate.approve(GateGrant("r", "model.credit", "bank", "c", columns, Rows(consent, **more)))
    return gate, consent


def ask(gate: DataGate, number: int = 1, **changes: str) -> GatedRows:
    given = {"run": "r", "purpose": "model.credit", "nonce": "n" * 32, **changes}
    return gate.features(given["run"], number, given["purpose"], nonce=given["nonce"])


def test_only_consented_rows_and_approved_columns_leave_and_the_use_is_logged_first() -> None:
    gate, consent = make()
    consent.denied = {b"p1"}
    rows = ask(gate)
    assert rows.table.column_names == ["a", "b"]
    assert rows.table.num_rows == ROWS - 1
    assert rows.mask.tolist() == [True, False, True, True, True, True]
    assert rows.matrix(("a", "b"))[:3].tolist() == [[1.5, 1.0], [0.0, 0.0], [3.0, 1.0]]
    assert "record" in consent.order
    assert (consent.used.kind, consent.used.round, consent.used.job) == ("training", 1, "r")


def test_consent_is_asked_anew_each_round_at_the_newest_head() -> None:
    gate, consent = make()
    first = ask(gate, 1)
    consent.denied, consent.size = {b"p0", b"p5"}, 12
    second = ask(gate, 2)
    assert (int(first.mask.sum()), int(second.mask.sum())) == (6, 4)
    assert (first.receipt.log_size, second.receipt.log_size) == (10, 12)


def test_what_the_partner_sees_does_not_say_how_many_were_denied() -> None:
    gate, consent = make()
    before = ask(gate, 1).receipt.to_dict()
    consent.denied = {b"p0"}
    after = ask(gate, 2).receipt.to_dict()
    changing = {"round", "use_receipt", "signature"}
    assert {k: v for k, v in before.items() if k not in changing} == {
        k: v for k, v in after.items() if k not in changing
    }
    assert after["rows"] == ROWS


def test_a_round_is_given_out_once_and_only_for_what_was_approved() -> None:
    gate, consent = make()
    ask(gate, 2)
    for number, changes in ((2, {}), (1, {}), (3, {"run": "s"}), (3, {"purpose": "model"})):
        with pytest.raises(TrainingRefused):
            ask(gate, number, **changes)
    with pytest.raises(TrainingMisuse):
        gate.approve(GateGrant("r", "model.credit", "bank", "c", ("a",), Rows(consent)))
    for columns in ((), ("a", "a")):
        with pytest.raises(TrainingMisuse):
            gate.approve(GateGrant("t", "model.credit", "bank", "c", columns, Rows(consent)))
    gate.withdraw("r")
    gate.withdraw("r")
    with pytest.raises(TrainingRefused):
        ask(gate, 3)


@pytest.mark.parametrize(
    "column", [["x"] * ROWS, [None, 1, 2, 3, 4, 5], [float("nan")] * ROWS, [float("inf")] * ROWS]
)
def test_a_column_that_is_not_all_numbers_is_bad_input(column: list[Any]) -> None:
    gate, _ = make(("c",), c=column)
    with pytest.raises(BadInput):
        ask(gate).matrix(("c",))


def expectation(**changes: Any) -> ReceiptExpectation:
    given = {
        "key": KEY.public, "run": "r", "round": 1, "purpose": "model.credit", "nonce": "n" * 32, "rows": ROWS,
    }  # fmt: skip
    return ReceiptExpectation(**{**given, **changes})


def test_a_receipt_holds_for_its_own_round_and_for_nothing_else() -> None:
    receipt = RoundReceipt.from_bytes(ask(make()[0]).receipt.to_bytes())
    expectation().check(receipt)
    expectation(log_size_at_least=10, log_origin="shop.example/log").check(receipt)
    for changes in (
        {"run": "s"},
        {"round": 2},
        {"purpose": "model"},
        {"nonce": "m" * 32},
        {"rows": ROWS - 1},
        {"key": SigningKey.generate().public},
        {"log_size_at_least": 11},
        {"log_origin": "other.example/log"},
    ):
        with pytest.raises(ReceiptInvalid):
            expectation(**changes).check(receipt)


@given(field=st.sampled_from([f for f in RoundReceipt.__dataclass_fields__ if f != "signature"]))
def test_no_field_of_a_receipt_can_be_changed(field: str) -> None:
    receipt = ask(make()[0]).receipt
    old = getattr(receipt, field)
    forged = dataclasses.replace(receipt, **{field: old + 1 if isinstance(old, int) else old + "0"})
    wanted = {f: getattr(forged, f) for f in ("run", "round", "purpose", "nonce", "rows")}
    with pytest.raises(ReceiptInvalid):
        expectation(**wanted).check(forged)


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64!", "ü"])
def test_a_signature_that_is_none_is_invalid(signature: str) -> None:
    receipt = dataclasses.replace(ask(make()[0]).receipt, signature=signature)
    with pytest.raises(ReceiptInvalid):
        expectation().check(receipt)


@given(blob=st.binary(max_size=200))
def test_garbage_is_no_receipt(blob: bytes) -> None:
    with pytest.raises(ReceiptInvalid):
        RoundReceipt.from_bytes(blob)


@pytest.mark.parametrize(
    "change", [{"rows": "6"}, {"round": 1.0}, {"nonce": 3}, {"extra": 1}, {"rows": True}]
)
def test_a_receipt_of_other_types_is_invalid(change: dict[str, Any]) -> None:
    import json

    document = ask(make()[0]).receipt.to_dict() | change
    with pytest.raises(ReceiptInvalid):
        RoundReceipt.from_bytes(json.dumps(document).encode())
    document.pop("rows")
    with pytest.raises(ReceiptInvalid):
        RoundReceipt.from_bytes(json.dumps(document).encode())


def test_a_partners_opt_outs_concern_the_open_runs_for_their_purposes() -> None:
    gate, _ = make()
    assert gate.enforce("bank", {"*"}) == gate.enforce("bank", {"model", "overlap"}) == 1
    assert gate.enforce("bank", {"overlap"}) == gate.enforce("press", {"*"}) == 0
    gate.withdraw("r")
    assert gate.enforce("bank", {"*"}) == 0
