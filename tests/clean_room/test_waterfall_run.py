"""A whole overlap on several keys between two nodes, against the waterfall in the clear; and thinned ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from clean_room.jobs import Query
from clean_room.noise import DrawnNoise, plan
from clean_room.protocols.terms import WaterfallTerms
from clean_room.questions import asked_of, terms_for
from consent.events import grant
from consent.receipts import verify_absence

BANK_ROWS = 280
SHOP_ROWS = 300


def email(number: int) -> str:
    return f"person.{number}@example.org"


def mobile(number: int) -> str:
    return f"139{number:08d}"


def bank_table() -> pl.DataFrame:
    """Of every seven, one has no address, one no number; person 200 and 201 share one number."""
    rows = [(email(i) if i % 7 else None, mobile(i) if i % 7 != 3 else None) for i in range(BANK_ROWS)]
    rows[201] = (rows[201][0], mobile(200))
    rows.append((email(150), mobile(900_000)))  # an address that was there before: the same person
    people = list(zip(*rows, strict=True))
    ages = [18 + i * 7 % 60 for i in range(len(rows))]
    return pl.DataFrame(
        {"email": people[0], "mobile": people[1], "age": ages}, schema_overrides={"email": pl.String}
    )


def shop_table() -> pl.DataFrame:
    """People 80 to 379; of every five one has another address at the shop, of every six one no number."""
    numbers = range(80, 80 + SHOP_ROWS)
    return pl.DataFrame(
        {
            "mail": [email(i) if i % 5 else f"other.{i}@example.org" for i in numbers],
            "phone": [f"+86 {mobile(i)}" if i % 6 else None for i in numbers],
            "spend": [float(i * 37 % 1000) for i in numbers],
            "secret_score": list(numbers),
        }
    )


def in_the_clear(bank: pl.DataFrame, shop: pl.DataFrame, *, gone: frozenset[int] = frozenset()) -> int:
    """Row by row: by address, then by number, nobody twice. `gone`: rows of the shop that are left out."""
    first: set[str] = set()
    ours: list[list[str | None]] = []
    held: set[str] = set()
    for address, number, _ in bank.iter_rows():
        if address is not None and address in first:
            continue
        first.add(address)
        ours.append([address, number if number not in held else None])
        held.add(number)
    theirs = [
        [mail, None if phone is None else phone[4:]]
        for at, (mail, phone, *_) in enumerate(shop.iter_rows())
        if at not in gone
    ]
    found = 0
    for key in (0, 1):
        by_value = {row[key]: row for row in theirs if row[key] is not None}
        for row in list(ours):
            match = by_value.get(row[key]) if row[key] is not None else None
            if match is not None and match in theirs:
                found += 1
                ours.remove(row)
                theirs.remove(match)
    return found


def allow(pair: Any) -> None:
    """The identifiers of the tables that the fixture's people do not have."""
    others = [
        grant([("email", f"other.{i}@example.org".encode())], "overlap", partner="bank")
        for i in range(80, 80 + SHOP_ROWS)
        if i % 5 == 0
    ]
    pair.shop.ledger.record(others)
    pair.bank.ledger.record([grant([("phone", b"+8613900900000")], "overlap", partner="shop")])


def asked(pair: Any, **more: Any) -> Query:
    return replace(pair.query(), **({"fallback_keys": ("phone",)} | more))


@pytest.fixture(scope="module")
def keyed(make_standing: Any) -> Any:
    pair = make_standing(bank=bank_table(), shop=shop_table(), terms={"epsilon_per_month": 1000.0})
    allow(pair)
    return pair


def test_the_total_is_that_of_a_waterfall_in_the_clear(keyed: Any) -> None:
    job = keyed.bank.run(asked(keyed))
    assert job.state == "succeeded", job.error
    expected = in_the_clear(bank_table(), shop_table())
    by_address = keyed.bank.run(keyed.query()).result["value"]
    assert job.result["value"] == expected > by_address + 20
    assert job.input["duplicates"] == 1
    theirs = keyed.shop.wait(job.id)
    assert (theirs.state, theirs.result) == ("succeeded", None)


def test_cells_add_up_to_the_total_and_no_rate_of_one_key_is_shown(keyed: Any) -> None:
    job = keyed.bank.run(asked(keyed, dimensions=("age_band",), partner_dimensions=("spender",)))
    assert sum(cell["value"] for cell in job.result["cells"]) == in_the_clear(bank_table(), shop_table())
    assert not {"keys", "rates", "patterns"} & set(job.result)


def test_each_key_has_a_receipt_of_use_and_the_joint_receipt_names_them(keyed: Any) -> None:
    # Another ε is another question: the same one again would be answered from what is known.
    job = keyed.bank.run(asked(keyed, epsilon=0.9))
    body = keyed.bank.service.receipt(job.receipt_id)["body"]
    assert body["noise"]["keys"] == ["email", "phone"]
    assert keyed.bank.service.verify_receipt(keyed.shop.service.receipt(job.receipt_id))
    for node in (keyed.bank, keyed.shop):
        uses = [use for _, use in node.ledger.receipts() if use.job == job.id]
        assert {use.evidence.key_kind: use.id == job.receipt_id for use in uses} == {
            "email": True,
            "phone": False,
        }
    uses = [use for _, use in keyed.bank.ledger.receipts() if use.job == job.id]
    (by_phone,) = [use for use in uses if use.evidence.key_kind == "phone"]
    # Somebody who went in by number only is in that set; a stranger is in none.
    number = dict(keyed.identifiers(210))["phone"]
    leaf = keyed.bank.ledger.member_leaf(by_phone.id, "phone", number)
    assert keyed.bank.ledger.members(by_phone.id).prove_present(leaf) is not None
    proof, use = keyed.bank.ledger.absence_proof(by_phone.id, "phone", b"+8613999999999")
    verify_absence(
        proof, use.set_root, keyed.bank.ledger.member_leaf(by_phone.id, "phone", b"+8613999999999")
    )


def test_whoever_opted_out_under_either_key_is_not_let_in_by_the_other(make_pair: Any) -> None:
    pair = make_pair(bank=bank_table(), shop=shop_table())
    allow(pair)
    # 100 matches by number only, as its address at the shop is another; 101 by address.
    for number, kind in ((100, "phone"), (101, "phone")):
        identifier = dict(pair.identifiers(number))[kind]
        pair.shop.ledger.withdraw([(kind, identifier)], partner="bank", purpose="overlap")
    gone = frozenset({20, 21})
    expected = in_the_clear(bank_table(), shop_table(), gone=gone)
    assert expected == in_the_clear(bank_table(), shop_table()) - 2
    assert pair.bank.run(asked(pair)).result["value"] == expected


def test_noise_is_drawn_for_every_pattern_at_its_part_of_epsilon(keyed: Any) -> None:
    agreement = keyed.bank.collaborations.agreement(keyed.collaboration)
    query = asked(keyed, dimensions=("age_band",))
    under = asked_of(query, agreement, keyed.bank.identity.public.to_text())
    spending = plan(under, DrawnNoise())
    assert (spending.epsilon, spending.patterns) == (1.0, 3)
    assert spending.count_epsilon == pytest.approx(1 / 3)
    assert spending.half_width > DrawnNoise().half_width(1 / 3, agreement.terms.delta_per_query / 3)
    terms = terms_for(under, "a" * 32, spending)
    assert isinstance(terms, WaterfallTerms)
    assert terms.dummies == 3 * 2 * spending.half_width
    assert terms.keys == ("email", "phone")


def test_a_noisy_answer_lies_in_its_range(make_pair: Any) -> None:
    terms = {"epsilon_per_query": 6.0, "epsilon_per_month": 12.0, "thinning": 0.95}
    pair = make_pair(bank=bank_table(), shop=shop_table(), noise=DrawnNoise(), terms=terms)
    allow(pair)
    job = pair.bank.run(asked(pair))
    assert job.state == "succeeded", job.error
    low, high = job.result["ci95"]
    assert low < job.result["value"] < high
    expected = in_the_clear(bank_table(), shop_table())
    # Three noises of scale 1/2, one in twenty dropped: far more than nine deviations.
    assert abs(job.result["value"] - expected) < 60
    assert job.result["epsilon_spent"] == 6.0
    assert job.result["thinning"]["keep"] == 0.95


# ── thinning ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_thinned_answer_is_divided_by_the_share_and_says_what_that_is_worth(make_pair: Any) -> None:
    pair = make_pair(terms={"thinning": 0.9})
    job = pair.bank.run(pair.query())
    # Of 200, 180 let through (σ ≈ 4.2), over 0.9: seven deviations on either side.
    assert abs(job.result["value"] - 200) < 7 * 4.3 / 0.9
    low, high = job.result["ci95"]
    assert low < job.result["value"] < high
    (alone,) = job.result["thinning"]["alone"]
    assert alone["people"] == low
    assert alone["epsilon"] is None or alone["epsilon"] > 1
    noise = pair.bank.service.receipt(job.receipt_id)["body"]["noise"]
    assert noise["thinning"]["keep"] == 0.9
    # The contributor signs the receipt and must not learn the size of the intersection from it.
    assert [stated["people"] for stated in noise["thinning"]["alone"]] == [1_000, 10_000, 100_000]
    measured = pair.bank.run(pair.query("measure", statistic="sum"))
    truth = sum(min(500.0, float(i * 37 % 1000)) for i in range(80, 280))
    low, high = measured.result["ci95"]
    assert low < truth < high
    assert measured.result["value"] == pytest.approx(truth, rel=0.25)


def test_the_stricter_share_of_the_two_partners_holds(keyed: Any) -> None:
    terms = keyed.bank.collaborations.agreement(keyed.collaboration).terms
    assert replace(terms, thinning=0.99).strictest(replace(terms, thinning=0.9)).thinning == 0.9
