"""Checking an audit report: from the file alone, from the published log, from the node's own ledger.

`verify_report` needs the file and the log's key; a trust policy adds the witnesses' quorum, a reader of the
published log a recount of every entry. `verify_against` derives all figures again from a ledger. Neither
raises for what it finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from consent.audit.collect import collect
from consent.audit.evidence import articles
from consent.audit.reading import system_events
from consent.audit.report import KIND, AuditReport, statement
from consent.audit.witnessed import check_witnessed
from consent.checkpoint import Checkpoint, open_checkpoint
from consent.encoding import Leaf, canonical_json, commitment, from_micros, parse_json, parse_time
from consent.events import GRANTING, RESTRICTING, EventType
from consent.jws import public_jwk, verify_document
from consent.laws import law
from consent.ledger import Ledger
from consent.notes import VerifierKey
from consent.proofs import EntryProof, from_base64
from consent.pseudonym_sets import PresenceProof, verify_presence
from consent.receipts import UseReceipt
from consent.tiles import TILE_WIDTH, bundle_path, decode_bundle
from consent.trust_policy import TrustPolicy
from consent.verify import Outcome, Reader, verify_ledger, verify_log
from privacy.errors import ComityError, Tampered
from privacy.signing import PublicKey

__all__ = ["ReportCheck", "verify_against", "verify_report"]

_DECISIONS = {t.value for t in (*GRANTING, *RESTRICTING)}
_LOSING = {
    EventType.ERASURE_COMPLETED.value,
    EventType.RESTORE_PERFORMED.value,
    EventType.SUBJECT_MERGED.value,
}
_UNSETTLED = (
    "decisions", "consents", "notices", "missing_notice", "separate", "exports", "removed", "signals",
)  # fmt: skip
"""Sections that rest on payloads, which erasures since then have taken away."""
_ASIDE = ("checkpoint", "scan")
"""What a ledger alone does not give: who cosigned by then, and what the datasets were."""


@dataclass(frozen=True, slots=True)
class ReportCheck:
    """`checks` names what held, in order; `detail` is one sentence on the outcome."""

    outcome: Outcome
    detail: str
    checks: tuple[str, ...] = ()
    report: AuditReport | None = None

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK


class _WrongKeyError(Exception):
    """The report is of another log, or signed by another key."""


def verify_report(
    data: bytes,
    key: VerifierKey,
    *,
    policy: TrustPolicy | None = None,
    log: Reader | None = None,
    each: Callable[[int], None] | None = None,
) -> ReportCheck:
    """Check a report as JSON against the key of the log it is about.

    Signature, checkpoint, proofs and sums; the quorum of `policy`; a recount from the published `log`,
    which must extend the report's checkpoint. `each` is told how many entries of the log were checked.
    """
    held: list[str] = []
    try:
        report = AuditReport.from_json(data)
        try:
            checkpoint = _signed(report, key)
            held.append("signature")
            _proofs(report.facts, key)
            held.append("proofs")
            _sums(report.facts)
            held.append("sums")
            check_witnessed(report.facts["checkpoint"], checkpoint, key)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise Tampered("The report is signed, but lacks figures or holds impossible ones.") from None
        if policy is not None:
            cosigned = check_witnessed(report.facts["checkpoint"], checkpoint, key)
            _, enough = policy.open(cosigned.text, key)
            if not enough:
                detail = "The report's checkpoint lacks the cosignatures that the trust policy asks for."
                return ReportCheck(Outcome.UNWITNESSED, detail, tuple(held), report)
            held.append("witnesses")
        if log is not None:
            found = verify_log(log, key, known=checkpoint, each=each)
            if not found.ok:
                return ReportCheck(found.outcome, found.detail, tuple(held), report)
            _recount(report.facts, log, found.size)
            held.append("log")
    except _WrongKeyError as error:
        return ReportCheck(Outcome.WRONG_KEY, str(error), tuple(held))
    except ComityError as error:
        return ReportCheck(Outcome.TAMPERED, error.detail, tuple(held))
    return ReportCheck(Outcome.OK, "The report holds.", tuple(held), report)


def _signed(report: AuditReport, key: VerifierKey) -> Checkpoint:
    scope = report.facts["scope"]
    public = PublicKey(key.public)
    if scope["origin"] != key.name or report.facts["keys"]["vkey"] != key.to_text():
        raise _WrongKeyError("The report is about another log.")
    if public_jwk(public)["kid"] != _key_id(report.signature):
        raise _WrongKeyError("The report is signed by another key.")
    said = verify_document(report.signature, public, KIND)
    if canonical_json(said) != canonical_json(statement(report.facts)):
        raise Tampered("The figures are not those that were signed.", code="bad_signature")
    checkpoint = open_checkpoint(str(report.facts["checkpoint"]["text"]), [key])
    if checkpoint.size != scope["size"] or checkpoint.root != from_base64(scope["root"], size=32):
        raise Tampered("The report's checkpoint is not the tree head it says it was read at.")
    return checkpoint


def _key_id(token: str) -> object:
    try:
        head = token.split(".", maxsplit=1)[0]
        header = parse_json(_unpadded(head), limit=4096)
    except ComityError:
        return None
    return header.get("kid") if isinstance(header, dict) else None


def _unpadded(text: str) -> bytes:
    import base64
    import binascii

    try:
        return base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        return b""


# proofs of violations


def _proofs(facts: Mapping[str, Any], key: VerifierKey) -> None:
    text = facts["checkpoint"]["text"]
    for case in facts["uses"]["cases"]:
        proof = case["proof"]
        if not proof:
            continue
        salt, payload = (
            from_base64(proof["receipt"]["salt"], size=32),
            from_base64(proof["receipt"]["payload"]),
        )
        leaf = _proved(proof["receipt"]["entry"], case["index"], text, key)
        if leaf.type != EventType.USE_RECEIPT.value or leaf.commit != commitment(salt, payload):
            raise Tampered(
                "The log does not hold a receipt that a violation rests on.", code="wrong_commitment"
            )
        receipt = UseReceipt.from_dict(parse_json(payload, limit=1 << 20)["receipt"])
        told = (receipt.id, receipt.kind, receipt.purpose, receipt.partner)
        if told != (case["receipt"], case["kind"], case["purpose"], case["partner"]):
            raise Tampered("A violation is told of another receipt than the one proved.")
        presence = PresenceProof.from_dict(proof["presence"])
        verify_presence(presence, receipt.set_root, from_base64(proof["leaf"], size=32))
        if case["decision"] is not None:
            decided = _proved(proof["decision"], case["decision"], text, key)
            if decided.type not in _DECISIONS or case["decision"] >= case["index"]:
                raise Tampered("A violation rests on an entry that cannot have been broken by it.")


def _proved(entry: Mapping[str, Any], index: int, text: str, key: VerifierKey) -> Leaf:
    proof = EntryProof.from_dict({**entry, "checkpoint": text})
    if proof.index != index:
        raise Tampered("A proof is of another entry than the one named.", code="invalid_proof")
    return proof.verify(key)[0]


# sums


def _sums(facts: Mapping[str, Any]) -> None:
    for what, one, other in _equations(facts):
        if one != other:
            raise Tampered(f"The report contradicts itself: {what}.", code="sums_differ")


def _equations(facts: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    scope, entries, decisions = facts["scope"], facts["entries"], facts["decisions"]
    total = entries["total"]
    yield "the period and the entries in it", scope["end"] - scope["first"], total
    yield "the order of entries", 0 <= scope["first"] <= scope["end"] <= scope["size"], True
    times = [parse_time(scope[name]) for name in ("since", "until", "made_at")]
    yield "the order of times", times, sorted(times)
    yield "entries by type", sum(entries["by_type"].values()), total
    yield "entries with and without payload", entries["opened"] + entries["erased"], total
    yield "what erasures explain", facts["removed"]["unexplained"] <= entries["erased"], True
    by_purpose = decisions["by_purpose"].values()
    yield "decisions by purpose", sum(sum(types.values()) for types in by_purpose), decisions["total"]
    for name in ("by_basis", "by_actor", "by_method", "by_law"):
        yield f"decisions {name}", sum(decisions[name].values()), decisions["total"]
    for type_ in sorted(_DECISIONS):
        counted = sum(types.get(type_, 0) for types in by_purpose)
        yield "decisions and entries by type", counted <= entries["by_type"].get(type_, 0), True
    grants = sum(types.get(t.value, 0) for types in by_purpose for t in GRANTING)
    named = sum(row["grants"] for row in facts["notices"])
    yield "grants with and without a notice", named + sum(facts["missing_notice"].values()), grants
    yield "grants by form", sum(decisions["by_consent_type"].values()), grants
    yield from _states(facts)
    yield from _told(facts["deliveries"])
    uses = facts["uses"]
    denied = uses["violations"] - uses["unexplained"]
    yield "receipts by use", sum(row["receipts"] for row in uses["by_use"]), uses["receipts"]
    yield "people by use", sum(row["people"] for row in uses["by_use"]), uses["members"]
    judged = uses["allowed"] + denied + uses["unattributable"]
    yield "people by judgement", judged, uses["members"]
    yield "violations and cases", len(uses["cases"]), min(denied, len(uses["cases"]))
    yield "violations shown", bool(uses["cases"]), bool(denied)
    yield "receipts and entries", uses["receipts"], entries["by_type"].get(EventType.USE_RECEIPT.value, 0)
    shown = articles(law(scope["law"]), entries["by_type"])
    yield "articles", canonical_json(facts["articles"]), canonical_json(list(shown))


def _states(facts: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    consents, timeline = facts["consents"], facts["consents"]["timeline"]
    standing = sum(lines["standing"] for lines in consents["by_purpose"].values())
    yield "consents standing", timeline[-1]["standing"] if timeline else consents["opening"], standing
    for name, types in (("grants", GRANTING), ("restrictions", RESTRICTING - {EventType.EXPIRED})):
        counted = sum(facts["entries"]["by_type"].get(t.value, 0) for t in types)
        yield f"{name} over time", sum(bucket[name] for bucket in timeline), counted
    for row in facts["separate"]:
        yield "separate consents", row["separate"] <= row["standing"], True


def _told(deliveries: list[Mapping[str, Any]]) -> Iterator[tuple[str, object, object]]:
    for one in deliveries:
        yield "opt-outs told", one["acknowledged"] + one["unacknowledged"], one["told"]
        yield "opt-outs by age", sum(one["ages"].values()), one["unacknowledged"]
        yield "opt-outs by time", sum(n for _, n in one["histogram"]), one["acknowledged"]
        for span in ("received", "enforced", "signed"):
            if one[span] is not None:
                yield "opt-outs measured", one[span]["count"], one["acknowledged"]
                ordered = [one[span][name] for name in ("p50", "p99", "longest")]
                yield "the order of percentiles", ordered, sorted(ordered)


# the published log


def _recount(facts: Mapping[str, Any], read: Reader, size: int) -> None:
    """Entries of the period by type and time, from the published entries (verified beforehand)."""
    scope = facts["scope"]
    first, end = scope["first"], scope["end"]
    since, until = parse_time(scope["since"]), parse_time(scope["until"])
    types: Counter[str] = Counter()
    for index, leaf in _published(read, max(first - 1, 0), min(end + 1, scope["size"]), size):
        inside = first <= index < end
        # A period that ends when the report was made takes in what was recorded at that very moment.
        now = until == parse_time(scope["made_at"])
        if inside != (since <= leaf.recorded_at and (leaf.recorded_at < until or now)):
            raise Tampered("The period of the report leaves out entries, or takes in others.")
        types[leaf.type] += inside
    if {name: n for name, n in types.items() if n} != facts["entries"]["by_type"]:
        raise Tampered("The published log counts other entries than the report.", code="sums_differ")


def _published(read: Reader, start: int, end: int, size: int) -> Iterator[tuple[int, Leaf]]:
    for bundle in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
        width = min(TILE_WIDTH, size - bundle * TILE_WIDTH)
        data = read(bundle_path(bundle, width)) or read(bundle_path(bundle)) or b""
        for place, entry in enumerate(decode_bundle(data, width)):
            index = bundle * TILE_WIDTH + place
            if start <= index < end:
                yield index, Leaf.from_bytes(entry)


# the node's own ledger


def verify_against(data: bytes, ledger: Ledger) -> ReportCheck:
    """`verify_report` and then derive every figure again from the ledger it was made from.

    Figures that rest on payloads erased since cannot be derived any more; the others must still be the
    same, and the outcome says so.
    """
    done = verify_report(data, ledger.key)
    if not done.ok or done.report is None:
        return done
    whole = verify_ledger(ledger)
    if not whole.ok:
        return replace(done, outcome=whole.outcome, detail=whole.detail)
    facts = done.report.facts
    scope = facts["scope"]
    try:
        checkpoint = open_checkpoint(str(facts["checkpoint"]["text"]), [ledger.key])
        _extends(ledger, checkpoint)
        again = collect(
            ledger,
            law_name=scope["law"],
            since=from_micros(parse_time(scope["since"])),
            until=from_micros(parse_time(scope["until"])),
            head=checkpoint,
            made_at=from_micros(parse_time(scope["made_at"])),
        )
        lost = _lost_since(ledger, checkpoint.size)
    except ComityError as error:
        return replace(done, outcome=Outcome.TAMPERED, detail=error.detail)
    derived = parse_json(canonical_json(again.to_dict()), limit=1 << 30)
    differing = [name for name in facts if name not in _ASIDE and not _same(name, facts, derived, lost > 0)]
    if differing or set(derived) != set(facts):
        detail = f"The ledger gives other figures: {', '.join(differing) or 'sections are missing'}."
        return replace(done, outcome=Outcome.TAMPERED, detail=detail)
    detail = "The report holds, and the ledger gives the same figures again."
    if lost:
        detail = (
            "The report holds. People were erased or merged since, so figures that rest on what they "
            "decided cannot be derived again; all others are the same."
        )
    return replace(done, detail=detail, checks=(*done.checks, "ledger"))


def _extends(ledger: Ledger, checkpoint: Checkpoint) -> None:
    from consent.merkle import verify_consistency

    head = ledger.head()
    if head.size < checkpoint.size:
        raise Tampered("The ledger is smaller than when the report was made.", code="rolled_back")
    proof = ledger.log.consistency(checkpoint.size, head.size)
    verify_consistency(checkpoint.size, head.size, checkpoint.root, head.root, proof)


def _lost_since(ledger: Ledger, size: int) -> int:
    with ledger.store.read() as view:
        events = system_events(view, ledger.vault, size, view.head().size)
        return sum(event.leaf.type in _LOSING for event in events)


def _same(name: str, facts: Mapping[str, Any], derived: Mapping[str, Any], lost: bool) -> bool:
    one, other = facts[name], derived.get(name)
    if lost and name in _UNSETTLED:
        return True
    if name == "uses" and isinstance(other, dict):
        fixed = ("receipts", "by_use", "members")
        kept = fixed if lost else tuple(key for key in one if key != "cases")
        one = {key: one[key] for key in kept} | ({} if lost else {"cases": _bare(facts)})
        other = {key: other[key] for key in kept} | ({} if lost else {"cases": _bare(derived)})
    if name == "entries" and lost and isinstance(other, dict):
        one, other = one["by_type"], other["by_type"]
    return canonical_json(one) == canonical_json(other)


def _bare(facts: Mapping[str, Any]) -> list[dict[str, object]]:
    return [{k: v for k, v in case.items() if k != "proof"} for case in facts["uses"]["cases"]]
