"""Agreements between two nodes: invited, accepted, countersigned, left."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room.agreements import Acceptance, Agreement, Invitation, Terms
from consent.encoding import canonical_json
from privacy.errors import ComityError, Misuse, PeerUnreachable, Refused, Tampered
from privacy.signing import SigningKey

TERMS = Terms(purposes=("overlap.reach",))


@pytest.fixture(scope="module")
def strangers(make_standing: Any) -> Any:
    """Two nodes that have agreed on nothing; tests leave what they agree."""
    return make_standing(agree=False, consent=False)


@pytest.fixture
def two(strangers: Any):
    yield strangers
    strangers.wire.heal()
    for node in (strangers.bank, strangers.shop):
        for shown in node.collaborations.show():
            if shown["state"] != "left":
                node.service.leave(shown["id"])


def invite(two: Any, **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "partner": "shop",
        "url": "https://shop.test",
        "key": two.shop.identity.public.to_text(),
        "terms": TERMS,
    }
    return two.bank.collaborations.invite(**(fields | more))


def test_both_sides_hold_the_same_agreement_with_two_signatures_and_one_pair_key(two):
    agreement = two.shop.collaborations.accept(invite(two))
    assert two.bank.collaborations.agreement(agreement.id) == agreement
    for node, other in ((two.bank, two.shop), (two.shop, two.bank)):
        shown = node.collaborations.show(agreement.id)[0]
        assert (shown["state"], shown["agreement_hash"]) == ("agreed", agreement.hash)
        for signer in (node, other):
            signature = base64.b64decode(shown["signatures"][signer.name])
            message = bytes.fromhex(agreement.hash)
            signer.identity.public.verify("collaboration-agreement", message, signature)
    keys = two.bank.collaborations.pair_key("shop"), two.shop.collaborations.pair_key("bank")
    assert keys[0] == keys[1]
    assert len(keys[0] or b"") == 32
    assert two.bank.collaborations.pair_key("nobody") is None


def test_the_pair_key_is_stored_sealed_only(two):
    agreement = two.shop.collaborations.accept(invite(two))
    key = two.bank.collaborations.pair_key("shop")
    two.bank.engine.dispose()
    stored = b"".join(p.read_bytes() for p in two.bank.directory.glob("node.db*"))
    assert agreement.id.encode() in stored
    assert key not in stored


def test_joining_is_logged_with_the_agreement_hash_on_both_sides(two):
    sizes = [node.ledger.head().size for node in (two.bank, two.shop)]
    two.shop.collaborations.accept(invite(two))
    assert all(n.ledger.head().size > s for n, s in zip((two.bank, two.shop), sizes, strict=True))
    assert [p.name for p in two.bank.ledger.partners()] == ["shop"]
    assert two.bank.ledger.partners()[0].vkey == two.shop.ledger.vkey


def test_an_invitation_survives_a_file_and_the_post(two):
    document = json.loads(json.dumps(invite(two, deliver=True)))
    (received,) = [c for c in two.shop.collaborations.show() if c["state"] == "received"]
    assert received["id"] == document["invitation"]["id"]
    assert two.shop.collaborations.pins() == []
    two.shop.collaborations.accept(received["id"], inviter_key=two.bank.identity.public.to_text())
    assert [p.name for p in two.shop.collaborations.pins()] == ["bank"]


def test_an_invitation_that_cannot_be_delivered_is_none(two):
    two.wire.down = True
    with pytest.raises(PeerUnreachable):
        invite(two, deliver=True)
    assert two.bank.collaborations.pins() == []
    two.wire.down = False
    assert invite(two, deliver=True)


@pytest.mark.parametrize(
    "change",
    [
        {"expires_at": "soon"},
        {"expires_at": "2999-01-01"},
        {"id": "../../x"},
        {"id": "A" * 32},
        {"inviter": {"name": "b\u00e4nk"}},
        {"inviter": {"name": "x" * 65}},
        {"inviter": {"url": "file:///etc/passwd"}},
        {"inviter": {"url": "https://" + "x" * 600}},
        {"inviter": {"url": "http://bank.test"}},
        {"terms": {"purposes": ["overlap.reach"], "epsilon_per_query": 0.001}},
        {"inviter": {"exchange": "AAAA"}},
        {"inviter": {"key": "nonsense"}},
        {"offers": [{"name": "a"}]},
        {"terms": {"purposes": ["overlap.reach"], "minimum_cell": "50"}},
    ],
)
def test_a_hostile_invitation_is_refused_even_when_properly_signed(two, change):
    mallory = SigningKey.generate()
    document = json.loads(json.dumps(invite(two)["invitation"]))
    document["inviter"] |= {"key": mallory.public.to_text(), "name": "mallory"}
    for name, value in change.items():
        document[name] = document[name] | value if name == "inviter" else value
    signature = mallory.sign("collaboration-invitation", canonical_json(document))
    signed = {"invitation": document, "signature": base64.b64encode(signature).decode()}
    before = two.shop.collaborations.show()
    with pytest.raises(ComityError):
        two.shop.collaborations.accept(signed)
    assert two.shop.collaborations.show() == before


def test_the_stricter_number_wins_whoever_states_it(two):
    theirs = Terms(purposes=("overlap.measure", "overlap.reach"), minimum_cell=80, epsilon_per_query=0.5)
    ours = Terms(purposes=("overlap.reach",), minimum_input=2000, query_types=("overlap",))
    agreed = two.shop.collaborations.accept(invite(two, terms=theirs), terms=ours).terms
    assert agreed == Terms(
        purposes=("overlap.reach",),
        query_types=("overlap",),
        minimum_cell=80,
        minimum_input=2000,
        epsilon_per_query=0.5,
    )


numbers = st.builds(
    Terms,
    purposes=st.just(("overlap.reach",)),
    minimum_input=st.integers(1, 5000),
    minimum_cell=st.integers(1, 500),
    epsilon_per_query=st.floats(0.01, 10),
    epsilon_per_month=st.floats(0.01, 100),
)


@given(numbers, numbers)
def test_strictest_is_symmetric_and_never_laxer_than_either(one, other):
    merged = one.strictest(other)
    assert merged == other.strictest(one)
    for side in (one, other):
        assert merged.minimum_input >= side.minimum_input
        assert merged.minimum_cell >= side.minimum_cell
        assert merged.epsilon_per_query <= side.epsilon_per_query
        assert merged.epsilon_per_month <= side.epsilon_per_month
        assert merged.strictest(side) == merged


def test_different_profiles_or_nothing_in_common_are_refused(two):
    document = invite(two)
    for terms, code in (
        (replace(TERMS, key_profile="uid2-1"), "profile_mismatch"),
        (Terms(purposes=("model.credit",)), "rule_mismatch"),
    ):
        with pytest.raises(Refused) as refused:
            two.shop.collaborations.accept(document, terms=terms)
        assert refused.value.code == code
    assert two.shop.collaborations.accept(document).terms == TERMS


def test_an_invitation_changed_on_the_way_is_refused(two):
    document = invite(two)
    for change in (
        {"terms": document["invitation"]["terms"] | {"epsilon_per_query": 9.0}},
        {"inviter": document["invitation"]["inviter"] | {"url": "https://mallory.test"}},
    ):
        with pytest.raises(Tampered):
            two.shop.collaborations.accept(document | {"invitation": document["invitation"] | change})
    with pytest.raises(ComityError):
        two.shop.collaborations.accept({"invitation": document["invitation"], "signature": "AAAA"})


@pytest.mark.parametrize(
    "document",
    [{}, {"invitation": {}}, {"invitation": 3, "signature": ""}, {"invitation": {"v": 2}, "signature": None}],
)
def test_what_is_no_invitation_is_malformed(two, document):
    with pytest.raises(Misuse) as malformed:
        two.shop.collaborations.accept(document)
    assert malformed.value.code == "malformed_document"


def test_an_invitation_for_another_key_or_expired_is_refused(two):
    stranger = SigningKey.generate().public.to_text()
    with pytest.raises(Refused) as refused:
        two.shop.collaborations.accept(invite(two, key=stranger))
    assert refused.value.code == "not_authorised"
    for shown in two.bank.collaborations.show():
        if shown["state"] == "invited":
            two.bank.collaborations.leave(shown["id"])
    document = invite(two, days=1)
    two.shop.clock.ahead = timedelta(days=2)
    with pytest.raises(Refused) as expired:
        two.shop.collaborations.accept(document)
    two.shop.clock.ahead = timedelta()
    assert expired.value.code == "expired"


def test_an_invitation_signed_by_another_than_expected_is_refused(two):
    with pytest.raises(Refused):
        two.shop.collaborations.accept(invite(two), inviter_key=SigningKey.generate().public.to_text())


def test_an_acceptance_by_another_key_is_refused(two):
    """Mallory answers, with her own key, an invitation that names the shop's."""
    document = invite(two)
    mallory = SigningKey.generate()
    captured: list[tuple[str, bytes]] = []
    two.wire.tamper = lambda m, p, b: (captured.append((p, b)), b)[1]
    two.wire.on_request = lambda m, p: setattr(two.wire, "down", True)
    with pytest.raises(PeerUnreachable):
        two.shop.collaborations.accept(document)
    two.wire.heal()
    row = two.shop.collaborations.show(document["invitation"]["id"])[0]
    assert row["state"] == "accepting"
    acceptance = two.shop.collaborations._row(row["id"]).documents["acceptance"]
    forged = acceptance | {"acceptor": acceptance["acceptor"] | {"key": mallory.public.to_text()}}
    with pytest.raises(ComityError):
        two.bank.collaborations.accepted("shop", row["id"], {"acceptance": forged, "signature": "AA=="})
    with pytest.raises(Refused):
        two.bank.collaborations.accepted("mallory", row["id"], {"acceptance": acceptance})
    assert two.bank.collaborations.show(row["id"])[0]["state"] == "invited"
    # The honest acceptance, tried again, is the same acceptance and goes through.
    assert two.shop.collaborations.accept(row["id"]).hash


def test_an_answer_lost_on_the_way_leaves_both_sides_able_to_finish(two):
    document = invite(two)

    def lose(method: str, path: str, content: bytes) -> bytes:
        raise PeerUnreachable("the answer was lost.")

    two.wire.tamper_reply = lose
    with pytest.raises(PeerUnreachable):
        two.shop.collaborations.accept(document)
    two.wire.heal()
    agreement = two.shop.collaborations.accept(document)
    assert two.bank.collaborations.agreement(agreement.id).hash == agreement.hash
    assert two.shop.collaborations.accept(document) == agreement


def test_one_agreement_a_partner_at_a_time(two):
    two.shop.collaborations.accept(invite(two))
    with pytest.raises(Misuse) as taken:
        invite(two)
    assert taken.value.code == "already_exists"


def test_leaving_ends_it_on_both_sides_and_forgets_the_key(two):
    agreement = two.shop.collaborations.accept(invite(two))
    two.shop.service.leave(agreement.id)
    for node, partner in ((two.bank, "shop"), (two.shop, "bank")):
        assert node.collaborations.show(agreement.id)[0]["state"] == "left"
        assert node.collaborations.pair_key(partner) is None
        assert node.collaborations.pins() == []
        with pytest.raises(Refused):
            node.collaborations.agreement(agreement.id)
    assert set(two.bank.collaborations.keys(agreement.id)) == {"bank", "shop"}
    again = two.shop.collaborations.accept(invite(two))
    assert again.id != agreement.id


def test_a_node_does_not_collaborate_with_itself(two):
    with pytest.raises(Misuse):
        invite(two, key=two.bank.identity.public.to_text())


def test_documents_round_trip_and_hash_the_same(two):
    document = invite(two)["invitation"]
    read = Invitation.from_document(json.loads(json.dumps(document)))
    assert read.document() == document
    assert json.loads(read.encoded()) == json.loads(json.dumps(document))
    agreement = two.shop.collaborations.accept({**invite_of(two)})
    again = Agreement.from_document(json.loads(json.dumps(agreement.document())))
    assert again.hash == agreement.hash


def invite_of(two: Any) -> dict[str, Any]:
    (row,) = [r for r in two.bank.collaborations._store.all() if r.state == "invited"]
    return dict(row.documents)


@pytest.mark.parametrize(
    "text",
    [
        "purposes = []",
        'purposes = ["a"]\nminimum_cell = 0',
        'purposes = ["a"]\nepsilon_per_query = -1.0',
        'purposes = ["a"]\nepsilon_per_query = inf',
        'purposes = ["a"]\nkey_profile = "none-1"',
        '[terms]\npurposes = ["a"]\nminimum_cel = 5',
        'purposes = ["a"]\napproval = "whim"',
        'purposes = "a"',
        "purposes = [",
    ],
)
def test_terms_that_make_no_sense_are_refused(text):
    with pytest.raises(Misuse) as malformed:
        Terms.from_toml(text)
    assert malformed.value.code == "malformed_document"


def test_terms_read_from_toml():
    terms = Terms.from_toml(
        '[terms]\npurposes = ["overlap.reach"]\nminimum_cell = 20\nepsilon_per_month = 3\n'
    )
    assert (terms.minimum_cell, terms.epsilon_per_month, terms.minimum_input) == (20, 3, 1000)


def test_a_lease_is_stated_unless_the_terms_say_otherwise_and_the_shorter_holds():
    usual = Terms.from_toml('purposes = ["a"]')
    assert usual.lease_seconds == 5 and usual.lease == timedelta(seconds=5)
    longer, none = replace(usual, lease_seconds=60.0), Terms.from_toml('purposes = ["a"]\nlease_seconds = 0')
    before = Terms.from_document({"purposes": ["a"]})
    assert (none.lease, before.lease, before.lease_seconds) == (None, None, None)
    assert longer.strictest(usual).lease_seconds == usual.strictest(longer).lease_seconds == 5
    assert longer.strictest(none).lease_seconds == before.strictest(longer).lease_seconds == 60
    assert none.strictest(before).lease_seconds == 0 and before.strictest(before).lease_seconds is None
    for wrong in ("0.5", "-1", "nan", "1e9", '"5"'):
        with pytest.raises(Misuse):
            Terms.from_toml(f'purposes = ["a"]\nlease_seconds = {wrong}')


def test_terms_signed_before_there_were_leases_keep_their_hash():
    before = Terms.from_document({"purposes": ["a"]})
    assert "lease_seconds" not in before.document()
    assert replace(before, lease_seconds=5.0).document()["lease_seconds"] == 5


def test_another_key_is_agreed_on_and_who_stands_is_told_again(fresh):
    bank, shop = fresh.bank, fresh.shop
    before = bank.collaborations.pair_key("shop")
    bank.ledger.withdraw(fresh.identifiers(150))
    sent = bank.ledger.partner("shop").sent_seq
    bank.collaborations.rotate(fresh.collaboration)
    after = bank.collaborations.pair_key("shop")
    assert after != before and after == shop.collaborations.pair_key("bank")
    # Whom the old key named is known by it until the agreement ends.
    assert list(bank.collaborations.pair_keys("shop")) == [after, before]
    assert list(shop.collaborations.pair_keys("bank")) == [after, before]
    assert bank.ledger.partner("shop").sent_seq == sent + 1
    last = bank.ledger.prove(bank.ledger.head().size - 1).verify(bank.ledger.key)[0]
    assert last.type == "partner.key_rotated"
    shop.collaborations.rotate(fresh.collaboration)
    assert len(bank.collaborations.pair_keys("shop")) == 3
    assert list(bank.collaborations.pair_keys("shop")) == list(shop.collaborations.pair_keys("bank"))
    assert fresh.bank.run(fresh.query()).state == "succeeded"


def test_until_a_rotation_is_settled_nobody_passes_whom_the_partner_may_have_restricted(fresh):
    bank, shop = fresh.bank, fresh.shop
    answered = []

    def lost(method, path, content):
        if path.endswith("/rotation") and not answered:
            answered.append(path)
            raise PeerUnreachable("lost")
        return content

    fresh.wire.tamper_reply = lost
    with pytest.raises(PeerUnreachable):
        bank.collaborations.rotate(fresh.collaboration)
    assert list(bank.collaborations.pair_keys("shop")) == []
    bank.collaborations.rotate(fresh.collaboration)
    assert list(bank.collaborations.pair_keys("shop")) == list(shop.collaborations.pair_keys("bank"))
    assert len(bank.collaborations.pair_keys("shop")) == 2


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({}, "malformed_document"), ([], "malformed_document"), ({"number": 1}, "malformed_document"),
        ({"number": 2, "exchange": "A" * 43}, "rotation_conflict"),
        ({"number": 0, "exchange": "A" * 43}, "rotation_conflict"),
        ({"number": 1, "exchange": "!"}, "peer_violation"), ({"number": 1, "exchange": 5}, "peer_violation"),
        ({"number": 1, "exchange": "AAAA"}, "peer_violation"),
        ({"number": 1, "exchange": "A" * 43 + "="}, "tampered"),
    ],
)  # fmt: skip
def test_a_rotation_that_is_none_changes_nothing(two, document, code):
    collaboration = two.shop.collaborations.accept(invite(two)).id
    book = two.shop.collaborations
    before = list(book.pair_keys("bank"))
    with pytest.raises(ComityError) as caught:
        book.rotated("bank", collaboration, document)
    assert caught.value.code == code and list(book.pair_keys("bank")) == before
    with pytest.raises(Refused):
        book.rotated("press", collaboration, {"number": 1, "exchange": "A" * 43})


def unsolicited(two: Any, signer: SigningKey, number: int) -> dict[str, Any]:
    """An invitation to the shop by anybody with a key."""
    document = json.loads(json.dumps(invite(two)))
    two.bank.collaborations.leave(document["invitation"]["id"])
    body = document["invitation"]
    body["id"] = f"{number:032x}"
    body["inviter"] |= {"name": f"stranger-{number}", "key": signer.public.to_text()}
    signature = signer.sign("collaboration-invitation", canonical_json(body))
    return {"invitation": body, "signature": base64.b64encode(signature).decode()}


def test_one_key_leaves_few_invitations_and_they_are_forgotten_in_time(two):
    book, signer = two.shop.collaborations, SigningKey.generate()
    for number in range(3):
        book.receive(unsolicited(two, signer, number))
    with pytest.raises(Refused) as refused:
        book.receive(unsolicited(two, signer, 3))
    assert refused.value.code == "too_many_invitations"
    book.receive(unsolicited(two, SigningKey.generate(), 4))
    late = unsolicited(two, signer, 5)
    late["invitation"]["expires_at"] = "2999-01-01T00:00:00+00:00"
    late["signature"] = base64.b64encode(
        signer.sign("collaboration-invitation", canonical_json(late["invitation"]))
    ).decode()
    two.shop.clock.ahead = timedelta(days=15)
    try:
        book.receive(late)
        waiting = [shown["id"] for shown in book.show() if shown["state"] == "received"]
    finally:
        two.shop.clock.ahead = timedelta()
    assert waiting == [f"{5:032x}"]


def test_an_acceptance_under_another_name_is_refused(two):
    document = invite(two)
    offered = Invitation.from_document(document["invitation"])
    two.wire.down = True
    with pytest.raises(PeerUnreachable):
        two.shop.collaborations.accept(document)
    two.wire.heal()
    row = two.shop.collaborations._row(offered.id)
    acceptance = Acceptance.from_document(row.documents["acceptance"])
    renamed = replace(acceptance, acceptor=replace(acceptance.acceptor, name="somebody"))
    with pytest.raises(Refused) as refused:
        Agreement.between(offered, renamed)
    assert refused.value.code == "rule_mismatch"
