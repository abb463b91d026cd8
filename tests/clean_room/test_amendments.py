"""Another version of an agreement: both sign it, or the present one goes on."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from clean_room.agreements import Agreement, Terms
from clean_room.armour import armoured
from privacy.errors import ComityError, Misuse, PeerUnreachable, Refused, Tampered

AFTER = Terms(
    purposes=("overlap.reach", "overlap.measure"),
    minimum_input=100,
    minimum_cell=20,
    epsilon_per_query=0.5,
    epsilon_per_month=7.0,
)


@pytest.fixture
def two(fresh: Any) -> Any:
    return fresh


def held(two: Any) -> tuple[Agreement, Agreement]:
    return tuple(node.collaborations.agreement(two.collaboration) for node in (two.bank, two.shop))  # type: ignore[return-value]


def test_an_amendment_that_both_sign_replaces_the_version_before_it(two: Any) -> None:
    before = held(two)[0]
    two.bank.collaborations.amend(two.collaboration, terms=AFTER)
    assert held(two) == (before, before), "until the other side accepts, nothing changes"
    assert two.shop.collaborations.show(two.collaboration)[0]["amendments"]["offered"]["version"] == 2
    own = replace(AFTER, minimum_cell=30)
    two.shop.collaborations.accept_amendment(two.collaboration, terms=own)
    ours, theirs = held(two)
    assert ours == theirs
    assert (ours.version, ours.supersedes, ours.terms.minimum_cell) == (2, before.hash, 30)
    for node in (two.bank, two.shop):
        shown = node.collaborations.show(two.collaboration)[0]
        assert (shown["agreement_hash"], shown["version"], shown["amendments"]) == (ours.hash, 2, {})
        for signer in (two.bank, two.shop):
            signature = base64.b64decode(shown["signatures"][signer.name])
            signer.identity.public.verify("collaboration-agreement", bytes.fromhex(ours.hash), signature)
        last = node.ledger.prove(node.ledger.head().size - 1).verify(node.ledger.key)[0]
        assert last.type == "partner.amended"
    assert two.bank.collaborations.monthly_epsilon("shop") == 7.0
    done = two.bank.run(two.query())
    assert done.state == "succeeded" and done.result["epsilon_spent"] == 0.5


def test_receipts_of_the_version_before_still_verify(two: Any) -> None:
    receipt = two.bank.service.receipt(two.bank.run(two.query()).receipt_id)
    two.bank.collaborations.amend(two.collaboration, terms=AFTER)
    two.shop.collaborations.accept_amendment(two.collaboration)
    assert two.bank.service.verify_receipt(receipt)
    history = two.bank.service.collaborations.versions(two.collaboration)
    assert receipt["body"]["agreement_hash"] in [agreement.hash for agreement in history]


def test_the_key_both_share_outlives_an_amendment(two: Any) -> None:
    key = two.bank.collaborations.pair_key("shop")
    two.shop.collaborations.amend(two.collaboration, terms=AFTER)
    two.bank.collaborations.accept_amendment(two.collaboration)
    assert two.bank.collaborations.pair_key("shop") == two.shop.collaborations.pair_key("bank") == key


def test_a_lost_answer_is_made_good_by_accepting_again(two: Any) -> None:
    two.bank.collaborations.amend(two.collaboration, terms=AFTER)
    lost: list[str] = []

    def lose(method: str, path: str, content: bytes) -> bytes:
        if path.endswith("/amendment/acceptance") and not lost:
            lost.append(path)
            raise PeerUnreachable("lost")
        return content

    two.wire.tamper_reply = lose
    with pytest.raises(PeerUnreachable):
        two.shop.collaborations.accept_amendment(two.collaboration)
    assert [agreement.version for agreement in held(two)] == [2, 1]
    two.shop.collaborations.accept_amendment(two.collaboration)
    ours, theirs = held(two)
    assert ours == theirs and ours.version == 2


def test_when_each_accepts_the_others_proposal_at_once_both_end_with_the_same_version(two: Any) -> None:
    two.bank.collaborations.amend(two.collaboration, terms=AFTER)
    two.shop.collaborations.amend(two.collaboration, terms=replace(AFTER, minimum_cell=40))
    crossing = {"done": False}

    def cross(method: str, path: str) -> None:
        if path.endswith("/amendment/acceptance") and not crossing["done"]:
            crossing["done"] = True
            try:
                two.bank.collaborations.accept_amendment(two.collaboration)
            except ComityError as error:
                crossing["bank"] = error.code

    two.wire.on_request = cross
    try:
        two.shop.collaborations.accept_amendment(two.collaboration)
    except ComityError as error:
        crossing["shop"] = error.code
    ours, theirs = held(two)
    assert ours == theirs and ours.version == 2
    assert ("bank" in crossing) != ("shop" in crossing)


def test_an_amendment_declined_or_expired_cannot_be_accepted(two: Any) -> None:
    two.bank.collaborations.amend(two.collaboration, terms=AFTER)
    two.shop.collaborations.decline_amendment(two.collaboration)
    with pytest.raises(Misuse, match="no amendment"):
        two.shop.collaborations.accept_amendment(two.collaboration)
    two.bank.collaborations.amend(two.collaboration, terms=AFTER, days=1)
    two.shop.clock.ahead = timedelta(days=2)
    with pytest.raises(Refused) as refused:
        two.shop.collaborations.accept_amendment(two.collaboration)
    assert refused.value.code == "expired"
    two.bank.collaborations.decline_amendment(two.collaboration)
    two.shop.clock.ahead = timedelta()
    with pytest.raises(Refused, match="no amendment"):
        two.shop.collaborations.accept_amendment(two.collaboration)
    assert [agreement.version for agreement in held(two)] == [1, 1]


def test_terms_that_leave_nothing_in_common_change_nothing(two: Any) -> None:
    two.bank.collaborations.amend(two.collaboration, terms=AFTER)
    with pytest.raises(Refused) as refused:
        two.shop.collaborations.accept_amendment(two.collaboration, terms=replace(AFTER, purposes=("other",)))
    assert refused.value.code == "rule_mismatch"
    assert [agreement.version for agreement in held(two)] == [1, 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document | {"signature": armoured(bytes(64))},
        lambda document: document | {"amendment": document["amendment"] | {"version": 3}},
        lambda document: document | {"amendment": document["amendment"] | {"proposer": "shop"}},
        lambda document: document | {"amendment": document["amendment"] | {"supersedes": "0" * 64}},
        lambda document: document | {"amendment": document["amendment"] | {"extra": 1}},
        lambda document: document | {"amendment": None},
        lambda document: {},
        lambda document: [],
        lambda document: {"amendment": {"terms": {"purposes": [float("nan")]}}, "signature": 1},
    ],
)
def test_a_forged_or_malformed_amendment_is_refused_and_changes_nothing(two: Any, change: Any) -> None:
    two.bank.collaborations.amend(two.collaboration, terms=AFTER)
    document = two.bank.collaborations.show(two.collaboration)[0]
    kept = two.shop.collaborations.show(two.collaboration)[0]
    row = two.bank.collaborations._row(two.collaboration).documents["amending"]["proposed"]
    with pytest.raises((Refused, Misuse, Tampered)):
        two.shop.collaborations.amendment("bank", two.collaboration, change(dict(row)))
    assert two.shop.collaborations.show(two.collaboration)[0] == kept
    assert document["amendments"]["proposed"]["version"] == 2


def test_only_the_partner_of_a_collaboration_may_amend_it(two: Any) -> None:
    with pytest.raises(Refused) as refused:
        two.shop.collaborations.amendment("mallory", two.collaboration, {})
    assert refused.value.code == "not_authorised"
    with pytest.raises(Refused):
        two.shop.collaborations.amendment_accepted("mallory", two.collaboration, {})
    two.bank.service.leave(two.collaboration)
    with pytest.raises(Refused) as ended:
        two.bank.collaborations.amend(two.collaboration, terms=AFTER)
    assert ended.value.code == "not_agreed"


def test_stewards_amend_over_http(two: Any) -> None:
    bank, shop = two.bank.client, two.shop.client
    body = {"terms": AFTER.document(), "days": 3}
    shown = bank.post(f"/v1/collaborations/{two.collaboration}:amend", json=body).json()
    assert shown["amendments"]["proposed"]["terms"]["minimum_cell"] == 20
    path = f"/v1/collaborations/{two.collaboration}:accept-amendment"
    assert shop.post(path, json={"terms": {"purposes": []}}).status_code == 400
    assert shop.post(path, json={}).json()["version"] == 2
    assert shop.post(path, json={}).status_code in {400, 409, 422}


def test_a_query_under_a_version_the_partner_does_not_hold_yet_is_refused(two: Any) -> None:
    two.bank.collaborations.amend(two.collaboration, terms=AFTER)

    def lose(method: str, path: str, content: bytes) -> bytes:
        if path.endswith("/amendment/acceptance"):
            raise PeerUnreachable("lost")
        return content

    two.wire.tamper_reply = lose
    with pytest.raises(PeerUnreachable):
        two.shop.collaborations.accept_amendment(two.collaboration)
    assert [agreement.version for agreement in held(two)] == [2, 1]
    job = two.bank.run(two.query())
    assert (job.state, job.error.code) == ("rejected", "rule_mismatch"), job.error
    assert not any(row.reserved.epsilon for row in two.shop.service.budgets())


def test_what_has_begun_ends_under_the_version_it_began_with(two: Any) -> None:
    before = held(two)[0]
    amended: list[str] = []

    def change(method: str, path: str) -> None:
        if "/messages/1/" in path and not amended:
            amended.append(path)
            two.bank.collaborations.amend(two.collaboration, terms=AFTER)
            two.shop.collaborations.accept_amendment(two.collaboration)

    two.wire.on_request = change
    job = two.bank.run(two.query())
    assert amended and job.state == "succeeded", job.error
    receipt = two.bank.service.receipt(job.receipt_id)
    assert receipt["body"]["agreement_hash"] == before.hash
    assert job.result["epsilon_spent"] == 1.0
    after = two.bank.run(two.query(dimensions=("age_band",)))
    assert two.bank.service.receipt(after.receipt_id)["body"]["agreement_hash"] == held(two)[0].hash
