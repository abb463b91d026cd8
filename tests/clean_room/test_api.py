"""The HTTP interface, its client and its commands, against a running pair."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from clean_room.client import Comity, failure_of
from clean_room.schemas import AcceptIn, InviteIn, QueryIn
from privacy.errors import ComityError, Misuse, PeerUnreachable, Refused


def client_of(node: Any) -> Comity:
    return Comity("http://testserver", "key", transport=node.client._transport)


def query_in(pair: Any, kind: str = "overlap", **more: Any) -> QueryIn:
    return QueryIn(**(pair.query(kind).document() | more))


def test_a_question_by_http_answers_at_once_with_a_job_to_follow(pair):
    answer = pair.bank.client.post(
        "/v1/overlap-queries", json=pair.query().document(), headers={"idempotency-key": "http-1"}
    )
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/overlap-queries/{job['id']}"
    assert job["state"] in {"submitted", "started"}
    again = pair.bank.client.post(
        "/v1/overlap-queries", json=pair.query().document(), headers={"idempotency-key": "http-1"}
    )
    assert again.json()["id"] == job["id"]
    pair.bank.wait(job["id"])
    shown = pair.bank.client.get(answer.headers["location"]).json()
    assert shown["result"]["value"] == 200


def test_the_typed_client_asks_follows_and_verifies(pair):
    looks = []
    with client_of(pair.bank) as node:
        preview = node.preview(query_in(pair, dimensions=("age_band",)))
        assert (preview.epsilon, preview.cells, preview.people, preview.rows) == (1.0, 3, 280, 280)
        job = node.wait(node.ask(query_in(pair)).id, seen=looks.append, pause=0.02)
        assert failure_of(job) is None
        assert job.result is not None
        assert job.result["value"] == 200
        receipt = node.receipt(job.result["receipt_id"])
        assert receipt.verified
        assert node.jobs(limit=1).items[0].id == job.id
        assert [d.name for d in node.datasets()] == ["customers"]
        assert node.collaboration(pair.collaboration).state == "agreed"
        assert node.cancel(job.id).state == "succeeded"
    assert looks
    with client_of(pair.shop) as node:
        (budget,) = node.budgets()
        assert budget.lineage == "shop-people"


def test_pages_follow_a_cursor(pair):
    pair.bank.run(pair.query())
    pair.bank.run(pair.query())
    with client_of(pair.bank) as node:
        first = node.jobs(limit=1)
        second = node.jobs(limit=1, cursor=first.next_cursor)
    assert first.items[0].id != second.items[0].id


def test_errors_come_back_with_their_code(pair):
    with client_of(pair.bank) as node:
        for call, kind, code in (
            (lambda: node.job("0" * 32), Misuse, "unknown_job"),
            (lambda: node.receipt("0" * 32), Misuse, "unknown_receipt"),
            (lambda: node.collaboration("0" * 32), Misuse, "unknown_collaboration"),
            (lambda: node.ask(query_in(pair, purpose="model.credit")), Refused, "purpose_not_agreed"),
            (lambda: node.jobs(cursor="?"), Misuse, "malformed_cursor"),
        ):
            with pytest.raises(kind) as refused:
                call()
            assert refused.value.code == code
    with Comity("http://127.0.0.1:1", "key") as nobody, pytest.raises(PeerUnreachable):
        nobody.jobs()


def test_a_failed_job_says_why_to_the_client(pair):
    with client_of(pair.bank) as node:
        job = node.wait(node.ask(query_in(pair, segment="nobody")).id, pause=0.02)
    failure = failure_of(job)
    assert isinstance(failure, ComityError)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"\xff", b'{"kind": "overlap"}', b'{"epsilon": NaN}', b"{" * 5000],
)
def test_what_is_no_question_is_refused_without_a_job(pair, body):
    before = len(pair.bank.service.jobs(limit=200)[0])
    answer = pair.bank.client.post(
        "/v1/overlap-queries", content=body, headers={"content-type": "application/json"}
    )
    assert 400 <= answer.status_code < 500
    assert len(pair.bank.service.jobs(limit=200)[0]) == before


@pytest.mark.parametrize("path", ["/v1/peer/jobs", "/v1/peer/invitations"])
@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{}", b'{"a": 1, "a": 2}', b"x" * (1 << 20) + b"x"])
def test_partner_endpoints_refuse_what_they_cannot_read(pair, path, body):
    answer = pair.shop.client.post(path, content=body, headers={"x-partner": "bank"})
    assert 400 <= answer.status_code < 500
    assert answer.json()["code"]


def test_partner_endpoints_refuse_strangers(pair):
    job = pair.bank.run(pair.query())
    for method, path in (
        ("POST", "/v1/peer/jobs"),
        ("GET", f"/v1/peer/jobs/{job.id}"),
        ("PUT", f"/v1/peer/jobs/{job.id}/messages/1/chunks/0"),
        ("POST", f"/v1/peer/jobs/{job.id}/messages/1/finish"),
        ("GET", f"/v1/peer/jobs/{job.id}/replies/1/chunks/0"),
        ("POST", f"/v1/peer/jobs/{job.id}/receipt"),
        ("POST", f"/v1/peer/jobs/{job.id}/cancel"),
        ("POST", f"/v1/peer/collaborations/{pair.collaboration}/acceptance"),
        ("POST", f"/v1/peer/collaborations/{pair.collaboration}/leave"),
    ):
        answer = pair.shop.client.request(method, path, content=b"{}", headers={"x-partner": "mallory"})
        assert (path, answer.status_code, answer.json()["code"]) == (path, 403, "unknown_partner")
    assert pair.bank.collaborations.show(pair.collaboration)[0]["state"] == "agreed"


def test_every_route_is_described_with_a_summary(pair):
    schema = pair.bank.client.get("/openapi.json").json()
    described = [op for path in schema["paths"].values() for op in path.values()]
    assert len(described) >= 20
    assert all(op["summary"] and op["tags"] for op in described)


@pytest.fixture
def commands(pair, monkeypatch) -> Any:
    """Run a command against the bank's node; returns (exit code or error, output)."""
    import comity.cli.collab
    import comity.cli.overlap.queries

    @contextmanager
    def calling(directory: Any, url: Any, api_key: Any) -> Iterator[Comity]:
        with client_of(pair.bank) as node:
            yield node

    monkeypatch.setattr(comity.cli.collab.agreeing, "calling", calling)
    monkeypatch.setattr(comity.cli.overlap.queries, "calling", calling)

    def run(*arguments: str) -> Any:
        group = {"collab": comity.cli.collab.app, "overlap": comity.cli.overlap.app}[arguments[0]]
        return CliRunner().invoke(group, list(arguments[1:]))

    return run


ASK = ["--dataset", "customers", "--partner-dataset", "shoppers"]


def test_overlap_run_prints_a_result_and_a_receipt(commands):
    done = commands("overlap", "run", *ASK, "--by", "age_band", "--partner-by", "spender")
    assert done.exit_code == 0, done.output
    assert "shared        200 people" in done.output
    assert "age_band=young" in done.output
    job = json.loads(commands("overlap", "run", *ASK, "--json").output)
    assert job["result"]["value"] == 200
    shown = commands("overlap", "show", job["id"])
    assert shown.output.count(" signed; consents as in ") == 2
    assert "the result shown is the one signed" in shown.output
    assert job["id"] in commands("overlap", "list").output
    assert json.loads(commands("overlap", "cancel", job["id"], "--json").output)["state"] == "succeeded"


def test_measuring_and_previewing_by_command(commands):
    arguments = ["--kind", "measure", "--purpose", "overlap.measure", "--column", "spend"]
    done = commands("overlap", "run", *ASK, *arguments)
    assert "mean of spend" in done.output, done.output
    preview = commands("overlap", "preview", *ASK, *arguments)
    assert "error of sum" in preview.output


def test_a_refused_question_is_raised_for_the_exit_code(commands):
    refused = commands("overlap", "run", *ASK, "--segment", "nobody")
    assert isinstance(refused.exception, ComityError)
    refused = commands("overlap", "run", *ASK, "--purpose", "model.credit")
    assert isinstance(refused.exception, Refused)
    refused = commands("overlap", "run", *ASK, "--kind", "everything")
    assert isinstance(refused.exception, Misuse)


def test_collaborations_are_shown_by_command(commands, pair):
    assert "shop" in commands("collab", "show").output
    shown = commands("collab", "show", pair.collaboration)
    assert "minimum cell" in shown.output
    assert json.loads(commands("collab", "show", "--json").output)["collaborations"]


def test_an_invitation_by_command_travels_as_a_file(make_pair, tmp_path, monkeypatch):
    import comity.cli.collab

    pair = make_pair(agree=False, consent=False)
    node = {"now": pair.bank}

    @contextmanager
    def calling(directory: Any, url: Any, api_key: Any) -> Iterator[Comity]:
        with client_of(node["now"]) as client:
            yield client

    monkeypatch.setattr(comity.cli.collab.agreeing, "calling", calling)
    terms, file = tmp_path / "collaboration.toml", tmp_path / "invitation.json"
    terms.write_text('purposes = ["overlap.reach"]\n')
    key = pair.shop.identity.public.to_text()
    arguments = ["invite", "shop", "--partner-url", "https://shop.test", "--partner-key", key]
    done = CliRunner().invoke(comity.cli.collab.app, [*arguments, "--terms", str(terms), "-o", str(file)])
    assert done.exit_code == 0, done.output
    node["now"] = pair.shop
    unasked = CliRunner().invoke(comity.cli.collab.app, ["accept", str(file)])
    assert isinstance(unasked.exception, Misuse)
    own = pair.bank.identity.public.to_text()
    done = CliRunner().invoke(comity.cli.collab.app, ["accept", str(file), "--inviter-key", own, "--json"])
    assert json.loads(done.output)["state"] == "agreed"
    left = CliRunner().invoke(comity.cli.collab.app, ["leave", json.loads(done.output)["id"], "--yes"])
    assert "Left" in left.output


def test_inviting_and_accepting_by_client(make_pair):
    pair = make_pair(agree=False, consent=False)
    with client_of(pair.bank) as bank, client_of(pair.shop) as shop:
        invited = bank.invite(
            InviteIn(
                partner="shop",
                url="https://shop.test",
                key=pair.shop.identity.public.to_text(),
                terms={"purposes": ["overlap.reach"], "minimum_input": 100},
                deliver=True,
            )
        )
        agreed = shop.accept(AcceptIn(invitation=invited.invitation["id"]))
        assert agreed.agreement_hash == bank.collaboration(agreed.id).agreement_hash
        assert shop.leave(agreed.id).state == "left"
        assert [c.state for c in bank.collaborations()] == ["left"]
