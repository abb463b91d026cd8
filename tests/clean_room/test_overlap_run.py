"""A whole overlap query between two nodes, against the same question answered in the clear."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from clean_room.receipts import verify
from consent.receipts import verify_absence
from privacy.errors import Tampered

AGE = pl.when(pl.col("age") < 40).then(pl.lit("young")).when(pl.col("age") < 60).then(pl.lit("middle"))
SPEND = pl.when(pl.col("spend") < 300).then(pl.lit("low")).otherwise(pl.lit("high"))


def in_the_clear(pair: Any) -> pl.DataFrame:
    """Both tables joined by hand on the last digits of the mobile number."""
    bank = pl.read_parquet(pair.bank.directory / "customers.parquet").with_columns(
        person=pl.col("mobile").str.slice(-8), band=AGE.otherwise(pl.lit("old"))
    )
    shop = pl.read_parquet(pair.shop.directory / "shoppers.parquet").with_columns(
        person=pl.col("phone").str.replace_all(r"[ -]", "").str.slice(-8), spender=SPEND
    )
    return bank.join(shop, on="person")


@pytest.mark.parametrize("key", ["email", "phone"])
def test_the_total_is_exact_when_noise_is_off(pair, key):
    job = pair.bank.run(pair.query(key=key))
    assert job.state == "succeeded", job.error
    assert job.result["value"] == in_the_clear(pair).height == 200
    assert job.result["ci95"] == [200, 200]
    assert job.result["rate"] == "71 %"
    assert job.stage == "joined"
    assert job.progress == 1
    theirs = pair.shop.wait(job.id)
    assert (theirs.state, theirs.role, theirs.stage) == ("succeeded", "contributor", "joined")
    assert theirs.result is None


def test_every_cell_is_exact_when_noise_is_off(pair):
    job = pair.bank.run(pair.query(dimensions=("age_band",), partner_dimensions=("spender",)))
    clear = in_the_clear(pair).group_by("band", "spender").len()
    expected = {(f"age_band={b}", f"spender={s}"): n for b, s, n in clear.iter_rows()}
    shown = {(c["analyst"], c["contributor"]): c["value"] for c in job.result["cells"]}
    assert shown == expected
    assert len(shown) == 6
    assert job.result["value"] == 200


def test_a_segment_narrows_the_question(pair):
    job = pair.bank.run(pair.query(segment="adults_40"))
    assert job.result["value"] == in_the_clear(pair).filter(pl.col("age") >= 40).height


def test_the_noisy_answer_lies_in_its_range_and_the_interval_is_not_a_point(make_pair):
    from clean_room.noise import DrawnNoise

    pair = make_pair(noise=DrawnNoise())
    job = pair.bank.run(pair.query())
    half = DrawnNoise().half_width(1.0, 1e-6)
    assert abs(job.result["value"] - 200) <= half
    low, high = job.result["ci95"]
    assert low < job.result["value"] < high
    assert high - low <= 10
    assert job.result["epsilon_spent"] == 1.0
    assert job.result["budget_left"] == 4.0


def test_small_cells_are_hidden_together(fresh):
    fresh.agree_anew(minimum_cell=35)
    job = fresh.bank.run(fresh.query(dimensions=("age_band",), partner_dimensions=("spender",)))
    hidden = [c for c in job.result["cells"] if c["suppressed"]]
    assert job.result["reason"] == "cells_below_minimum"
    assert len(hidden) >= 2
    assert all(c["value"] is None and c["ci95"] is None for c in hidden)
    left = job.result["value"] - sum(c["value"] or 0 for c in job.result["cells"])
    assert left >= 35


def test_a_small_total_does_not_tell_none_from_few(fresh):
    fresh.agree_anew(minimum_cell=201)
    few = fresh.bank.run(fresh.query()).result
    assert (few["value"], few["ci95"], few["rate"], few["suppressed"]) == (None, None, None, True)
    assert few["reason"] == "below_minimum_cell"


def test_the_receipt_is_signed_by_both_and_the_same_on_both_sides(pair):
    job = pair.bank.run(pair.query())
    ours, theirs = pair.bank.service.receipt(job.receipt_id), pair.shop.service.receipt(job.receipt_id)
    assert ours == theirs
    keys = {"analyst": pair.bank.identity.public, "contributor": pair.shop.identity.public}
    receipt = verify(ours, **keys)
    assert receipt.body["job"] == job.id
    assert receipt.body["noise"]["epsilon"] == 1.0
    assert receipt.body["analyst"]["padded_sizes"] >= [280]
    assert "count" not in receipt.body["analyst"]["consent"]
    assert pair.bank.service.verify_receipt(ours)
    for forged in (
        {**ours, "output_hash": "0" * 64},
        {**ours, "body": {**ours["body"], "purpose": "model.credit"}},
        {**ours, "contributor_signature": ours["analyst_signature"]},
    ):
        with pytest.raises(Tampered):
            verify(forged, **keys)


def test_both_ledgers_hold_the_use_and_prove_who_was_not_in_it(fresh):
    fresh.shop.ledger.withdraw(fresh.identifiers(150), partner="bank")
    job = fresh.bank.run(fresh.query())
    assert job.result["value"] == 199
    for node, partner in ((fresh.bank, "shop"), (fresh.shop, "bank")):
        ((_, use),) = node.ledger.receipts()
        assert (use.id, use.job, use.partner, use.kind) == (job.receipt_id, job.id, partner, "overlap")
    kind, canonical = fresh.identifiers(150)[0]
    proof, use = fresh.shop.ledger.absence_proof(job.receipt_id, kind, canonical)
    verify_absence(proof, use.set_root, fresh.shop.ledger.member_leaf(job.receipt_id, kind, canonical))


def test_only_the_contributor_is_charged(pair):
    before = pair.bank.service.budgets()
    pair.bank.run(pair.query())
    (status,) = pair.shop.service.budgets()
    assert (status.key.lineage, status.key.partner) == ("shop-people", "bank")
    assert status.reserved.epsilon == 0
    assert status.committed.epsilon >= 1
    assert pair.bank.service.budgets() == before


def test_a_question_below_the_agreed_epsilon_costs_what_it_asks_for(pair):
    (before,) = pair.shop.service.budgets()
    job = pair.bank.run(pair.query(epsilon=0.25))
    assert job.result["epsilon_spent"] == 0.25
    assert job.result["budget_left"] == before.remaining.epsilon - 0.25


def test_either_side_may_ask(pair):
    query = pair.query(dataset="shoppers", partner_dataset="customers")
    job = pair.shop.run(query)
    assert job.result["value"] == 200
    assert pair.bank.wait(job.id).role == "contributor"


def test_duplicates_and_missing_consents_are_counted_for_the_own_people_only(make_pair, tables):
    table = tables.bank
    strangers = {"email": ["none", None, "nobody@unknown.example"], "mobile": [None] * 3, "age": [30] * 3}
    gaps = pl.DataFrame(strangers)
    pair = make_pair(bank=pl.concat([table, table.head(25), gaps.cast(table.schema)]))
    job = pair.bank.run(pair.query())
    assert job.result["value"] == 200
    assert job.input["duplicates"] == 25
    assert job.input["denied_by_consent"] == 1
    assert job.input["people"] == 280
    assert sum(job.input["rejected"].values()) == 2


def test_an_identical_request_under_one_idempotency_key_is_one_job(pair):
    first = pair.bank.run(pair.query(), idempotency_key="again")
    (before,) = pair.shop.service.budgets()
    second = pair.bank.run(pair.query(), idempotency_key="again")
    assert first.id == second.id
    assert pair.shop.service.budgets() == [before]
