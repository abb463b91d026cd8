"""The demonstration from end to end: two partners, one consented overlap, one joint model, 200 opt-outs.

    prepare → mask → consents → start → agree → overlap → cells → measure → model
            → opt-outs → overlap and model again → stop → verify

Everything goes through what any user has: the command line for files, the HTTP API of the two running
nodes for the rest. Nothing of the nodes' insides is reached into while they run.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clean_room.agreements import Terms
from clean_room.group.engines import choose_blinder
from clean_room.schemas import AcceptIn, InviteIn, JobOut, QueryIn
from comity.demo.audits import write_audits
from comity.demo.calls import NodeCalls, calls_to
from comity.demo.data import LABEL, SHOP_FEATURES, load
from comity.demo.evidence import Join, Training, check_absence, check_joins, check_trainings, ledgers_of
from comity.demo.exchanges import Traffic
from comity.demo.logs import SeenLog, check_logs, see_log
from comity.demo.narration import Narration
from comity.demo.nodes import NodeProcess
from comity.demo.optouts import enforcement_times, opt_out, wait_until_told
from comity.demo.outcome import (
    Cell,
    Exchange,
    Measured,
    Model,
    OptOuts,
    Outcome,
    Overlap,
    Particulars,
)
from comity.demo.partners import BANK, PURPOSES, SHOP, Inputs, cut, shared_people
from comity.demo.sites import Site, import_consents, make_sites, mask_samples, mask_tables
from privacy.errors import Misuse, Refused
from privacy.identifiers import Kind, Rejected, canonical

__all__ = ["Settings", "tell", "workplace"]

KEY = "phone"
COLUMN = "PAY_AMT1"
TERMS = Terms(
    purposes=PURPOSES, epsilon_per_query=2.0, delta_per_query=1e-6, epsilon_per_month=8.0,
    minimum_input=1000, minimum_cell=50,
)  # fmt: skip
JOB_SECONDS = 900.0
ROUNDS = 3
TOLERANCE = 0.002  # nats: close enough to the optimum that the AUC agrees to three digits


@dataclass(frozen=True, slots=True)
class Settings:
    """What a demonstration is run with."""

    data: Path | None = None
    keep: Path | None = None
    people: int = 24_000
    seed: int = 7
    optouts: int = 200


@dataclass(slots=True)
class _Found:
    """What has been learnt so far."""

    joins: list[Join] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    jobs_before: set[str] = field(default_factory=set)
    jobs_after: set[str] = field(default_factory=set)


@contextlib.contextmanager
def workplace(keep: Path | None) -> Iterator[Path]:
    """The folder everything happens in: `keep` (new or empty; stays), or a temporary one (removed)."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="comity-demo-") as folder:
            yield Path(folder)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise Misuse(
            f"{keep} is there already and not empty.",
            advice="Name a new directory for --keep.",
            code="already_exists",
        )
    made = not keep.exists()
    keep.mkdir(parents=True, exist_ok=True)
    try:
        yield keep.resolve()
    finally:
        if made and not any(keep.iterdir()):
            keep.rmdir()


def tell(settings: Settings, folder: Path, narration: Narration) -> Outcome:
    """Run the whole demonstration in `folder` (empty) and return what was found.

    On return, and on any error or interruption, both node processes have ended. Raises the error family.
    """
    began = time.monotonic()
    with narration.stage("prepare the data") as telling:
        credit = load(settings.data)
        inputs = cut(credit, people=settings.people, seed=settings.seed, optouts=settings.optouts)
        inputs.write(folder / "inputs")
        telling.say(" and ".join(f"{t.height:,} rows at the {n}" for n, t in inputs.tables.items()))
    sites = make_sites(folder)
    with narration.stage("mask for analysts") as telling:
        masking = mask_tables(folder, sites, inputs)
        samples = mask_samples(folder, sites, inputs)
        planted, left = sum(m.planted for m in masking), sum(m.left for m in masking)
        telling.say(f"{planted:,} identifiers in notes, {left} left")
    with narration.stage("import consents") as telling:
        import_consents(folder, sites)
        telling.say(f"{sum(c.height for c in inputs.consents.values()):,} decisions")
    found = _Found()
    with contextlib.ExitStack() as running:
        bank, shop = _start(running, sites, narration)
        told = _while_running(bank, shop, inputs, narration=narration, found=found)
        with narration.stage("stop both nodes"):
            running.close()
    with narration.stage("verify logs, receipts, proofs") as telling:
        logs = check_logs(sites, told.logs)
        with ledgers_of(sites) as ledgers:
            receipts = [
                *check_joins(found.joins, sites),
                *check_trainings(found.trainings, sites, ledgers),
            ]
            latencies = enforcement_times(ledgers[SHOP], BANK)
            absence = check_absence(
                ledgers, _people(inputs), before=found.jobs_before, after=found.jobs_after
            )
        telling.say(f"{sum(g.size for g in logs):,} log entries, {absence.proofs:,} proofs of absence")
    if settings.keep is not None:
        with narration.stage("audit both ledgers") as telling:
            violations = write_audits(sites, folder / "audit")
            telling.say(f"{sum(violations.values())} uses without consent; see {folder / 'audit'}")
    return Outcome(
        seconds=time.monotonic() - began,
        overlap=told.overlap,
        cells=told.cells,
        measure=told.measure,
        model=told.model,
        optout=OptOuts(
            people=inputs.optouts.height,
            latencies_ms=latencies,
            proofs=absence.proofs,
            receipts_checked=absence.receipts,
            non_inclusion_proved=absence.proved,
        ),
        logs=logs,
        receipts=sorted(receipts, key=lambda receipt: (receipt.after_optout, receipt.at)),
        engine=told.engine,
        particulars=Particulars(
            bank=BANK,
            shop=SHOP,
            people_each=settings.people,
            people_shared=shared_people(settings.people),
            rows={name: table.height for name, table in inputs.tables.items()},
            eligible=told.eligible,
            delta=TERMS.delta_per_query,
            minimum_cell=TERMS.minimum_cell,
            seed=settings.seed,
            source="the UCI credit card default data" if settings.data is None else f"{settings.data.name}",
            made_at=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            stages=tuple(narration.stages),
            exchanges=told.exchanges,
            samples=samples,
            masking=masking,
            consents=_consents(inputs),
            versions={"Comity": version("comity"), "Python": platform.python_version()},
        ),
    )


@dataclass(frozen=True, slots=True)
class _Told:
    """What the running nodes answered."""

    overlap: Overlap
    cells: list[Cell]
    measure: Measured
    model: Model
    eligible: Mapping[str, int]
    exchanges: list[Exchange]
    engine: str
    logs: Mapping[str, SeenLog]


def _start(
    running: contextlib.ExitStack, sites: Mapping[str, Site], narration: Narration
) -> tuple[NodeCalls, NodeCalls]:
    with narration.stage("start two nodes") as telling:
        nodes = {
            name: running.enter_context(NodeProcess.of(name, site.directory, site.url))
            for name, site in sites.items()
        }
        for node in nodes.values():
            node.wait_ready()
        telling.say(", ".join(site.url for site in sites.values()))

    def alive() -> None:
        for node in nodes.values():
            node.check_running()

    bank, shop = (running.enter_context(calls_to(sites[name], alive)) for name in (BANK, SHOP))
    return bank, shop


def _while_running(
    bank: NodeCalls, shop: NodeCalls, inputs: Inputs, *, narration: Narration, found: _Found
) -> _Told:
    with narration.stage("agree on a collaboration") as telling:
        collaboration = _agree(bank, shop)
        telling.say(
            f"{len(PURPOSES)} purposes, ε ≤ {TERMS.epsilon_per_month:g}, minimum cell {TERMS.minimum_cell}"
        )
    logs = {call.site.name: see_log(call.site, call.get("/v1/node")["log_vkey"]) for call in (bank, shop)}
    traffic = Traffic(bank, shop)
    ask = _Asker(bank, shop, collaboration, found=found, epochs=_epochs(inputs))

    with narration.stage("overlap") as telling, traffic.of("overlap, in total"):
        total = ask.join(telling.share, purpose="overlap.reach", epsilon=1.0)
        telling.say(_interval(total.result))
    with narration.stage("overlap by age and limit") as telling, traffic.of("overlap, by age and limit"):
        split = ask.join(
            telling.share, purpose="overlap.reach", epsilon=1.0, dimensions=("age_band", "limit_band")
        )
        cells = _cells(_result(split))
        telling.say(f"{len(cells)} cells, {sum(c.suppressed for c in cells)} withheld")
    with narration.stage("average repayment") as telling, traffic.of("average repayment"):
        measured = _result(
            ask.join(
                telling.share, kind="measure", purpose="overlap.measure", column=COLUMN, statistic="mean"
            )
        )
        telling.say(
            f"{measured['value']:,.0f}, 95 %: {measured['ci95'][0]:,.0f} to {measured['ci95'][1]:,.0f}"
        )
    with narration.stage("joint model") as telling, traffic.of("joint model"):
        trained = ask.train(telling.share)
        telling.say(f"AUC {trained['auc_alone']:.3f} alone, {trained['auc_joint']:.3f} joint")
    with narration.stage(f"{inputs.optouts.height} people opt out") as telling, traffic.of("opt-outs"):
        within = opt_out(shop, BANK, inputs.optouts, telling.share)
        telling.say(f"99 % enforced at the {BANK} within {within:,.0f} ms")
    with narration.stage("overlap again") as telling, traffic.of("overlap, again"):
        again = ask.join(telling.share, purpose="overlap.reach", epsilon=1.0, after=True)
        telling.say(_interval(again.result))
    with narration.stage("joint model again") as telling, traffic.of("joint model, again"):
        retrained = ask.train(telling.share, after=True)
        telling.say(f"AUC {retrained['auc_joint']:.3f} on {retrained['people']:,} people")

    before, after = _result(total), _result(again)
    theirs = shop.room.job(total.id)
    return _Told(
        overlap=Overlap(
            int(before["value"]), (before["ci95"][0], before["ci95"][1]), float(before["epsilon_spent"]),
            int(after["value"]), (after["ci95"][0], after["ci95"][1]),
        ),
        cells=cells,
        measure=Measured(COLUMN, float(measured["value"]), (measured["ci95"][0], measured["ci95"][1])),
        model=Model(
            trained["auc_alone"], trained["auc_joint"], retrained["auc_joint"],
            trained["people"], retrained["people"],
        ),
        eligible={BANK: int(total.input["people"]), SHOP: int(theirs.input["people"])},
        exchanges=traffic.exchanges(ask.disclosed),
        engine=choose_blinder("auto").name,
        logs=logs,
    )  # fmt: skip


def _agree(bank: NodeCalls, shop: NodeCalls) -> str:
    """Invite and accept, each side comparing the other's key as two people would over the telephone."""
    invitation = bank.room.invite(
        InviteIn(partner=SHOP, url=shop.site.url, key=shop.site.public_key, terms=TERMS.document())
    )
    accepted = shop.room.accept(
        AcceptIn(invitation=invitation.model_dump(), inviter_key=bank.site.public_key)
    )
    if accepted.state != "agreed" or bank.room.collaboration(accepted.id).state != "agreed":
        raise Refused("the two nodes did not come to an agreement.", code="rule_mismatch")
    wait_until_told(bank, shop)
    return accepted.id


class _Asker:
    """The bank's analyst: asks, waits, and files the receipts of both sides."""

    def __init__(
        self, bank: NodeCalls, shop: NodeCalls, collaboration: str, *, found: _Found, epochs: int
    ) -> None:
        self._bank, self._shop, self._found, self._epochs = bank, shop, found, epochs
        self._about = {
            "collaboration": collaboration,
            "dataset": "customers",
            "partner_dataset": "repayments",
        }
        self.disclosed: Mapping[str, str] = {}

    def join(self, progress: Callable[[float], None], *, after: bool = False, **asked: Any) -> JobOut:
        """An overlap or measure query; raises Refused when its whole result was withheld."""
        query = QueryIn.model_validate({"key": KEY, **self._about, **asked})
        job = self._bank.ask(query, seconds=JOB_SECONDS, progress=progress)
        self._file(job.id, after)
        _result(job)
        return job

    def train(self, progress: Callable[[float], None], *, after: bool = False) -> dict[str, Any]:
        """A joint model; the result of the run."""
        started = self._bank.post(
            "/v1/training-runs",
            {
                **self._about,
                "label": LABEL,
                "purpose": "model.credit",
                "align_purpose": "overlap.align",
                "key": KEY,
                "rounds": ROUNDS,
                "epochs": self._epochs,
                "tolerance": TOLERANCE,
            },
        )
        path = f"/v1/training-runs/{started['id']}"
        run = self._bank.follow(path, seconds=JOB_SECONDS, progress=progress)
        result: dict[str, Any] = run["result"]
        rounds = {call.site.name: call.get(f"{path}/receipts") for call in (self._bank, self._shop)}
        self._found.trainings.append(Training(rounds, "model.credit", after))
        self._seen(after).add(run["id"])
        self._file(run["alignment"], after)
        self.disclosed = self._bank.get(f"{path}/card")["disclosed"]
        return result

    def _file(self, job: str, after: bool) -> None:
        mine, theirs = self._bank.room.job(job), self._shop.room.job(job)
        documents = {
            call.site.name: call.room.receipt(str(side.receipt_id)).model_dump()
            for call, side in ((self._bank, mine), (self._shop, theirs))
        }
        self._found.joins.append(Join(mine.kind, documents, after))
        self._seen(after).add(job)

    def _seen(self, after: bool) -> set[str]:
        return self._found.jobs_after if after else self._found.jobs_before


def _epochs(inputs: Inputs) -> int:
    """Epochs a round, so that the gradients stay too few to solve for anybody's columns even at the end.

    A node refuses a run with 4 · features · epochs · rounds above its training rows (three in four).
    """
    people = min(table.height for table in inputs.tables.values())
    expected = 0.75 * (0.87 * shared_people(people) - inputs.optouts.height)
    return max(1, min(4, int(expected // (4 * len(SHOP_FEATURES) * ROUNDS))))


def _result(job: JobOut) -> dict[str, Any]:
    result = job.result or {}
    if result.get("value") is None:
        raise Refused(
            "too few people are in common to show anything.",
            code="below_minimum_cell",
            advice="Use more --people.",
        )
    return result


def _interval(result: Mapping[str, Any] | None) -> str:
    shown = result or {}
    return f"{shown['value']:,} people, 95 %: {shown['ci95'][0]:,} to {shown['ci95'][1]:,}"


def _cells(result: Mapping[str, Any]) -> list[Cell]:
    cells = []
    for cell in result["cells"]:
        named = dict(part.split("=", 1) for part in str(cell["analyst"]).split(" · "))
        interval = cell["ci95"]
        cells.append(
            Cell(
                named["age_band"], named["limit_band"], cell["value"],
                None if interval is None else (interval[0], interval[1]), bool(cell["suppressed"]),
            )
        )  # fmt: skip
    return cells


def _people(inputs: Inputs) -> list[dict[str, bytes]]:
    people = []
    for email, mobile in inputs.optouts.select("email", "mobile").iter_rows():
        forms = {"email": canonical(Kind.EMAIL, email), "phone": canonical(Kind.PHONE, mobile)}
        people.append({kind: form for kind, form in forms.items() if not isinstance(form, Rejected)})
    return people


def _consents(inputs: Inputs) -> dict[str, dict[str, int]]:
    counted = {}
    for name, register in inputs.consents.items():
        by = register.group_by("decision", "purpose").len()
        for decision in ("granted", "refused"):
            counted[f"{name}, {decision}"] = {
                purpose: int(
                    by.filter((by["decision"] == decision) & (by["purpose"] == purpose))["len"].sum()
                )
                for purpose in PURPOSES
            }
    return counted
