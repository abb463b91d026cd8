"""Whole queries between two nodes whose rows come from a query, under retention and allowed columns."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

EXPIRED = range(60, 160)
UNDATED = range(160, 170)
BANK = """
[datasets.customers]
keys = { email = "email", phone = "mobile" }
retention = { column = "seen", days = 730 }
allowed = ["email", "mobile", "age"]
[datasets.customers.dimensions.age_band]
sql = "CASE WHEN age < 40 THEN 'young' ELSE 'old' END"
values = ["young", "old"]

[datasets.customers.source]
kind = "duckdb"
files = { customers = "customers.parquet" }
query = "SELECT row_number() OVER () AS id, * FROM customers"
order_by = ["id"]
"""


@pytest.fixture(scope="module")
def dated(make_standing: Any) -> Any:
    return make_standing(bank=dated_table(), bank_datasets=BANK, terms={"epsilon_per_month": 1000.0})


def people() -> list[dict[str, Any]]:
    return [
        {"email": f"person.{i}@example.org", "mobile": f"139{i:08d}", "age": 20 + i % 50, "place": i}
        for i in range(280)
    ]


def dated_table() -> pl.DataFrame:
    now = datetime.now(UTC).replace(tzinfo=None)
    seen = [now - timedelta(days=1_000 if i in EXPIRED else 10) for i in range(280)]
    frame = pl.DataFrame(people()).with_columns(pl.Series("seen", seen))
    undated = pl.col("place").is_between(UNDATED.start, UNDATED.stop - 1)
    return frame.with_columns(pl.when(undated).then(None).otherwise(pl.col("seen")).alias("seen"))


def shared() -> int:
    """The shop knows 80 to 379."""
    return len(set(range(80, 280)) - set(EXPIRED) - set(UNDATED))


@pytest.mark.parametrize("fallback_keys", [(), ("phone",)])
def test_rows_past_their_retention_go_into_no_query_and_are_counted(
    dated: Any, fallback_keys: tuple[str, ...]
) -> None:
    query = replace(dated.query(), fallback_keys=fallback_keys, dimensions=("age_band",))
    job = dated.bank.run(query)
    assert job.state == "succeeded", job.error
    assert job.result["value"] == shared()
    assert job.input["expired"] == len(EXPIRED) + len(UNDATED)
    assert job.input["rows"] == 280 - len(EXPIRED) - len(UNDATED)


def test_the_partner_is_not_told_how_many_expired(dated: Any) -> None:
    dated.wire.captured.clear()
    job = dated.bank.run(replace(dated.query(), dimensions=("age_band",), epsilon=0.5))
    assert job.state == "succeeded", job.error
    assert not any(b"expired" in sent for sent in dated.wire.captured)
    assert dated.shop.wait(job.id).input["expired"] == 0


def test_nobody_expired_is_in_the_set_that_was_used(dated: Any) -> None:
    job = dated.bank.run(dated.query())
    (use,) = [use for _, use in dated.bank.ledger.receipts() if use.job == job.id]
    members = dated.bank.ledger.members(use.id)
    gone, kept = (dict(dated.identifiers(i))["email"] for i in (100, 200))
    assert members.prove_present(dated.bank.ledger.member_leaf(use.id, "email", kept)) is not None
    assert members.prove_absent(dated.bank.ledger.member_leaf(use.id, "email", gone)) is not None
