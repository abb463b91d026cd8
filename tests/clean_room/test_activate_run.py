"""A whole activation between two nodes: who gets which ids, for how long, and who is taken out again."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from clean_room.activation_files import Audience
from clean_room.client import Comity
from clean_room.consequences import JobConsequences
from clean_room.group.ristretto import encrypt, hash_to_points
from clean_room.jobs import Query
from clean_room.pair_epochs import PairEpochs
from clean_room.storage import Store
from consent.errors import ConsentStale
from consent.events import grant
from consent.subject_receipts import SubjectReceipts
from consent.trace import Trace
from privacy.errors import Misuse, PeerUnreachable, PeerViolation, Refused
from privacy.identifiers import match_key
from privacy.keys import KeyRing

PURPOSE = "activation.audience"
BANK, SHOP, SHARED = range(280), range(80, 380), range(80, 280)
TERMS = {
    "purposes": (PURPOSE, "overlap.reach"),
    "query_types": ("activate", "overlap"),
    "key_profile": "pair-1",
}


def allow(pair: Any, purpose: str = "activation") -> None:
    for node, partner, people in ((pair.bank, "shop", BANK), (pair.shop, "bank", SHOP)):
        node.ledger.record([grant(pair.identifiers(i), purpose, partner=partner) for i in people])


def asked(pair: Any, **more: Any) -> Query:
    return replace(pair.query(), **({"kind": "activate", "purpose": PURPOSE} | more))


def exported(content: bytes) -> set[str]:
    return set(pl.read_csv(io.BytesIO(content))["publisher_id"].to_list())


def publisher_id(pair: Any, number: int) -> str:
    """By the book: base64 of p · P(e) under the shop's key and salt of now."""
    epoch = pair.shop.service.activations.epoch("bank")
    key = match_key(f"person.{number}@example.org".encode(), "pair-1")
    return base64.b64encode(encrypt(epoch.key, hash_to_points([key], epoch.salt))).decode()


@pytest.fixture(scope="module")
def activated(make_standing: Any) -> Any:
    """A pair with an activation done; tests leave consents and files as they are."""
    pair = make_standing(terms=TERMS)
    allow(pair)
    pair.job = pair.bank.run(asked(pair))
    assert pair.job.state == "succeeded", pair.job.error
    pair.shop.wait(pair.job.id)
    return pair


@pytest.fixture(scope="module")
def changing(make_standing: Any) -> Any:
    """As `activated`; each test may take people of its own out of it, and rotate keys."""
    pair = make_standing(terms=TERMS)
    allow(pair)
    pair.job = pair.bank.run(asked(pair))
    assert pair.job.state == "succeeded", pair.job.error
    pair.shop.wait(pair.job.id)
    return pair


def test_the_analyst_gets_the_ids_of_shared_people_and_the_contributor_its_map(activated: Any) -> None:
    job = activated.job
    ids = exported(activated.bank.service.activations.audience(job.id, "csv", principal="ana"))
    assert ids == {publisher_id(activated, i) for i in SHARED}
    table = pl.read_csv(
        io.BytesIO(activated.shop.service.activations.publisher_map(job.id, "csv", principal="stu"))
    )
    assert table["row"].to_list() == list(range(len(SHOP)))
    assert table["publisher_id"].to_list() == [publisher_id(activated, i) for i in SHOP]


def test_the_result_costs_no_epsilon_and_the_receipt_says_what_was_revealed(activated: Any) -> None:
    job = activated.job
    assert (job.result["value"], job.result["rate"], job.result["epsilon_spent"]) == (200, "71 %", 0.0)
    assert job.stage == "joined"
    receipt = activated.bank.service.receipt(job.receipt_id)
    assert receipt == activated.shop.service.receipt(job.receipt_id)
    assert activated.bank.service.verify_receipt(receipt)
    assert receipt["body"]["kind"] == "activate"
    assert receipt["body"]["noise"]["keep"] == 1.0
    assert "encrypted ids" in receipt["body"]["noise"]["reveals"]
    assert receipt["body"]["noise"]["epsilon"] == 0
    assert activated.shop.service.budgets() == []
    for node in (activated.bank, activated.shop):
        assert [(use.kind, use.purpose) for _, use in node.ledger.receipts()] == [("activate", PURPOSE)]


def test_no_address_hash_or_secret_travels(activated: Any) -> None:
    sent = b"".join(activated.wire.captured)
    epoch = activated.shop.service.activations.epoch("bank")
    for number in (80, 150, 279, 300):
        address = f"person.{number}@example.org".encode()
        assert address not in sent
        assert match_key(address, "pair-1") not in sent
    assert epoch.key not in sent
    assert epoch.salt in sent  # the partner needs it


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"purpose": "overlap.reach"}, "purpose_not_agreed"),
        ({"purpose": "activation"}, "purpose_not_agreed"),
        ({"key": "phone"}, "column_not_agreed"),
    ],
)
def test_an_activation_needs_its_own_purpose_and_addresses(activated: Any, change: Any, code: str) -> None:
    with pytest.raises(Refused) as refused:
        activated.bank.service.submit(asked(activated, **change), principal="ana")
    assert refused.value.code == code


def test_it_is_refused_where_it_was_not_agreed_or_the_profile_is_another(make_pair: Any) -> None:
    pair = make_pair(terms=TERMS | {"key_profile": "comity-1"})
    with pytest.raises(Refused) as refused:
        pair.bank.service.submit(asked(pair), principal="ana")
    assert refused.value.code == "profile_mismatch"
    assert "pair-1" in refused.value.advice
    pair.agree_anew(**TERMS | {"query_types": ("overlap",)})
    with pytest.raises(Refused) as refused:
        pair.bank.service.submit(asked(pair), principal="ana")
    assert refused.value.code == "query_type_not_agreed"


def test_consent_to_be_counted_is_none_to_be_reached(make_pair: Any) -> None:
    pair = make_pair(terms=TERMS)  # everybody has allowed `overlap`, nobody `activation`
    job = pair.bank.run(asked(pair))
    assert (job.state, job.error.code) == ("rejected", "input_below_minimum")
    with pytest.raises(Misuse):
        pair.bank.service.activations.audience(job.id, "csv", principal="ana")


def test_whoever_opts_out_afterwards_is_in_no_export_of_either_side(changing: Any) -> None:
    room, theirs, job = changing.bank.service.activations, changing.shop.service.activations, changing.job.id
    before = exported(room.audience(job, "csv", principal="ana"))
    gone = {publisher_id(changing, 100), publisher_id(changing, 101)}
    assert gone <= before
    for number in (100, 101):
        changing.shop.ledger.withdraw(changing.identifiers(number), partner="bank", purpose="activation")
    assert exported(room.audience(job, "csv", principal="ana")) == before - gone
    assert not gone & exported(theirs.publisher_map(job, "csv", principal="stu"))
    listed = theirs.suppressed("bank", job)
    assert {base64.b64encode(listed[i : i + 32]).decode() for i in range(0, len(listed), 32)} == gone
    # For good: a grant given later is for later activations.
    changing.shop.ledger.record([grant(changing.identifiers(100), "activation", partner="bank")])
    assert publisher_id(changing, 100) not in exported(room.audience(job, "csv", principal="ana"))


def test_a_sweep_takes_people_out_of_the_map_before_anybody_asks(changing: Any) -> None:
    theirs = changing.shop.service.activations
    theirs.enforce(changing.shop.ledger.head().size)
    before = len(theirs._files.map(changing.job.id).rows)
    assert theirs.enforce(changing.shop.ledger.head().size) == 0
    changing.shop.ledger.withdraw(changing.identifiers(102), partner="bank", purpose="activation")
    size = changing.shop.ledger.head().size
    assert theirs.enforce(size) <= 1  # the node's own sweep may have been first
    assert len(theirs._files.map(changing.job.id).rows) == before - 1
    assert theirs.enforce(size) == 0


def test_every_export_is_named_to_whoever_traces_a_person(changing: Any) -> None:
    room, job = changing.bank.service.activations, changing.job.id
    made = len(room.exports(job))
    room.audience(job, "csv", principal="ana")
    room.audience(job, "parquet", principal="ben")
    store = Store(changing.bank.engine)
    rooms = [JobConsequences(store.jobs, changing.bank.directory / "artefacts", store.exports)]
    changing.bank.ledger.withdraw(changing.identifiers(150), partner="shop", purpose="activation")
    known = SubjectReceipts(changing.bank.ledger, changing.bank.identity)
    (subject,) = known.subjects(changing.identifiers(150))
    use = Trace(changing.bank.ledger, rooms).of_subject(subject).uses[0]
    found = [(c.thing, c.status, c.reference, "for ana" in c.advice) for c in use.consequences]
    assert len(found) == made + 2
    assert found[made:] == [
        ("export", "released", f"{job}, export {made + 1}", True),
        ("export", "released", f"{job}, export {made + 2}", False),
    ]


def test_nothing_is_exported_while_it_cannot_be_asked_whom_to_leave_out(
    changing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, job = changing.bank.service.activations, changing.job.id
    made = room.exports(job)
    changing.wire.down = True
    with pytest.raises(PeerUnreachable):
        room.audience(job, "csv", principal="ana")
    changing.wire.heal()
    changing.wire.tamper_reply = lambda method, path, body: body + b"x" if "suppressed" in path else body
    with pytest.raises(PeerViolation):
        room.audience(job, "csv", principal="ana")
    changing.wire.heal()
    assert room.exports(job) == made

    def stale(*args: Any, **named: Any) -> Any:
        raise ConsentStale("not heard of", rule="lease")

    monkeypatch.setattr(changing.shop.service.activations._gate, "filter", stale)
    with pytest.raises(Refused):
        room.audience(job, "csv", principal="ana")
    with pytest.raises(ConsentStale):
        changing.shop.service.activations.publisher_map(job, "csv", principal="stu")
    assert room.exports(job) == made


def test_only_the_analyst_of_the_job_is_told_whom_to_leave_out(activated: Any) -> None:
    theirs = activated.shop.service.activations
    for partner, job in (("stranger", activated.job.id), ("bank", "0" * 32)):
        with pytest.raises(Misuse) as refused:
            theirs.suppressed(partner, job)
        assert refused.value.code == "unknown_job"
    path = f"/v1/peer/activations/{activated.job.id}/suppressed"
    assert activated.shop.client.get(path, headers={"x-partner": "stranger"}).status_code >= 400
    assert activated.shop.client.get(path, headers={"x-partner": "bank"}).content == b""
    # Who asked has no map, and who answered no audience.
    for room, call in (
        (
            activated.bank.service.activations,
            lambda r: r.publisher_map(activated.job.id, "csv", principal="x"),
        ),
        (theirs, lambda r: r.audience(activated.job.id, "csv", principal="x")),
    ):
        with pytest.raises(Misuse) as refused:
            call(room)
        assert refused.value.code == "unknown_activation"


def test_ids_stay_the_same_within_an_epoch_and_are_others_after(changing: Any) -> None:
    first = exported(changing.bank.service.activations.audience(changing.job.id, "csv", principal="ana"))
    again = changing.bank.run(asked(changing))
    repeated = exported(changing.bank.service.activations.audience(again.id, "csv", principal="ana"))
    assert {publisher_id(changing, i) for i in range(110, 140)} <= first & repeated
    size = len(repeated)
    answer = changing.shop.client.post(f"/v1/collaborations/{changing.collaboration}:rotate-ids")
    assert answer.status_code == 200
    assert set(answer.json()) == {"partner", "key_since", "salt_since"}
    later = changing.bank.run(asked(changing))
    found = exported(changing.bank.service.activations.audience(later.id, "csv", principal="ana"))
    assert len(found) == size
    assert not found & first
    # What was made before can still be exported, and people still opt out of it.
    changing.shop.ledger.withdraw(changing.identifiers(103), partner="bank", purpose="activation")
    now = exported(changing.bank.service.activations.audience(changing.job.id, "csv", principal="ana"))
    assert len(now) == len(first) - 1


def test_a_share_kept_back_is_missing_and_leaving_destroys_the_rest(make_pair: Any) -> None:
    pair = make_pair(terms=TERMS | {"activation_keep": 0.6})
    allow(pair)
    job = pair.bank.run(asked(pair))
    # 200 · 0.6 = 120, σ ≈ 6.9: seven of them on either side.
    assert 72 < job.result["value"] < 168
    assert pair.bank.service.receipt(job.receipt_id)["body"]["noise"]["keep"] == 0.6
    before = pair.shop.service.activations.epoch("bank")
    pair.bank.service.leave(pair.collaboration)
    kinds = {".audience", ".publisher-map", ".pair"}
    for node in (pair.bank, pair.shop):
        left = [file for file in (node.directory / "artefacts").iterdir() if file.suffix in kinds]
        assert left == []
    assert pair.shop.service.activations.epoch("bank") != before


def test_what_the_policy_lets_be_kept_no_longer_is_removed_on_both_sides(make_pair: Any) -> None:
    pair = make_pair(terms=TERMS)
    allow(pair)
    job = pair.bank.run(asked(pair))
    pair.shop.wait(job.id)
    kept = (pair.bank.service.activations, pair.shop.service.activations)
    for node in (pair.bank, pair.shop):
        node.clock.ahead = timedelta(days=89)
    assert [activations.expire() for activations in kept] == [0, 0]
    for node in (pair.bank, pair.shop):
        node.clock.ahead = timedelta(days=91)
    with pytest.raises(Misuse, match="no activation of that job"):
        kept[1].publisher_map(job.id, "csv", principal="steward")
    assert kept[0].expire() == 1
    assert not [path for node in (pair.bank, pair.shop) for path in node.directory.rglob(f"{job.id}.*")]


def test_a_high_rate_is_not_told_and_too_few_shared_people_leave_no_ids(make_pair: Any) -> None:
    pair = make_pair(terms=TERMS, bank=_bank(SHARED))
    allow(pair)
    assert pair.bank.run(asked(pair)).result["rate"] == ">85 %"
    pair.agree_anew(**TERMS | {"minimum_cell": 201})
    job = pair.bank.run(asked(pair))
    assert (job.result["value"], job.result["suppressed"], job.result["rate"]) == (None, True, None)
    with pytest.raises(Misuse) as refused:
        pair.bank.service.activations.audience(job.id, "csv", principal="ana")
    assert refused.value.code == "unknown_activation"


def _bank(people: range) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "email": [f"person.{i}@example.org" for i in people],
            "mobile": [f"139{i:08d}" for i in people],
            "age": [30 for _ in people],
        }
    )


def test_each_side_exports_over_the_api_as_csv_and_parquet(activated: Any) -> None:
    job = activated.job.id
    mine = activated.bank.client.get(f"/v1/overlap-queries/{job}/activation")
    assert mine.headers["content-type"].startswith("text/csv")
    assert exported(mine.content) == {publisher_id(activated, i) for i in SHARED}
    theirs = activated.shop.client.get(f"/v1/overlap-queries/{job}/activation-map?format=parquet")
    table = pl.read_parquet(io.BytesIO(theirs.content))
    assert table.columns == ["row", "publisher_id"]
    assert len(table) == len(SHOP)
    assert activated.bank.client.get(f"/v1/overlap-queries/{job}/activation?format=xlsx").status_code == 422
    assert activated.bank.client.get(f"/v1/overlap-queries/{'0' * 32}/activation").status_code == 404
    assert activated.bank.client.get(f"/v1/overlap-queries/{job}/activation-map").status_code == 404


def test_the_command_line_writes_the_file_whole_and_for_its_owner_only(
    activated: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager

    from comity.cli.overlap import app
    from comity.cli.overlap import export as command

    client = activated.bank.client

    def carry(request: httpx.Request) -> httpx.Response:
        answer = client.request(request.method, str(request.url.raw_path, "ascii"), content=request.content)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    @contextmanager
    def calling(*_: Any) -> Any:
        with Comity("http://node.test", "key", transport=httpx.MockTransport(carry)) as node:
            yield node

    monkeypatch.setattr(command, "calling", calling)
    target = tmp_path / "audience.csv"
    run = CliRunner().invoke(app, ["export", activated.job.id, "-o", str(target)])
    assert run.exit_code == 0, run.output
    assert len(exported(target.read_bytes())) == 200
    assert target.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["audience.csv"]
    assert CliRunner().invoke(app, ["export", activated.job.id, "-o", "audience.xlsx"]).exit_code != 0


# ── epochs ──────────────────────────────────────────────────────────────────────────────────────────────


def test_an_epoch_outlives_a_restart_and_ends_by_time(tmp_path: Any, clock: Any) -> None:
    ring = KeyRing.create(tmp_path / "ring")

    def opened() -> PairEpochs:
        return PairEpochs(tmp_path / "kept", ring, clock=clock, random=os.urandom)

    first = opened().current("bank")
    assert opened().current("bank") == first
    assert opened().current("other") != first
    clock.ahead = timedelta(days=28)
    assert opened().current("bank") == first
    clock.ahead = timedelta(days=29, seconds=1)
    second = opened().current("bank")
    assert (second.key, second.key_since) == (first.key, first.key_since)
    assert second.salt != first.salt
    clock.ahead = timedelta(days=179, seconds=1)
    third = opened().current("bank")
    assert third.key != first.key
    assert third.salt != second.salt
    assert opened().rotate("bank").key != third.key
    opened().forget("bank")
    assert opened().current("bank").key != third.key


def test_an_epoch_lies_sealed_and_does_not_show_its_secrets(tmp_path: Any, clock: Any) -> None:
    ring = KeyRing.create(tmp_path / "ring")
    epoch = PairEpochs(tmp_path / "kept", ring, clock=clock, random=os.urandom).current("bank")
    (file,) = (tmp_path / "kept").iterdir()
    content = file.read_bytes()
    for secret in (epoch.key, epoch.salt, epoch.key.hex().encode(), b"bank"):
        assert secret not in content
    assert epoch.key.hex() not in repr(epoch)
    assert repr(epoch.key) not in repr(epoch)
    assert file.stat().st_mode & 0o077 == 0


@pytest.fixture
def clock() -> Any:
    from tests.clean_room.conftest import Clock

    return Clock()


def test_any_number_of_suppressed_ids_is_taken_out_whoever_they_are() -> None:
    ids = np.frombuffer(os.urandom(32 * 5_000), np.uint8).reshape(-1, 32)
    strangers = np.frombuffer(os.urandom(32 * 2_000), np.uint8).reshape(-1, 32)
    left = Audience("a", ids).without(np.concatenate([strangers, ids[1_000:3_000]]))
    assert np.array_equal(left.ids, np.concatenate([ids[:1_000], ids[3_000:]]))
    assert np.array_equal(left.suppressed, ids[1_000:3_000])
    assert left.without(strangers[:0]).ids.tobytes() == left.ids.tobytes()
