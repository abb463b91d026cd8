from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pytest

from clean_room.datasets import Catalogue
from clean_room.errors import InputBelowMinimum, PeerViolation
from clean_room.input_records import read_input, write_input
from clean_room.inputs import QueryInput, prepare
from clean_room.jobs import JobState
from clean_room.protocols.sampling import SamplingKey, factor_of, month_of, rate_of
from clean_room.protocols.terms import EstimateTerms, parse_terms
from clean_room.samples import Sampler, agreed_sampler, draw, own_sampler, partners_sampler, settled
from consent.gate import ConsentGate
from privacy.errors import BadInput, Misuse
from privacy.identifiers import canonical_column

TYPES = ("overlap", "estimate")
NOW = datetime(2026, 11, 15, tzinfo=UTC)
PAIR, AGREEMENT = bytes(range(32)), "ab" * 32


def sampler(rate: float = 0.25) -> Sampler:
    return Sampler.of(SamplingKey.derive(PAIR, AGREEMENT, "2026-11"), rate)


@pytest.fixture
def estimating(make_pair, tables):
    """Two nodes that agreed on estimates, without noise."""
    return make_pair(noise=tables.no_noise(), terms={"query_types": TYPES})


def expected(pair, sample: float) -> tuple[int, int]:
    """(people of the sample both have, rows of the bank's in it), computed in the clear."""
    key = pair.bank.collaborations.pair_key("shop")
    agreement = pair.bank.collaborations.agreement(pair.collaboration).hash
    own = Sampler.of(SamplingKey.derive(key, agreement, month_of(datetime.now(UTC))), sample)
    people = pa.array([f"person.{n}@example.org" for n in range(380)])
    kept = set(own.kept("email", people, "comity-1", "CN").rows.tolist())
    return len(kept & set(range(80, 280))), len(kept & set(range(280)))


# ── between two nodes ───────────────────────────────────────────────────────────────────────────────────


def test_an_estimate_is_the_overlap_of_the_sample_made_whole(estimating):
    query = replace(estimating.query(), kind="estimate", sample=0.6)
    job = estimating.bank.run(query)
    assert job.state is JobState.SUCCEEDED, job.error
    shared, own = expected(estimating, 0.6)
    result = job.result
    assert result["value"] == round(shared * 280 / own)
    assert result["ci95"][0] < result["value"] < result["ci95"][1]
    assert result["sample_rate"] == pytest.approx(0.6, rel=0.19)
    assert (result["rows"], result["sampled"]) == (280, own)
    assert job.query.sample == result["sample_rate"]
    assert job.input["people"] == own


def test_what_a_job_goes_on_with_after_a_crash_holds_its_sample(estimating):
    bank = estimating.bank
    given = prepare(
        bank.catalogue["customers"],
        ConsentGate(bank.ledger),
        kind="email",
        purpose="overlap.reach",
        partner="shop",
        profile="comity-1",
        sampler=sampler(0.5),
    )
    again = read_input(write_input(given))
    assert given.sample is not None
    assert again.sample == given.sample
    assert again.size == given.size == given.sample.sampled


def test_asking_again_looks_at_the_same_people(estimating):
    query = replace(estimating.query(), kind="estimate", sample=0.6)
    values = {estimating.bank.run(query).result["value"] for _ in range(2)}
    assert len(values) == 1


def test_everybody_is_looked_at_where_a_sample_would_fall_below_the_minimum(estimating):
    job = estimating.bank.run(replace(estimating.query(), kind="estimate"))
    assert job.result["sample_rate"] == 1
    assert (job.result["value"], job.result["ci95"]) == (200, [200, 200])


def test_cells_are_estimated_each(estimating):
    query = replace(estimating.query(dimensions=("age_band",)), kind="estimate", sample=0.8)
    result = estimating.bank.run(query).result
    assert [cell["analyst"].partition("=")[2] for cell in result["cells"]] == ["young", "middle", "old"]
    assert sum(cell["value"] for cell in result["cells"]) == pytest.approx(result["value"], abs=2)
    assert all(cell["ci95"][0] <= cell["value"] <= cell["ci95"][1] for cell in result["cells"])


def test_a_sample_below_the_minimum_input_is_refused(estimating):
    job = estimating.bank.run(replace(estimating.query(), kind="estimate", sample=0.05))
    assert (job.state, job.error.code) == (JobState.REJECTED, "input_below_minimum")


def test_an_estimate_must_be_agreed_on(pair):
    with pytest.raises(Exception, match="not agreed"):
        pair.bank.service.submit(replace(pair.query(), kind="estimate", sample=0.5), principal="ana")


def test_nodes_that_share_no_key_count_nobody(estimating, monkeypatch):
    monkeypatch.setattr(type(estimating.shop.collaborations), "pair_key", lambda self, partner: b"?" * 32)
    own = estimating.bank.collaborations
    monkeypatch.setattr(own, "pair_key", lambda partner: b"!" * 32)
    job = estimating.bank.run(replace(estimating.query(), kind="estimate", sample=0.6))
    assert job.state is JobState.FAILED
    assert job.result is None


def test_a_preview_says_the_rate_and_the_error_without_reading_everybody(estimating, monkeypatch):
    monkeypatch.setattr("clean_room.datasets.Dataset.extract", lambda *a, **k: pytest.fail("read"))
    said = estimating.bank.service.preview(replace(estimating.query(), kind="estimate", sample=0.5))
    assert said["sample_rate"] == pytest.approx(0.5)
    assert said["rows"] == 280
    assert 0 < said["error_bar"] < 280
    assert said["bytes_sent"] > 0


# ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def people(tmp_path):
    """5,000 rows: odd spellings, repeats, placeholders, some that are nothing."""
    rows = []
    for n in range(4500):
        plain = f"person.{n}@example.org"
        rows.append(
            {0: plain.upper(), 1: f" {plain}\t", 2: f"p.{n}+tag@gmail.com", 3: f"jürgen{n}@example.org"}.get(
                n % 7, plain
            )
        )
    rows += [None, "", "not an address", "a@b"] * 25 + [f"person.{n * 7 + 5}@example.org" for n in range(400)]
    table = pl.DataFrame({"mail": rows, "age": [n % 90 for n in range(len(rows))]})
    table.write_parquet(tmp_path / "p.parquet")
    text = """
[datasets.people]
source = "p.parquet"
keys = { email = "mail" }
[datasets.people.dimensions.band]
sql = "CASE WHEN age < 45 THEN 'low' ELSE 'high' END"
values = ["low", "high"]
[datasets.people.segments]
young = "age < 30"
nobody = "age > 1000"
"""
    return Catalogue.parse(text, base=tmp_path)["people"], rows


@pytest.mark.parametrize("profile", ["comity-1", "google-1", "meta-1", "pair-1"])
def test_the_sample_is_of_canonical_forms_whatever_was_written(people, profile):
    dataset, rows = people
    extract, facts = draw(dataset, sampler(), kind="email", profile=profile)
    forms = canonical_column("email", pa.array(rows), profile).values
    inside = sampler().kept("email", forms.drop_null().cast(pa.string()), profile, "CN")
    drawn = canonical_column("email", extract.keys, profile).values
    wanted = forms.drop_null().take(pa.array(inside.rows))
    assert sorted(drawn.drop_null().to_pylist()) == sorted(wanted.to_pylist())
    assert [rows[place] for place in extract.row_index] == extract.keys.to_pylist()
    counts = pl.Series(drawn.drop_null().to_pylist()).value_counts()["count"]
    # What is no address is looked at only once it is in the sample: 25 rows each of a few such texts.
    assert (facts.squares - int((counts**2).sum())) % 25**2 == 0
    assert facts.most == 25
    assert abs(facts.sampled / facts.rows - facts.rate) < 0.03


def test_segments_and_dimensions_go_with_the_sample(people):
    dataset, _ = people
    extract, facts = draw(
        dataset, sampler(0.5), kind="email", profile="comity-1", dimensions=("band",), segment="young"
    )
    ages = extract.row_index % 90
    assert (ages < 30).all()
    assert set(extract.dimensions["band"].to_pylist()) == {"low"}
    assert len(extract.dimensions["band"]) == len(extract.keys) == facts.sampled


def test_phones_are_sampled_by_their_number(tmp_path):
    numbers = [f"139{n:08d}" for n in range(500)]
    pl.DataFrame({"plain": numbers, "spelled": [f"+86 {n[:3]}-{n[3:]}" for n in numbers]}).write_csv(
        tmp_path / "p.csv"
    )
    text = '[datasets.{0}]\nsource = "p.csv"\nkeys = {{ phone = "{0}" }}\n'
    found = []
    for name in ("plain", "spelled"):
        dataset = Catalogue.parse(text.format(name), base=tmp_path)[name]
        found.append(draw(dataset, sampler(), kind="phone", profile="comity-1")[0].row_index.tolist())
    assert found[0] == found[1]
    assert 80 < len(found[0]) < 180


def test_nobody_in_the_sample_is_refused_and_no_rows_are_bad_input(people, tmp_path):
    dataset, _ = people
    with pytest.raises(InputBelowMinimum):
        draw(dataset, sampler(), kind="email", profile="comity-1", segment="nobody")
    with pytest.raises(InputBelowMinimum):
        draw(dataset, sampler(1e-7), kind="email", profile="comity-1")
    pl.DataFrame({"mail": []}, schema={"mail": pl.String}).write_parquet(tmp_path / "e.parquet")
    empty = Catalogue.parse('[datasets.e]\nsource = "e.parquet"\nkeys = { email = "mail" }', base=tmp_path)
    with pytest.raises(BadInput):
        draw(empty["e"], sampler(), kind="email", profile="comity-1")


# ── whose sample ────────────────────────────────────────────────────────────────────────────────────────


def terms_of(one: Sampler, **more) -> EstimateTerms:
    fields = {"job": "j", "purpose": "overlap.reach", "analyst": "a", "contributor": "c"}
    return EstimateTerms(
        **fields, **({"step": one.step, "period": one.key.period, "sample": one.key.id} | more)
    )


def test_both_sides_come_to_the_same_sampler(pair):
    query = replace(pair.query(), kind="estimate", sample=rate_of(9))
    own = own_sampler(query, PAIR, AGREEMENT, NOW)
    assert own is not None
    terms = terms_of(own)
    assert parse_terms(terms.to_bytes()) == terms
    for now in (NOW, NOW + timedelta(days=16), NOW + timedelta(days=20)):
        assert partners_sampler(query, PAIR, AGREEMENT, now, terms) == own
    assert agreed_sampler(terms, PAIR, AGREEMENT) == own
    assert own_sampler(pair.query(), PAIR, AGREEMENT, NOW) is None
    assert partners_sampler(pair.query(), PAIR, AGREEMENT, NOW, terms) is None


@pytest.mark.parametrize(
    ("pair_key", "now", "changed"),
    [
        (bytes(32), NOW, {}),
        (None, NOW, {}),
        (PAIR, NOW + timedelta(days=40), {}),
        (PAIR, NOW - timedelta(days=40), {}),
        (PAIR, NOW, {"step": 8}),
        (PAIR, NOW, {"sample": "00" * 16}),
        (PAIR, NOW, {"period": "2026-12"}),
    ],
)
def test_another_key_month_or_rate_is_a_violation(pair, pair_key, now, changed):
    query = replace(pair.query(), kind="estimate", sample=rate_of(9))
    own = own_sampler(query, PAIR, AGREEMENT, NOW)
    with pytest.raises(PeerViolation):
        partners_sampler(query, pair_key, AGREEMENT, now, terms_of(own, **changed))


@pytest.mark.parametrize("more", [{"step": -1}, {"step": 97}, {"period": ""}, {"sample": ""}, {"step": True}])
def test_terms_of_an_estimate_are_checked(more):
    with pytest.raises(Misuse):
        terms_of(sampler(), **more)


def test_a_query_without_a_sample_gets_one_and_others_stay_as_they_are(people, pair):
    dataset, rows = people
    query = settled(replace(pair.query(), kind="estimate"), dataset, minimum=1000)
    assert query.sample == 1
    assert settled(replace(pair.query(), kind="estimate", sample=0.3), dataset, minimum=1).sample >= 0.3
    assert settled(pair.query(), dataset, minimum=1) == pair.query()
    assert factor_of(draw(dataset, sampler(0.5), kind="email", profile="comity-1")[1])[1]
    assert QueryInput.__dataclass_fields__["sample"].default is None
    assert len(rows) == 5000
