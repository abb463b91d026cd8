"""How answers are printed for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from comity.cli.output import table

if TYPE_CHECKING:
    from clean_room.receipts import ReceiptCheck
    from clean_room.schemas import JobOut, PreviewOut, ReceiptOut

__all__ = ["lines_of", "preview_lines", "receipt_lines"]


def lines_of(job: JobOut) -> Iterator[str]:
    """A query and its result, each kind in its own words."""
    yield f"{job.id}  {job.kind} with {job.partner}: {job.state}"
    if job.error:
        yield f"why           {job.error['detail']} {job.error['advice']} ({job.error['code']})".rstrip()
    result = job.result
    if result is None:
        return
    if "suppressed" not in result:
        yield f"repeats       job {result['repeated_from']}: nothing computed, nothing charged"
        return
    if result["suppressed"]:
        yield "result        hidden: fewer people than the agreed minimum cell (which may be none)"
    elif result.get("statistic") == "lift":
        yield from _lift(result)
    elif job.kind == "activate":
        yield f"ids           {result['value']:,} of shared people ({result['rate']} of own)"
        yield f"export        comity overlap export {job.id} -o audience.csv"
    elif job.kind == "reach":
        yield from _reach(result)
    elif job.kind == "measure":
        low, high = result["ci95"]
        yield f"{result['statistic']} of {result['column']}: {result['value']:,.2f}"
        yield f"95 %          {low:,.2f} … {high:,.2f}; noise scale {result['noise_scale']:g} on each sum"
        yield f"over          {result['count']:,} people"
    else:
        low, high = result["ci95"]
        rate = f" ({result['rate']} of own)" if result["rate"] else ""
        least = "at least " if result.get("capped") else ""
        yield f"shared        {least}{result['value']:,} people{rate}, 95 % {low:,} … {high:,}"
    if len(result["cells"]) > 1:
        rows = [
            (c["analyst"], c["contributor"], *(("hidden", "") if c["suppressed"] else _figures(c)))
            for c in result["cells"]
        ]
        yield ""
        yield from table([job.query["dataset"], job.query["partner_dataset"], "value", "95 %"], rows)
        yield ""
    if result.get("thinning"):
        yield from _thinning(result["thinning"])
    left = result.get("budget_left")
    if result.get("repeated_from"):
        yield f"repeats       job {result['repeated_from']}: the same question, people and answer"
    yield f"spent         ε = {result['epsilon_spent']:g}" + (
        "" if left is None else f", {left:g} left this month"
    )
    for receipt in result.get("receipts") or [result["receipt_id"]]:
        yield f"receipt       {receipt}"


def preview_lines(found: PreviewOut) -> Iterator[str]:
    """What a preview says beyond cost and error bar."""
    if found.bytes_received is not None:
        yield f"to come       {found.bytes_received / 1e6:.1f} MB"
        yield f"computing     about {found.minutes:g} minutes"
    if found.budget_left is not None:
        yield f"left          ε = {found.budget_left:g} this month"
    if found.repeats:
        yield f"repeats       job {found.repeats}: its answer would be given again, free of charge"
    if found.too_close_to is not None:
        yield f"refused       almost the same people as in job {found.too_close_to}, whose answer stands"
    if found.could_learn:
        yield from ("", "what could they learn?", found.could_learn["sentence"], found.could_learn["covers"])


def _reach(result: dict[str, Any]) -> Iterator[str]:
    low, high = result["ci95"]
    yield f"reach         {result['value']:,} people, 95 % {low:,} … {high:,}, each counted once"
    figures = [
        *((f"{k['lists']} or more lists", k) for k in result["at_least"][1:]),
        *((f"only {alone['party']}", alone) for alone in result["exclusive"]),
        *((" and ".join(region["parties"]), region) for region in result["regions"]),
    ]
    rows = [(name, *(("hidden", "") if found["suppressed"] else _figures(found))) for name, found in figures]
    yield ""
    yield from table(["in", "people", "95 %"], rows)
    yield ""


def _thinning(told: dict[str, Any]) -> Iterator[str]:
    for found in told["alone"]:
        worth = "nothing" if found["epsilon"] is None else f"ε = {found['epsilon']:g}"
        yield (
            f"thinning      {1 - told['keep']:.1%} dropped; by itself it guarantees {worth} "
            f"at δ = {found['delta']:g} for {found['people']:,} shared people"
        )


def _lift(result: dict[str, Any]) -> Iterator[str]:
    treated, held, more = result["treated"], result["holdout"], result["incremental"]
    yield f"campaign      {treated['rate']:.4g} of {result['column']} a person, {treated['people']:,} people"
    yield f"holdout       {held['rate']:.4g} a person, {held['people']:,} people"
    yield f"incremental   {more['value']:+.4g} a person, 95 % {more['ci95'][0]:+.4g} … {more['ci95'][1]:+.4g}"
    if result["value"] is None or result["ci95"] is None:
        yield "lift          cannot be told: the holdout's rate is not clearly above zero"
    else:
        low, high = result["ci95"]
        yield f"lift          {result['value']:+.1%}, 95 % {low:+.1%} … {high:+.1%}"


def _figures(cell: dict[str, Any]) -> tuple[str, str]:
    low, high = cell["ci95"]
    form = ",d" if isinstance(cell["value"], int) else ",.2f"
    return format(cell["value"], form), f"{format(low, form)} … {format(high, form)}"


def receipt_lines(receipt: ReceiptOut, checked: ReceiptCheck) -> Iterator[str]:
    """What a receipt proves, and whether it does."""
    for side in ("analyst", "contributor"):
        signed = "signed" if getattr(checked, side) else "SIGNATURE DOES NOT HOLD"
        consent = receipt.body[side]["consent"]
        yield (
            f"  {receipt.body[side]['partner']:<12}{signed}; consents as in {consent['log_origin']} "
            f"at {consent['log_size']} entries, {consent['checked_at'][:19]}"
        )
    agreed = "the agreement" if checked.agreement else "NO VERSION OF THE AGREEMENT"
    yield f"  under {agreed} {receipt.body['agreement_hash'][:16]}…"
    if checked.result is not None:
        yield f"  the result shown is {'the one signed' if checked.result else 'NOT THE ONE SIGNED'}"
