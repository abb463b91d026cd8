"""A clock that goes back, stands still or leaps: the log stays in order, and nobody is let through by it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from consent.encoding import Leaf, to_micros
from consent.events import grant, withdraw
from consent.verify import directory_reader, verify_ledger, verify_log

MOVES = {
    "back an hour": [{}, {"hours": -1}, {"hours": -1}],
    "back to 1970": [{}, {"days": -20_000}, {}],
    "standing still": [{}, {}, {}],
    "forward ten years": [{}, {"days": 3650}, {}],
    "forward ten years and back": [{}, {"days": 3650}, {"days": -3650}],
    "back and forth": [{"hours": 1}, {"hours": -2}, {"hours": 2}],
}


def person(name):
    return [("email", f"{name}@example.org".encode())]


def allowed(ledger, name, **options):
    return ledger.check(person(name)[0][1], "email", "overlap.reach", "bank", **options).allowed


@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES.keys())
def test_the_log_stays_in_order_whatever_the_clock_does(node, clock, moves, counted):
    ledger = node.open()
    clock.still = True
    for i, by in enumerate(moves):
        clock.move(**by)
        ledger.record(
            [grant(person(f"stays{i}"), "overlap.reach"), grant(person(f"goes{i}"), "overlap.reach")]
        )
        ledger.record([withdraw(person(f"goes{i}"))])
        # The later decision counts, also when both were made at the same moment or at an earlier one.
        assert not allowed(ledger, f"goes{i}")
        assert all(allowed(ledger, f"stays{j}") for j in range(i + 1))
    with ledger.store.read() as view:
        leaves = [Leaf.from_bytes(row.leaf) for row in view.entries(0, 1 << 40)]
    times = [leaf.recorded_at for leaf in leaves]
    assert times == sorted(times) and len({leaf.id for leaf in leaves}) == len(leaves)
    ids = [leaf.id for leaf in leaves]
    assert [i[:15] for i in ids] == sorted(i[:15] for i in ids)  # the part of a UUIDv7 that is time
    again = node.open()
    assert again.head() == ledger.head() and verify_ledger(again).ok
    assert verify_log(directory_reader(node.log), again.key, known=ledger.head()).ok
    counted("a clock that goes back, stands still, leaps forward, leaps and returns", len(MOVES))


def test_a_clock_set_back_revives_no_expired_grant(node, clock):
    ledger = node.open()
    ledger.record([grant(person("a"), "overlap.reach", expires_at=clock() + timedelta(days=1))])
    assert allowed(ledger, "a")
    clock.move(days=2)
    ledger.record([grant(person("b"), "overlap.reach")])
    assert not allowed(ledger, "a")
    clock.move(days=-2)
    # What was written after the expiry shows that it is past.
    assert not allowed(ledger, "a") and not allowed(node.open(), "a")


def test_a_leap_forward_lets_nobody_through_whom_it_would_not_have_later(node, clock):
    ledger = node.open()
    ledger.record([grant(person("a"), "overlap.reach", expires_at=clock() + timedelta(days=30))])
    before = clock.now
    clock.move(days=3650)
    ledger.record([withdraw(person("b")), grant(person("c"), "overlap.reach")])
    clock.now = before
    # For this node ten years have gone by: that denies, and it never allows.
    assert not allowed(ledger, "a") and not allowed(ledger, "b") and allowed(ledger, "c")
    ledger.record([withdraw(person("c"))])
    assert not allowed(ledger, "c")
    ledger.record([grant(person("c"), "overlap.reach")])
    assert allowed(ledger, "c")
    assert verify_ledger(ledger).ok


def test_the_past_is_answered_by_when_things_were_recorded(node, clock):
    ledger = node.open()
    ledger.record([grant(person("a"), "overlap.reach")])
    between = ledger.history(person("a")[0][1], "email")[0]["recorded_at"]
    clock.move(days=-400)
    ledger.record([withdraw(person("a"))])
    assert allowed(ledger, "a", at=between) and not allowed(ledger, "a")


@pytest.mark.parametrize("moment", [datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC)])
def test_a_clock_at_the_end_of_time_breaks_nothing(make_node, clock, moment):
    node = make_node()
    ledger = node.open()
    clock.now = moment - timedelta(minutes=10) if moment.year > 2000 else moment
    ledger.record([grant(person("a"), "overlap.reach")])
    ledger.record([withdraw(person("a"))])
    assert not allowed(ledger, "a") and verify_ledger(ledger).ok
    assert verify_log(directory_reader(node.log), ledger.key).newest > to_micros(moment) - 3_600_000_000
