"""A report that was changed, cut, moved or made up is never taken for the node's."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.audit.archive import AuditReports
from consent.audit.collect import collect
from consent.audit.report import AuditReport, sign, statement
from consent.audit.verify import verify_against, verify_report
from consent.cosignatures import Cosigner, cosign, witness_key
from consent.erasure import Erasure
from consent.events import withdraw
from consent.jws import sign_document
from consent.notes import VerifierKey
from consent.trust_policy import TrustPolicy
from consent.verify import Outcome, directory_reader
from privacy.signing import SigningKey


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a JSON document that is neither a list nor an object."""
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if items is None:
        yield path
        return
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(document: dict[str, Any], path: tuple[Any, ...], make: Callable[[Any], Any]) -> dict[str, Any]:
    copied = copy.deepcopy(document)
    at = copied
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = make(at[path[-1]])
    return copied


def other(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return 1
    if isinstance(value, int | float):
        return value + 1
    return value[:-1] + ("0" if value[-1:] != "0" else "1") if value else "x"


def resigned(facts: dict[str, Any], key: SigningKey) -> bytes:
    """The same lie, signed: what a dishonest node would hand out."""
    return AuditReport(facts, sign_document(key, "comity-audit+jws", statement(facts))).to_json().encode()


def test_an_honest_report_holds(misused) -> None:
    data, ledger = misused.report.to_json().encode(), misused.register.ledger
    assert verify_report(data, ledger.key).checks == ("signature", "proofs", "sums")
    assert verify_report(data, ledger.key, log=directory_reader(misused.log)).checks[-1] == "log"
    assert verify_against(data, ledger).checks[-1] == "ledger"


def test_every_single_figure_is_under_the_signature(misused) -> None:
    document, key = json.loads(misused.report.to_json()), misused.register.ledger.key
    paths = list(places(document))
    assert len(paths) > 400
    for path in paths[:: max(1, len(paths) // 220)]:
        data = json.dumps(changed(document, path, other)).encode()
        found = verify_report(data, key)
        assert found.outcome in (Outcome.TAMPERED, Outcome.WRONG_KEY), path


@given(st.integers(0, 1 << 20), st.binary(max_size=8))
def test_a_report_cut_short_or_spoilt_is_not_one(misused, where: int, junk: bytes) -> None:
    data = misused.report.to_json().encode()
    cut = data[: where % (len(data) - 2)] + junk
    assert not verify_report(cut, misused.register.ledger.key).ok


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]", b"null", b'"' + b"a" * 100, b"\xff\xfe", b"[" * 100_000,
        b'{"format":"comity-audit-1"}',
        b'{"format":"comity-audit-1","report":{},"signature":""}',
        b'{"format":"comity-audit-1","report":{"scope":1},"signature":"a.b.c"}',
        b'{"format":"comity-audit-1","report":{"scope":{},"keys":[]},"signature":"' + b"." * 4096 + b'"}',
        b'{"format":"comity-audit-2","report":{},"signature":""}',
        b'{"format":"comity-audit-1","format":"x","report":{},"signature":""}',
    ],
)  # fmt: skip
def test_what_is_no_report_is_not_taken_for_one(misused, data: bytes) -> None:
    found = verify_report(data, misused.register.ledger.key)
    assert found.outcome in (Outcome.TAMPERED, Outcome.WRONG_KEY)


def test_another_nodes_report_is_told_from_this_nodes(misused) -> None:
    data, mine = misused.report.to_json().encode(), misused.register.ledger.key
    stranger = SigningKey.generate()
    same_name = VerifierKey(mine.name, stranger.public.bytes32)
    assert verify_report(data, same_name).outcome is Outcome.WRONG_KEY
    assert verify_report(data, VerifierKey("other.example/log", mine.public)).outcome is Outcome.WRONG_KEY
    forged = resigned(json.loads(misused.report.to_json())["report"], stranger)
    assert verify_report(forged, mine).outcome is Outcome.WRONG_KEY
    assert not verify_report(forged, same_name).ok


def test_a_signature_of_another_report_does_not_fit(misused, make_register) -> None:
    register = misused.register
    later = sign(collect(register.ledger, law_name="gdpr"), register.key)
    mixed = AuditReport(misused.report.facts, later.signature).to_json().encode()
    assert verify_report(mixed, register.ledger.key).outcome is Outcome.TAMPERED


CONTRADICTIONS: list[tuple[tuple[Any, ...], Callable[[Any], Any]]] = [
    (("entries", "total"), lambda n: n + 1),
    (("entries", "opened"), lambda n: n + 1),
    (("entries", "by_type", "consent.granted"), lambda n: n - 1),
    (("decisions", "total"), lambda n: n + 1),
    (("decisions", "by_basis", "consent"), lambda n: n - 1),
    (("decisions", "by_purpose", "overlap.reach", "consent.granted"), lambda n: n - 1),
    (("consents", "by_purpose", "overlap.reach", "standing"), lambda n: n + 5),
    (("consents", "timeline", -1, "grants"), lambda n: n + 1),
    (("deliveries", 0, "unacknowledged"), lambda n: n - 1),
    (("deliveries", 0, "enforced", "count"), lambda n: n - 1),
    (("deliveries", 0, "enforced", "p50"), lambda n: n * 1000),
    (("uses", "violations"), lambda n: 0),
    (("uses", "cases"), lambda cases: []),
    (("uses", "members"), lambda n: n + 1),
    (("uses", "receipts"), lambda n: n - 1),
    (("uses", "cases", 0, "index"), lambda n: n - 1),
    (("uses", "cases", 0, "proof", "leaf"), lambda text: "A" * 43 + "="),
    (("uses", "cases", 0, "proof", "presence", "count"), lambda n: n + 1),
    (("uses", "cases", 0, "proof", "receipt", "salt"), lambda text: "A" * 43 + "="),
    (("uses", "cases", 0, "proof", "decision"), lambda proof: None),
    (("uses", "cases", 0, "partner"), lambda text: "lotus-retail"),
    (("scope", "size"), lambda n: n + 1),
    (("scope", "root"), lambda text: "A" * 43 + "="),
    (("scope", "end"), lambda n: n - 1),
    (("scope", "until"), lambda text: "2020-01-01T00:00:00.000000Z"),
    (("separate", 0, "separate"), lambda n: n + 10_000),
    (("articles", 0, "number"), lambda text: "999"),
    (("uses", "by_use"), lambda rows: "none"),
    (("entries",), lambda entries: None),
    (("deliveries",), lambda rows: [{}]),
]


@pytest.mark.parametrize(
    ("path", "make"), CONTRADICTIONS, ids=lambda v: ".".join(map(str, v)) if isinstance(v, tuple) else ""
)
def test_a_node_that_signs_a_contradiction_is_caught_offline(misused, path, make) -> None:
    register = misused.register
    facts = changed(json.loads(misused.report.to_json())["report"], path, make)
    found = verify_report(resigned(facts, register.key), register.ledger.key)
    assert found.outcome is Outcome.TAMPERED


def test_a_node_that_hides_withdrawals_consistently_is_caught_by_its_published_log(misused) -> None:
    register = misused.register
    facts = json.loads(misused.report.to_json())["report"]
    types = facts["entries"]["by_type"]
    types["consent.withdrawn"] -= 1
    types["audit.recorded"] = types.get("audit.recorded", 0) + 1
    bucket = next(b for b in facts["consents"]["timeline"] if b["restrictions"])
    bucket["restrictions"] -= 1
    told = next(t for t in facts["decisions"]["by_purpose"].values() if t.get("consent.withdrawn"))
    told["consent.withdrawn"] -= 1
    facts["decisions"]["total"] -= 1
    for name in ("by_basis", "by_actor", "by_method", "by_law"):
        counts = facts["decisions"][name]
        counts[max(counts, key=counts.get)] -= 1
    for article in facts["articles"]:
        if "consent.withdrawn" in article["entries"]:
            article["entries"]["consent.withdrawn"] -= 1
    data = resigned(facts, register.key)
    assert verify_report(data, register.ledger.key).ok  # nothing inside the file gives it away
    recounted = verify_report(data, register.ledger.key, log=directory_reader(misused.log))
    assert recounted.outcome is Outcome.TAMPERED
    assert verify_against(data, register.ledger).outcome is Outcome.TAMPERED


@pytest.mark.parametrize(
    ("path", "make"),
    [
        (("deliveries", 0, "enforced", "p99"), lambda n: n - 0.001),
        (("notices", 0, "hash"), lambda text: "0" * 64),
        (("uses", "overtaken"), lambda n: n + 1),
        (("consents", "people"), lambda n: n + 1),
        (("exports",), lambda rows: []),
        (("scope", "policy"), lambda text: "0" * 64),
        (("keys", "partners"), lambda rows: rows[:1]),
    ],
)
def test_a_lie_that_no_sum_shows_is_caught_by_the_ledger(misused, path, make) -> None:
    register = misused.register
    facts = changed(json.loads(misused.report.to_json())["report"], path, make)
    data = resigned(facts, register.key)
    assert verify_report(data, register.ledger.key).ok
    assert verify_against(data, register.ledger).outcome is Outcome.TAMPERED


def test_a_report_holds_after_the_ledger_has_grown_and_people_were_erased(make_register) -> None:
    register = make_register(people=20, days=8)
    data = sign(collect(register.ledger), register.key).to_json().encode()
    register.clock.move(days=2)
    register.record([withdraw([("email", b"person4@example.org")])])
    register.acknowledge()
    assert verify_against(data, register.ledger).detail.endswith("the same figures again.")
    Erasure(register.ledger).erase([("email", b"person5@example.org")])
    after = verify_against(data, register.ledger)
    assert after.ok and "cannot be derived again" in after.detail
    lied = changed(json.loads(data)["report"], ("deliveries", 0, "told"), lambda n: n + 1)
    lied["deliveries"][0]["acknowledged"] += 1
    for span in ("received", "enforced", "signed"):
        lied["deliveries"][0][span]["count"] += 1
    lied["deliveries"][0]["histogram"][0][1] += 1
    assert not verify_against(resigned(lied, register.key), register.ledger).ok


def test_a_quorum_is_asked_for_where_the_reader_has_a_policy(make_register) -> None:
    register = make_register(people=10, days=3)
    ledger, witness = register.ledger, SigningKey.generate()
    key = witness_key(VerifierKey("watch.example/log", witness.public.bytes32))
    policy = TrustPolicy.any_of({"watch": key})
    reports = AuditReports(ledger, register.key, policy=lambda: policy)
    unseen = reports.make()
    assert unseen.facts["checkpoint"]["quorum"] is False
    assert verify_report(unseen.to_json().encode(), ledger.key, policy=policy).outcome is Outcome.UNWITNESSED
    head = ledger.head()
    seconds = int(register.clock().timestamp())
    made = cosign(head, Cosigner(key, witness.sign_raw), seconds)
    assert ledger.log.static is not None
    ledger.log.static.add_cosignatures(head, [made.signature], policy)
    register.record([withdraw([("email", b"person1@example.org")])])  # the log goes on, not cosigned yet
    seen = reports.make()
    assert seen.facts["checkpoint"]["quorum"] is True
    assert [c["name"] for c in seen.facts["checkpoint"]["cosignatures"]] == [key.name]
    assert "witnesses" in verify_report(seen.to_json().encode(), ledger.key, policy=policy).checks
    lied = json.loads(seen.to_json())["report"]
    lied["checkpoint"]["consistency"] = []
    assert not verify_report(resigned(lied, register.key), ledger.key, policy=policy).ok


def test_a_published_log_that_was_cut_or_rolled_back_does_not_confirm_a_report(misused, tmp_path) -> None:
    data, key = misused.report.to_json().encode(), misused.register.ledger.key
    copied = tmp_path / "log"
    shutil.copytree(misused.log, copied)
    assert verify_report(data, key, log=directory_reader(copied)).ok
    files = [path for path in (copied / "tile" / "entries").rglob("*") if path.is_file()]
    victim = max(files, key=lambda path: path.stat().st_size)
    whole = victim.read_bytes()
    victim.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert not verify_report(data, key, log=directory_reader(copied)).ok
    victim.unlink()
    assert not verify_report(data, key, log=directory_reader(copied)).ok
