"""The generator: deterministic, of the promised sizes, and one person behind every way of writing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stdnum import luhn
from stdnum.cn import ric

from comity.demo.data import BANK_FEATURES, LABEL, SHOP_FEATURES, read_credit
from comity.demo.partners import BANK, PURPOSES, SHOP, SMALLEST, cut, shared_people
from comity.demo.people import (
    invent,
    luhn_digit,
    resident_check_digit,
    written_email,
    written_mobile,
)
from privacy.errors import Misuse
from privacy.identifiers import Kind, Rejected, canonical, canonical_column

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_credit import synthetic_credit, write_synthetic_credit

PEOPLE = 2_000


@pytest.fixture(scope="module")
def credit() -> pl.DataFrame:
    return synthetic_credit(3_000)


def people_of(table: pl.DataFrame, kind: Kind, column: str) -> set[bytes]:
    return set(canonical_column(kind, table[column].to_arrow()).values.drop_null().to_pylist())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    credit: pl.DataFrame, tmp_path: Path
) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        cut(credit, people=PEOPLE, seed=seed).write(tmp_path / name)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["bank-consents.csv", "bank.parquet", "optouts.csv", "shop-consents.csv", "shop.parquet"]
    for name in names:
        a, b, c = ((tmp_path / run / name).read_bytes() for run in "abc")
        assert a == b
        assert a != c


def test_each_side_knows_so_many_people_and_three_quarters_are_shared(credit: pl.DataFrame) -> None:
    inputs = cut(credit, people=PEOPLE, seed=7)
    bank, shop = inputs.tables[BANK], inputs.tables[SHOP]
    for table in (bank, shop):
        assert PEOPLE < table.height < PEOPLE * 1.01, "a few people are listed twice"
        assert table["customer_no"].n_unique() == table.height
    by_id = pl.DataFrame({"id": bank["id_no"]}).unique()
    assert by_id.height == PEOPLE
    mobiles = {c: people_of(t, Kind.PHONE, "mobile") for c, t in inputs.tables.items()}
    assert 0.96 * shared_people(PEOPLE) < len(mobiles[BANK] & mobiles[SHOP]) <= shared_people(PEOPLE)
    assert shared_people(24_000) == 18_000


def test_the_two_sides_hold_what_the_story_says(credit: pl.DataFrame) -> None:
    tables = cut(credit, people=PEOPLE, seed=7).tables
    assert {*BANK_FEATURES, LABEL, "id_no", "note"} <= set(tables[BANK].columns)
    assert {*SHOP_FEATURES, "card", "note"} <= set(tables[SHOP].columns)
    assert not set(SHOP_FEATURES) & set(tables[BANK].columns)
    assert not {*BANK_FEATURES, LABEL, "ID"} & set(tables[SHOP].columns)


def test_people_listed_twice_differ_only_in_how_they_are_written(credit: pl.DataFrame) -> None:
    bank = cut(credit, people=PEOPLE, seed=7).tables[BANK]
    twice = bank.filter(pl.col("id_no").is_duplicated())
    assert twice.height >= 2
    assert twice.group_by("id_no").agg(pl.col(BANK_FEATURES).n_unique()).select(
        pl.exclude("id_no")
    ).max().row(0) == (1,) * len(BANK_FEATURES)


def test_some_identifiers_are_missing_and_some_are_not_identifiers(credit: pl.DataFrame) -> None:
    inputs = cut(credit, people=PEOPLE, seed=7)
    for table in inputs.tables.values():
        for kind, column in ((Kind.EMAIL, "email"), (Kind.PHONE, "mobile")):
            rejected = canonical_column(kind, table[column].to_arrow()).rejected
            assert 0 < rejected["missing"] < 0.03 * PEOPLE
            assert sum(rejected.values()) > rejected["missing"]


def test_both_sides_write_shared_people_differently(credit: pl.DataFrame) -> None:
    inputs = cut(credit, people=PEOPLE, seed=7)
    for column in ("email", "mobile"):
        written = [set(t[column].drop_nulls().to_list()) for t in inputs.tables.values()]
        assert len(written[0] & written[1]) < 0.3 * PEOPLE


def test_consents_are_mostly_granted_per_purpose_for_the_partners_own_people(credit: pl.DataFrame) -> None:
    inputs = cut(credit, people=PEOPLE, seed=7)
    for partner, other in ((BANK, SHOP), (SHOP, BANK)):
        register = inputs.consents[partner]
        assert register["partner"].unique().to_list() == [other]
        assert set(register["purpose"]) == set(PURPOSES)
        known = people_of(inputs.tables[partner], Kind.PHONE, "mobile")
        asked = people_of(register, Kind.PHONE, "mobile")
        assert 0 < len(known - asked) < 0.03 * PEOPLE, "a few were never asked"
        for purpose in PURPOSES:
            part = register.filter(pl.col("purpose") == purpose)
            assert part["mobile"].n_unique() == part.height
            assert 0.94 < part["decision"].eq("granted").mean() < 0.99  # type: ignore[operator]


def test_those_who_will_opt_out_are_in_both_tables_and_agreed_to_everything(credit: pl.DataFrame) -> None:
    inputs = cut(credit, people=PEOPLE, seed=7)
    assert inputs.optouts.height == 200
    leavers = {
        kind: people_of(inputs.optouts, kind, c)
        for kind, c in ((Kind.EMAIL, "email"), (Kind.PHONE, "mobile"))
    }
    for partner, table in inputs.tables.items():
        for kind, column in ((Kind.EMAIL, "email"), (Kind.PHONE, "mobile")):
            assert leavers[kind] <= people_of(table, kind, column)
        refused = inputs.consents[partner].filter(pl.col("decision") == "refused")
        assert not leavers[Kind.PHONE] & people_of(refused, Kind.PHONE, "mobile")


def test_more_people_than_the_data_has_rows_are_still_different_people(credit: pl.DataFrame) -> None:
    inputs = cut(credit[:500], people=PEOPLE, seed=7)
    assert inputs.tables[BANK]["id_no"].n_unique() == PEOPLE


@pytest.mark.parametrize("people", [-1, 0, SMALLEST - 1, 10**9])
def test_too_few_or_too_many_people_are_refused(credit: pl.DataFrame, people: int) -> None:
    with pytest.raises(Misuse, match="--people"):
        cut(credit, people=people, seed=7)


def test_a_table_in_the_same_schema_reads_back(tmp_path: Path) -> None:
    path = write_synthetic_credit(tmp_path / "credit.csv", 50)
    assert read_credit(path).height == 50


def test_invented_documents_are_valid_and_nobody_shares_one() -> None:
    number = np.arange(3_000)
    people = invent(number, number % 58 + 21, number % 2, seed=5)
    assert all(ric.is_valid(i) for i in people.resident_id)
    assert all(luhn.is_valid(c) for c in people.card)
    for column in (people.email, people.mobile, people.resident_id, people.card):
        assert len(set(column)) == len(number)
    assert all(int(i[16]) % 2 == 1 - sex for i, sex in zip(people.resident_id, number % 2, strict=True))


def test_people_do_not_print_themselves() -> None:
    people = invent(np.arange(5), np.full(5, 40), np.zeros(5, dtype=np.int64), seed=5)
    assert not any(value in repr(people) for value in (*people.email, *people.mobile, *people.name))


def test_check_digits_match_published_examples() -> None:
    # GB 11643-1999 annex A and the ISO/IEC 7812-1 example as quoted by python-stdnum.
    assert resident_check_digit("11010519491231002") == "X"
    assert resident_check_digit("44052418800101001") == "4"
    assert luhn_digit("7894") == "9"


@given(number=st.integers(0, 999_999), bank=st.integers(0, 7), shop=st.integers(0, 7))
def test_every_way_of_writing_is_the_same_person(number: int, bank: int, shop: int) -> None:
    people = invent(np.array([number]), np.array([33]), np.array([1]), seed=3)
    email = canonical(Kind.EMAIL, people.email[0])
    assert not isinstance(email, Rejected)
    assert canonical(Kind.EMAIL, written_email(people.email[0], bank)) == email
    assert canonical(Kind.EMAIL, written_email(people.email[0], shop)) == email
    mobile = canonical(Kind.PHONE, people.mobile[0])
    assert mobile == b"+86" + people.mobile[0].encode()
    assert canonical(Kind.PHONE, written_mobile(people.mobile[0], bank)) == mobile
    assert canonical(Kind.PHONE, written_mobile(people.mobile[0], shop)) == mobile
