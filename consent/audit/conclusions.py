"""What follows from the figures of a report: findings, and a short figure for each part.

Works on the report as JSON, so that a page made from a file says what the file says. A finding is
`{"key", "level", "values"}`: words come from a locale, `level` is bad, warn or good.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["ANCHORS", "figures", "findings", "headline"]

Report = Mapping[str, Any]

ANCHORS = {
    "bases": "totals", "delivery": "delivery", "erasures": "erasures", "guardians": "rights",
    "integrity": "integrity", "keys": "integrity", "limits": "limits", "notices": "notices",
    "purposes": "totals", "receipts": "rights", "recipients": "integrity", "restores": "erasures",
    "retention": "consents", "scan": "scan", "separate_consent": "separate", "signals": "rights",
    "stale": "consents", "totals": "totals", "transfers": "separate", "unacknowledged": "delivery",
    "use": "use", "violations": "use", "withdrawals": "rights",
}  # fmt: skip
"""Part of a report that a law's article names → section of the page that shows it."""

_SLOW = 1_000.0  # milliseconds
_ORDER = ("bad", "warn", "good")


def headline(report: Report) -> dict[str, Any]:
    """`{"key", "count"}` of the one sentence at the top."""
    uses = report["uses"]
    waiting = sum(d["unacknowledged"] for d in report["deliveries"])
    if uses["violations"]:
        return {"key": "broken", "count": uses["violations"]}
    if not uses["receipts"]:
        return {"key": "quiet", "count": 0}
    return {"key": "waiting" if waiting else "clear", "count": waiting}


def findings(report: Report) -> list[dict[str, Any]]:
    """The findings, gravest first."""
    found = [
        *_uses(report["uses"]),
        *_deliveries(report["deliveries"]),
        *_consents(report),
        *_log(report),
        *_scan(report["scan"]),
    ]
    return sorted(found, key=lambda finding: _ORDER.index(finding["level"]))


def _finding(level: str, key: str, **values: object) -> dict[str, Any]:
    return {"key": key, "level": level, "values": values}


def _uses(uses: Report) -> Iterable[dict[str, Any]]:
    denied = uses["violations"] - uses["unexplained"]
    if denied:
        yield _finding("bad", "violations", count=denied)
    if uses["unexplained"]:
        yield _finding("bad", "unexplained", count=uses["unexplained"])
    if uses["receipts"] and not uses["violations"]:
        yield _finding("good", "no_violations", receipts=uses["receipts"], allowed=uses["allowed"])
    if uses["stale_gates"]:
        yield _finding("bad", "stale_gates", count=uses["stale_gates"])
    if uses["overtaken"]:
        yield _finding("warn", "overtaken", count=uses["overtaken"])
    if uses["unchecked"]:
        yield _finding("warn", "unchecked", count=uses["unchecked"])


def _deliveries(deliveries: Iterable[Report]) -> Iterable[dict[str, Any]]:
    for one in deliveries:
        who = {"partner": one["partner"]}
        if one["unacknowledged"]:
            age = {"age": one["oldest"][0]["age_seconds"]}
            late = one["unacknowledged"] - one["ages"]["second"]
            level = "bad" if late else "warn"
            yield _finding(level, "waiting", count=one["unacknowledged"], **who, **age)
        enforced = one["enforced"]
        if enforced and enforced["p99"] > _SLOW:
            yield _finding("warn", "slow", p99=enforced["p99"], **who)
        elif enforced and not one["unacknowledged"]:
            yield _finding("good", "delivered", count=one["told"], p99=enforced["p99"], **who)


def _consents(report: Report) -> Iterable[dict[str, Any]]:
    formed = [row for row in report["separate"] if row["standing"]]
    for row in formed:
        missing = row["standing"] - row["separate"]
        if missing:
            yield _finding(
                "bad", "separate", missing=missing, standing=row["standing"], purpose=row["purpose"],
                articles=", ".join(row["articles"]),
            )  # fmt: skip
    if formed and all(row["standing"] == row["separate"] for row in formed):
        yield _finding("good", "separate_ok", standing=sum(row["standing"] for row in formed))
    stale = sum(lines["stale"] for lines in report["consents"]["by_purpose"].values())
    if stale:
        yield _finding("warn", "stale", count=stale)
    missing = sum(report["missing_notice"].values())
    if missing:
        yield _finding("warn", "missing_notice", count=missing)


def _log(report: Report) -> Iterable[dict[str, Any]]:
    told = report["checkpoint"]
    signed, quorum = len(told.get("cosignatures", ())), told.get("quorum")
    upto = {"size": told.get("witnessed_size", 0), "total": report["scope"]["size"]}
    if quorum is not None and not quorum:
        yield _finding("bad", "no_quorum", count=signed, **upto)
    elif signed:
        yield _finding("good", "quorum", count=signed, **upto)
    else:
        yield _finding("warn", "witness")
    erased, lost = report["entries"]["erased"], report["removed"]["unexplained"]
    if lost:
        yield _finding("bad", "lost", count=lost)
    if erased > lost:
        yield _finding("good", "erased", count=erased - lost)


def _scan(scan: Report | None) -> Iterable[dict[str, Any]]:
    if scan is None:
        yield _finding("warn", "scan_none")
        return
    counts = scan["counts"]
    if counts["bad"] or counts["warn"]:
        yield _finding("bad" if counts["bad"] else "warn", "scan", bad=counts["bad"], warn=counts["warn"])
    else:
        yield _finding("good", "scan_ok")


def figures(report: Report) -> dict[str, dict[str, Any]]:
    """Part of the report → `{"key", "values"}` of a figure that sums it up."""
    types = report["entries"]["by_type"]
    decisions, deliveries, uses = report["decisions"], report["deliveries"], report["uses"]
    lines = report["consents"]["by_purpose"].values()
    slowest = max((d["enforced"]["p99"] for d in deliveries if d["enforced"]), default=None)
    scan = report["scan"]
    counted: dict[str, dict[str, object]] = {
        "bases": {"count": len(decisions["by_basis"])},
        "delivery": {"p99": slowest},
        "erasures": {
            "completed": types.get("erasure.completed", 0),
            "held": types.get("erasure.held", 0),
        },
        "guardians": {"count": decisions["by_actor"].get("guardian", 0)},
        "integrity": {
            "size": report["scope"]["size"],
            "count": len(report["checkpoint"].get("cosignatures", ())),
        },
        "keys": {"count": len(report["keys"]["partners"])},
        "limits": {},
        "notices": {
            "named": sum(row["grants"] for row in report["notices"]),
            "missing": sum(report["missing_notice"].values()),
        },
        "purposes": {"count": len(decisions["by_purpose"])},
        "receipts": {},
        "recipients": {"count": len(report["keys"]["partners"])},
        "restores": {"count": types.get("restore.performed", 0)},
        "retention": {"count": sum(row["expired"] for row in lines)},
        "scan": {} if scan is None else {"bad": scan["counts"]["bad"]},
        "separate_consent": {
            "standing": sum(row["standing"] for row in report["separate"]),
            "separate": sum(row["separate"] for row in report["separate"]),
        },
        "signals": {"count": sum(report["signals"].values())},
        "stale": {"count": sum(row["stale"] for row in lines)},
        "totals": {"count": report["entries"]["total"]},
        "transfers": {"count": sum(row["grants"] for row in report["exports"])},
        "unacknowledged": {"count": sum(d["unacknowledged"] for d in deliveries)},
        "use": {"count": uses["receipts"]},
        "violations": {"count": uses["violations"]},
        "withdrawals": {
            "count": types.get("consent.withdrawn", 0) + types.get("objection", 0),
        },
    }
    found = {part: {"key": part, "values": values} for part, values in counted.items()}
    if slowest is None:
        found["delivery"] = {"key": "delivery_none", "values": {}}
    if scan is None:
        found["scan"] = {"key": "scan_none", "values": {}}
    return found
