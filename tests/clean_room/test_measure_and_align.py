"""Sums over the shared people and their alignment, against the same in the clear."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from clean_room.noise import DrawnNoise
from consent.events import grant, refuse
from privacy.errors import Misuse, Refused, Tampered
from privacy.identifiers import PROFILES


def shared_spend(tables) -> pl.Series:
    people = pl.DataFrame(tables.people)[80:280]
    return people["spend"].clip(0, 500)


def test_sum_mean_and_count_are_exact_when_noise_is_off(pair, tables):
    clear = shared_spend(tables)
    for statistic, expected in (("sum", clear.sum()), ("mean", clear.mean()), ("count", clear.len())):
        job = pair.bank.run(pair.query("measure", statistic=statistic))
        assert job.state == "succeeded", job.error
        assert job.result["value"] == pytest.approx(expected, abs=1e-9)
        assert job.result["count"] == 200
        assert job.result["noise_scale"] == 0
        assert job.result["bounds"] == [0, 500]


def test_a_measure_is_split_into_cells(pair, tables):
    job = pair.bank.run(pair.query("measure", statistic="sum", dimensions=("age_band",)))
    people = pl.DataFrame(tables.people)[80:280].with_columns(pl.col("spend").clip(0, 500))
    band = pl.when(pl.col("age") < 40).then(pl.lit("young")).when(pl.col("age") < 60).then(pl.lit("middle"))
    clear = people.group_by(band.otherwise(pl.lit("old")).alias("band")).agg(pl.col("spend").sum())
    assert {c["analyst"]: c["value"] for c in job.result["cells"]} == {
        f"age_band={b}": pytest.approx(s) for b, s in clear.iter_rows()
    }


def test_a_noisy_mean_states_its_noise_and_an_interval_that_holds_it(make_pair, tables):
    pair = make_pair(noise=DrawnNoise())
    job = pair.bank.run(pair.query("measure"))
    low, high = job.result["ci95"]
    assert job.result["noise_scale"] == 500 / 0.5
    assert 0 <= low <= job.result["value"] <= high <= 500
    # Twenty times the scale is passed once in half a billion runs.
    assert abs(job.result["value"] * job.result["count"] - shared_spend(tables).sum()) < 20 * 1000
    assert job.result["epsilon_spent"] == 1.0
    assert pair.shop.service.budgets()[0].committed.epsilon == 1.0


def test_people_without_a_value_are_left_out_and_counted(make_pair, tables):
    holes = tables.shop.with_columns(
        spend=pl.when(pl.int_range(pl.len()) < 50).then(None).otherwise(pl.col("spend"))
    )
    pair = make_pair(shop=holes)
    job = pair.bank.run(pair.query("measure", statistic="count"))
    assert job.result["count"] == 150
    assert pair.shop.wait(job.id).input["missing_value"] == 50


def test_alignment_gives_both_sides_the_same_people_in_the_same_order(pair):
    job = pair.bank.run(pair.query("align", key="phone"))
    assert job.state == "succeeded", job.error
    assert job.result["value"] == 200
    assert job.result["epsilon_spent"] == 0
    pair.shop.wait(job.id)
    ours, theirs = pair.bank.service.alignment(job.id), pair.shop.service.alignment(job.id)
    assert len(ours) == len(theirs) == 200
    assert np.array_equal(ours.ids, theirs.ids)
    assert (ours.dataset, theirs.dataset) == ("customers", "shoppers")
    # Row i of the bank's file is person i; row i of the shop's is person i + 80.
    assert np.array_equal(ours.row_index, theirs.row_index + 80)
    assert sorted(ours.row_index) == list(range(80, 280))
    assert not np.array_equal(ours.row_index, np.sort(ours.row_index))


def test_an_alignment_lies_sealed_and_a_changed_one_is_refused(pair):
    job = pair.bank.run(pair.query("align"))
    (file,) = (pair.bank.directory / "artefacts").glob(f"{job.id}*")
    sealed = file.read_bytes()
    assert pair.bank.service.alignment(job.id).row_index.tobytes() not in sealed
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    with pytest.raises(Tampered):
        pair.bank.service.alignment(job.id)
    with pytest.raises(Misuse):
        pair.bank.service.alignment("../keys/ring")


def test_aligned_rows_read_back_only_listed_columns(pair):
    job = pair.bank.run(pair.query("align"))
    alignment = pair.bank.service.alignment(job.id)
    dataset = pair.bank.catalogue["customers"]
    ages = dataset.take(["age"], alignment.row_index)["age"].to_pylist()
    assert ages == [18 + int(i) * 7 % 60 for i in alignment.row_index]
    with pytest.raises(Misuse) as refused:
        dataset.take(["email"], alignment.row_index)
    assert refused.value.code == "column_not_allowed"


def test_whoever_refused_what_the_alignment_is_for_is_not_lined_up(make_pair):
    pair = make_pair()
    pair.agree_anew(purposes=("overlap.align", "model.credit"))
    for node, people, partner in ((pair.bank, range(280), "shop"), (pair.shop, range(80, 380), "bank")):
        node.ledger.record([grant(pair.identifiers(i), "model.credit", partner=partner) for i in people])
    pair.shop.ledger.record(
        [refuse(pair.identifiers(i), "model.credit", partner="bank") for i in range(80, 110)]
    )
    job = pair.bank.run(pair.query("align", also_for=("model.credit",)))
    assert job.state == "succeeded", job.error
    assert job.result["value"] == 170
    assert pair.shop.wait(job.id).input["denied_by_consent"] == 30
    assert sorted(pair.bank.service.alignment(job.id).row_index) == list(range(110, 280))


def test_a_further_purpose_must_be_agreed_too(pair):
    with pytest.raises(Refused) as caught:
        pair.bank.service.submit(pair.query("align", also_for=("model.credit",)), principal="ana")
    assert caught.value.code == "purpose_not_agreed"


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_consent_is_found_whatever_profile_the_partners_join_on(make_pair, profile):
    pair = make_pair()
    pair.agree_anew(key_profile=profile)
    job = pair.bank.run(pair.query("align", key="phone"))
    assert job.result["value"] == 200
    assert pair.shop.wait(job.id).input["denied_by_consent"] == 0


def test_an_interval_allows_for_the_rounding_of_every_value(make_pair, tables):
    pair = make_pair(shop_datasets=tables.shop_datasets.replace("upper = 500", "upper = 1000"))
    job = pair.bank.run(pair.query("measure", statistic="sum"))
    low, high = job.result["ci95"]
    # 200 people, each rounded to a hundredth; noise is off.
    assert high - low == pytest.approx(200 * 0.01)
    assert low <= pl.DataFrame(tables.people)[80:280]["spend"].sum() <= high


def test_a_variance_is_exact_when_noise_is_off(pair, tables):
    clear = shared_spend(tables)
    job = pair.bank.run(pair.query("measure", statistic="variance"))
    assert job.state == "succeeded", job.error
    assert job.result["value"] == pytest.approx(clear.var(ddof=0), rel=1e-4)
    assert job.result["mean"] == pytest.approx(clear.mean(), abs=1e-3)
    low, high = job.result["ci95"]
    assert low <= clear.var(ddof=0) <= high


def test_a_noisy_variance_costs_what_it_says_and_stays_within_its_interval(make_pair, tables):
    pair = make_pair(noise=DrawnNoise())
    job = pair.bank.run(pair.query("measure", statistic="variance"))
    low, high = job.result["ci95"]
    assert 0 <= low <= job.result["value"] <= high <= 250**2
    assert job.result["noise_scale"] == pytest.approx(500 * 3)
    assert pair.shop.service.budgets()[0].committed.epsilon == 1.0


def test_a_lift_compares_the_campaign_with_its_holdout(pair, tables):
    job = pair.bank.run(pair.query("measure", statistic="lift", dimensions=("age_band",), holdout="young"))
    assert job.state == "succeeded", job.error
    everybody = pl.DataFrame(tables.people)
    bank = everybody[:280]
    shared = everybody[80:280].with_columns(pl.col("spend").clip(0, 500))
    young = pl.col("age") < 40
    rates = []
    for group in (~young, young):
        rates.append(shared.filter(group)["spend"].sum() / bank.filter(group).height)
    assert job.result["treated"]["rate"] == pytest.approx(rates[0])
    assert job.result["holdout"]["rate"] == pytest.approx(rates[1])
    assert job.result["value"] == pytest.approx(rates[0] / rates[1] - 1)
    low, high = job.result["ci95"]
    assert low < job.result["value"] < high
    low, high = job.result["incremental"]["ci95"]
    assert low < rates[0] - rates[1] < high


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"statistic": "lift"}, "malformed_query"),
        ({"holdout": "young"}, "malformed_query"),
        ({"statistic": "lift", "holdout": "young"}, "malformed_query"),
        ({"statistic": "lift", "holdout": "nobody", "dimensions": ("age_band",)}, "dimension_not_agreed"),
    ],
)
def test_a_lift_without_a_sensible_holdout_is_refused(pair, more, code):
    with pytest.raises((Misuse, Refused)) as refused:
        pair.bank.service.submit(pair.query("measure", **more), principal="ana")
    assert refused.value.code == code
