"""Whose ε account a partner draws on, whatever it calls itself; on both databases."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from clean_room.budgets import Accounts, AgreedLimits
from clean_room.collaboration import PartnerPin
from clean_room.storage import CollaborationRow, CollaborationStore
from privacy.budget import BudgetKey, BudgetLedger, Cost
from privacy.errors import BudgetExhausted
from privacy.signing import SigningKey

MONTH = "2026-03"
KEYS = [SigningKey.generate().public for _ in range(4)]


class Books:
    """A node's collaborations and budget, without the network."""

    def __init__(self, engine: sa.Engine) -> None:
        self.store = CollaborationStore(engine)
        self.ledger = BudgetLedger(engine, limit=Cost(10.0, 0.1))
        self.accounts = Accounts(engine, self.ledger)
        self.count = 0

    def agreed(self, name: str, key: int, at: str, *, created: str | None = None) -> PartnerPin:
        """A partner that agreed at a time (a day and hour of March, such as 02T10)."""
        self.count += 1
        moment = f"2026-03-{at}:00:00+00:00"
        row = CollaborationRow(
            id=f"{self.count:032x}",
            role="inviter",
            state="agreed",
            partner=name,
            partner_key=KEYS[key].to_text(),
            partner_url=f"https://{name}.test",
            documents={"invitation": {}, "agreement": {"agreed_at": moment}},
            created_at=moment if created is None else f"2026-03-{created}:00:00+00:00",
            updated_at=moment,
        )
        self.store.add(row)
        return PartnerPin(name, row.partner_url, KEYS[key])

    def left(self, at: str) -> None:
        """The newest collaboration ends."""
        row = self.store.get(f"{self.count:032x}")
        assert row is not None
        fields = {f: getattr(row, f) for f in CollaborationRow.__slots__}
        ended = CollaborationRow(**(fields | {"state": "left", "updated_at": f"2026-03-{at}:00:00+00:00"}))
        assert self.store.replace(ended, was="agreed")

    def spend(self, pin: PartnerPin, epsilon: float, lineage: str = "people") -> str:
        key = self.accounts.key(lineage, pin, MONTH)
        self.ledger.commit(self.ledger.reserve(key, Cost(epsilon), job=f"{pin.name}-{epsilon}"))
        return key.partner


@pytest.fixture
def books(engine: sa.Engine) -> Books:
    return Books(engine)


def test_a_partner_under_another_name_keeps_its_account(books: Books) -> None:
    assert books.spend(books.agreed("bank", 0, "01T08"), 6.0) == "bank"
    books.left("02T08")
    renamed = books.agreed("trust", 0, "03T08")
    assert books.spend(renamed, 3.0) == "bank"
    with pytest.raises(BudgetExhausted):
        books.spend(renamed, 2.0)


def test_a_partner_under_another_key_shares_the_account_of_its_name(books: Books) -> None:
    books.spend(books.agreed("bank", 0, "01T08"), 6.0)
    books.left("02T08")
    assert books.spend(books.agreed("bank", 1, "03T08"), 3.0) == "bank"


def test_who_is_new_takes_over_what_somebody_who_left_has_spent(books: Books) -> None:
    books.spend(books.agreed("bank", 0, "01T08"), 6.0)
    books.left("02T08")
    stranger = books.agreed("another", 1, "03T08")
    assert books.accounts.peek("people", stranger, MONTH).partner == "bank"
    with pytest.raises(BudgetExhausted):
        books.spend(stranger, 5.0)
    books.left("04T08")
    assert books.spend(books.agreed("a.third", 2, "05T08"), 4.0) == "bank", "along the whole chain"


def test_of_several_who_left_the_account_most_was_spent_of_is_taken_over(books: Books) -> None:
    for name, key, spent in (("bank", 0, 2.0), ("shop", 1, 7.0)):
        books.spend(books.agreed(name, key, "01T08"), spent)
        books.left("02T08")
    assert books.spend(books.agreed("new", 2, "03T08"), 1.0) == "shop"


def test_who_was_there_before_the_other_left_has_an_account_of_its_own(books: Books) -> None:
    old = books.agreed("shop", 1, "01T07")
    books.spend(books.agreed("bank", 0, "01T08"), 6.0)
    books.left("02T08")
    assert books.spend(old, 9.0) == "shop"


def test_a_partner_cannot_say_that_it_agreed_before_this_node_knew_of_it(books: Books) -> None:
    books.spend(books.agreed("bank", 0, "01T08"), 6.0)
    books.left("02T08")
    assert books.spend(books.agreed("new", 1, "01T01", created="03T08"), 1.0) == "bank"


def test_partners_who_stand_side_by_side_do_not_share(books: Books) -> None:
    assert books.spend(books.agreed("bank", 0, "01T08"), 9.0) == "bank"
    assert books.spend(books.agreed("shop", 1, "02T08"), 9.0) == "shop"


def test_another_dataset_and_another_month_are_other_accounts(books: Books) -> None:
    books.spend(books.agreed("bank", 0, "01T08"), 6.0)
    books.left("02T08")
    new = books.agreed("new", 1, "03T08")
    assert books.spend(new, 6.0, lineage="others") == "new"
    assert books.accounts.key("people", new, "2026-04").partner == "new"


def test_looking_opens_nothing(books: Books) -> None:
    pin = books.agreed("bank", 0, "01T08")
    for _ in range(2):
        assert books.accounts.peek("people", pin, MONTH).partner == "bank"
    assert books.accounts.holders(BudgetKey("people", "bank", MONTH)) == set()


def test_the_month_agreed_on_holds_for_whoever_draws_on_an_account(books: Books) -> None:
    class Agreed:
        def pins(self) -> list[PartnerPin]:
            return [self.new]

        def monthly_epsilon(self, name: str) -> float | None:
            return {"new": 2.0}.get(name)

        new: Any = None

    book = Agreed()
    limits = AgreedLimits(book, books.ledger, books.accounts)  # type: ignore[arg-type]
    books.spend(books.agreed("bank", 0, "01T08"), 1.0)
    books.left("02T08")
    book.new = books.agreed("new", 1, "03T08")
    key = books.accounts.key("people", book.new, MONTH)
    assert key.partner == "bank"
    assert limits[key].epsilon == 2.0
    assert limits[BudgetKey("people", "nobody", MONTH)].epsilon == 10.0
    assert len(limits) == 0 and list(limits) == []


def test_leaving_and_agreeing_again_gives_no_budget_back(fresh: Any) -> None:
    fresh.bank.run(fresh.query())
    fresh.agree_anew()
    fresh.bank.run(fresh.query(epsilon=0.5))
    (status,) = fresh.shop.service.budgets()
    assert (status.key.partner, status.committed.epsilon) == ("bank", 1.5)
