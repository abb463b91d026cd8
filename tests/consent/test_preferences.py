"""Preference links, and what a person says through them."""

from __future__ import annotations

import base64
import os
from datetime import timedelta

import pytest
import sqlalchemy as sa

from consent.events import grant, withdraw
from consent.notes import VerifierKey
from consent.people import People
from consent.preference_links import LinkEnded
from consent.preferences import Status
from privacy.errors import BadInput, Misuse
from privacy.signing import SigningKey

ANN = [("email", b"ann@example.org"), ("phone", b"+8613800138000")]
BOB = [("email", b"bob@example.org")]


def joined(ledger, *names):
    for name in names:
        key = VerifierKey(f"{name}.example/consent", SigningKey.generate().public.bytes32)
        ledger.join_partner(name, key.to_text())


def people_of(node, ledger):
    return People.of(ledger, node.key, owner="Shop", base_url="https://shop.example/")


@pytest.fixture
def shop(make_node):
    """(node, ledger, people) with one partner, on SQLite."""
    node = make_node("shop")
    ledger = node.open()
    joined(ledger, "bank")
    return node, ledger, people_of(node, ledger)


def token_of(made):
    return made.url.rsplit("/", 1)[1]


def stands(people, opened):
    return {choice.name: choice.status for choice in people.preferences.choices(opened).items}


def test_a_link_names_nobody_and_is_kept_as_a_hash(ledger, node):
    people = people_of(node, ledger)
    made = people.links.create(ANN, lifetime=timedelta(days=1), created_by="officer")
    assert made.url.startswith("https://shop.example/preferences/") and len(token_of(made)) == 43
    raw = base64.urlsafe_b64decode(token_of(made) + "=")
    with node.engine.connect() as c:
        stored = repr(c.execute(sa.text("SELECT * FROM consent_links")).all()).encode()
    for secret in (raw, token_of(made).encode(), b"ann@example.org", b"13800138000"):
        assert secret not in stored and repr(secret)[2:-1].encode() not in stored
    assert "ann" not in repr(made) and token_of(made) not in repr(made)
    opened = people.links.open(token_of(made))
    assert [tuple(i) for i in opened.identifiers] == ANN and "ann" not in repr(opened)


def test_a_link_ends_with_its_time_or_when_revoked(ledger, node, clock):
    people = people_of(node, ledger)
    first, second = (people.links.create(ANN, lifetime=timedelta(hours=1)) for _ in range(2))
    people.links.open(token_of(first))
    assert people.links.revoke(first.link.id).revoked_at == clock()
    with pytest.raises(LinkEnded):
        people.links.open(token_of(first))
    clock.move(minutes=59)
    people.links.open(token_of(second))
    clock.move(minutes=1)
    with pytest.raises(LinkEnded):
        people.links.open(token_of(second))
    again = people.links.revoke(first.link.id)
    assert again.revoked_at is not None and again.revoked_at < clock()
    with pytest.raises(Misuse):
        people.links.revoke("0" * 16)


def test_all_links_of_a_person_are_revoked_together(ledger, node):
    people = people_of(node, ledger)
    mine = [people.links.create(ANN) for _ in range(3)]
    bobs = people.links.create(BOB)
    assert people.links.revoke_of(ANN[:1]) == 3 and people.links.revoke_of(ANN[:1]) == 0
    for made in mine:
        with pytest.raises(LinkEnded):
            people.links.open(token_of(made))
    people.links.open(token_of(bobs))


def test_links_are_listed_in_pages_and_old_ones_forgotten(ledger, node, clock):
    people = people_of(node, ledger)
    made = []
    for _ in range(5):
        made.append(people.links.create(ANN, lifetime=timedelta(hours=1)).link.id)
        clock.move(seconds=1)
    pages, before = [], None
    while True:
        page = people.links.links(before=before, limit=2)
        if not page:
            break
        pages += [link.id for link in page]
        before = page[-1].id
    assert pages == made[::-1]
    with pytest.raises(Misuse):
        people.links.links(before="none")
    clock.move(days=60)
    people.links.create(BOB)
    assert len(people.links.links()) == 1


def test_tokens_that_were_never_made_open_nothing(shop):
    _, _, people = shop
    made = people.links.create(ANN)
    good = token_of(made)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # Another spelling of the same bytes: base64 leaves two bits of the last letter unused.
    (twin, *_) = (
        good[:-1] + letter
        for letter in letters
        if letter != good[-1]
        and base64.urlsafe_b64decode(good[:-1] + letter + "=") == base64.urlsafe_b64decode(good + "=")
    )
    for token in (
        "", "x", "../etc/passwd", good[:-1], good + "A", twin, good.swapcase(), "A" * 43, good + "=",
        made.link.id, " " + good, good + "\n", "é" * 43, "A" * 100_000,
        base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode(),
    ):  # fmt: skip
        with pytest.raises(LinkEnded):
            people.links.open(token)


def test_a_sealed_person_cannot_be_moved_to_another_link(shop):
    node, _, people = shop
    ann, bob = people.links.create(ANN), people.links.create(BOB)
    with node.engine.begin() as c:
        sealed = c.execute(
            sa.text("SELECT sealed FROM consent_links WHERE id = :id"), {"id": bob.link.id}
        ).scalar_one()
        c.execute(
            sa.text("UPDATE consent_links SET sealed = :s WHERE id = :id"), {"s": sealed, "id": ann.link.id}
        )
    with pytest.raises(LinkEnded):
        people.links.open(token_of(ann))


def test_a_link_is_for_one_person(shop):
    _, ledger, people = shop
    ledger.record([grant(ANN, "overlap.reach"), grant(BOB, "overlap.reach")])
    with pytest.raises(Misuse) as refused:
        people.links.create([ANN[0], BOB[0]])
    assert refused.value.code == "several_subjects"
    for wrong in (
        {"identifiers": []},
        {"identifiers": ANN, "lifetime": timedelta(days=400)},
        {"identifiers": ANN, "lifetime": timedelta(0)},
        {"identifiers": ANN, "purposes": ["overlap.nothing"]},
        {"identifiers": ANN, "purposes": ["overlap"] * 65},
        {"identifiers": ANN, "partners": ["stranger"]},
    ):
        with pytest.raises(Misuse):
            people.links.create(**wrong)
    assert people.links.links() == []


def test_choices_show_what_the_ledger_would_answer(shop):
    node, ledger, people = shop
    opened = people.links.open(token_of(people.links.create(ANN)))
    assert set(stands(people, opened).values()) == {Status.UNASKED}
    ledger.record(
        [
            grant(ANN, "overlap.reach", partner="bank"),
            grant(ANN, "overlap.measure", expires_at=node.clock() + timedelta(hours=1)),
            withdraw(ANN, "model"),
        ]
    )
    node.clock.move(hours=2)
    found = stands(people, opened)
    assert found["overlap.reach|bank"] is Status.ALLOWED
    assert found["overlap.measure|bank"] is Status.LAPSED
    assert found["model.credit|bank"] is Status.DENIED
    assert found["activation.audience|bank"] is Status.UNASKED
    assert "overlap|bank" not in found and "model|bank" not in found


def test_a_limited_link_shows_and_changes_no_more(shop):
    _, ledger, people = shop
    ledger.record([grant(ANN, "overlap.reach", partner="bank"), grant(ANN, "model.credit", partner="bank")])
    opened = people.links.open(token_of(people.links.create(ANN, purposes=["model"], partners=["bank"])))
    assert list(stands(people, opened)) == ["model.credit|bank"]
    choices = people.preferences.choices(opened)
    saved = people.preferences.save(opened, {"overlap.reach|bank": False}, choices.form, language="en")
    assert (saved.allowed, saved.denied) == (0, 0)
    people.preferences.deny_everything(opened)
    assert not ledger.check(ANN[0][1], "email", "model.credit", "bank").allowed
    assert ledger.check(ANN[0][1], "email", "overlap.reach", "bank").allowed
    assert people.preferences.deny_everything(opened) is None


def test_answers_are_recorded_as_the_persons_own_decisions(shop):
    _, ledger, people = shop
    ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    opened = people.links.open(token_of(people.links.create(ANN)))
    form = people.preferences.choices(opened).form
    answers = {
        "overlap.reach|bank": False,
        "overlap.measure|bank": True,
        "model.credit|bank": False,
        "x|y": True,
    }
    saved = people.preferences.save(opened, answers, form, language="zh", screen="ab" * 32)
    assert (saved.allowed, saved.denied, saved.stale) == (1, 2, False)
    assert [h["type"] for h in ledger.history(ANN[0][1], "email")][-3:] == [
        "consent.withdrawn", "consent.refused", "consent.granted",
    ]  # fmt: skip
    subject = people.receipts.subjects(ANN)[0]
    from consent.subject_receipts import verify_receipts

    receipts = verify_receipts(people.receipts.bundle(subject), [ledger.key]).receipts
    body = receipts[-1].opened.body()
    assert body["method"] == "preference_link" and body["actor"] == "subject"
    assert body["notice"] == "general" and body["language"] == "zh" and body["recipients"] == ["bank"]
    assert body["consent_type"] == "separate" and len(body["notice_hash"]) == 64
    assert ledger.check(ANN[1][1], "phone", "overlap.measure", "bank").allowed


def test_an_old_page_cannot_bring_back_what_was_withdrawn_since(shop):
    _, ledger, people = shop
    opened = people.links.open(token_of(people.links.create(ANN)))
    old = people.preferences.choices(opened).form
    ledger.withdraw(ANN)
    saved = people.preferences.save(
        opened, {"overlap.reach|bank": True, "model.credit|bank": False}, old, language="en"
    )
    assert saved.stale and saved.allowed == 0
    assert not ledger.check(ANN[0][1], "email", "overlap.reach", "bank").allowed
    fresh = people.preferences.choices(opened).form
    assert people.preferences.save(opened, {"overlap.reach|bank": True}, fresh, language="en").allowed == 1
    assert ledger.check(ANN[0][1], "email", "overlap.reach", "bank").allowed


@pytest.mark.parametrize("form", ["", "x", "é" * 43, "A" * 43, "\x00"])
def test_a_no_counts_without_a_form_and_a_yes_does_not(shop, form):
    _, ledger, people = shop
    ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    opened = people.links.open(token_of(people.links.create(ANN)))
    saved = people.preferences.save(
        opened, {"overlap.reach|bank": False, "overlap.measure|bank": True}, form, language="en"
    )
    assert (saved.allowed, saved.denied, saved.stale) == (0, 1, True)
    assert not ledger.check(ANN[0][1], "email", "overlap.reach", "bank").allowed


def test_a_form_of_another_link_is_not_believed(shop):
    _, _, people = shop
    mine, other = (people.links.open(token_of(people.links.create(who))) for who in (ANN, BOB))
    form = people.preferences.choices(other).form
    assert people.preferences.save(mine, {"overlap.reach|bank": True}, form, language="en").stale


def test_everything_means_everything_and_is_recorded_once(shop):
    _, ledger, people = shop
    ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    opened = people.links.open(token_of(people.links.create(ANN)))
    assert people.preferences.deny_everything(opened) is not None
    size = ledger.head().size
    assert people.preferences.deny_everything(opened) is None and ledger.head().size == size
    assert set(stands(people, opened).values()) == {Status.DENIED}
    joined(ledger, "insurer")
    assert set(stands(people, opened).values()) == {Status.DENIED}
    assert people.preferences.choices(opened).everything_denied and people.preferences.ever_denied(opened)


def test_a_no_through_a_link_reaches_partners(shop):
    _, ledger, people = shop
    ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    opened = people.links.open(token_of(people.links.create(ANN)))
    with ledger.store.read() as view:
        before = view.partner("bank").sent_seq
    people.preferences.deny_everything(opened)
    with ledger.store.read() as view:
        assert view.partner("bank").sent_seq == before + 1


def test_a_stranger_may_say_no_and_be_known_by_nothing_else(shop):
    _, ledger, people = shop
    opened = people.links.open(token_of(people.links.create(BOB)))
    assert people.receipts.subjects(BOB) == []
    people.preferences.choices(opened)
    assert people.receipts.subjects(BOB) == []
    people.preferences.deny_everything(opened)
    assert ledger.check(BOB[0][1], "email", "overlap.reach", "bank").reason.value == "restricted"


def test_a_browsers_signal_keeps_sale_and_sharing_off_and_nothing_else(shop):
    _, ledger, people = shop
    opened = people.links.open(token_of(people.links.create(ANN)))
    choices = people.preferences.choices(opened, signalled=True)
    assert {c.name for c in choices.items if c.signalled} == {"activation.audience|bank"}
    answers = {"activation.audience|bank": True, "overlap.reach|bank": True}
    saved = people.preferences.save(opened, answers, choices.form, language="en", signalled=True)
    assert (saved.allowed, saved.signalled, saved.stale) == (1, True, False)
    assert not ledger.check(ANN[0][1], "email", "activation.audience", "bank").allowed
    assert ledger.check(ANN[0][1], "email", "overlap.reach", "bank").allowed


def test_reading_choices_never_writes(shop):
    _, ledger, people = shop
    opened = people.links.open(token_of(people.links.create(ANN)))
    size = ledger.head().size
    for _ in range(3):
        people.preferences.choices(opened, signalled=True)
        people.preferences.ever_denied(opened)
    assert ledger.head().size == size


def test_without_partners_only_a_no_can_be_said(make_node):
    node = make_node("shop")
    ledger = node.open()
    people = people_of(node, ledger)
    opened = people.links.open(token_of(people.links.create(ANN)))
    choices = people.preferences.choices(opened)
    assert {c.partner for c in choices.items} == {"*"} and not any(c.may_allow for c in choices.items)
    answers = {"overlap.reach|*": True, "model.credit|*": False}
    saved = people.preferences.save(opened, answers, choices.form, language="en")
    assert (saved.allowed, saved.denied) == (0, 1)


def test_a_lifetime_of_no_sense_is_refused(shop):
    _, _, people = shop
    with pytest.raises(BadInput):
        people.links.create(ANN, lifetime=timedelta(days=-1))
