"""The Flower `ServerApp` of a vertical run.

Each round is one train message to both clients; while they answer it, the inner loop of encrypted epochs
runs between them over the pair channel. A reply counts only with a receipt that its node signed for this
very round, answering this round's nonce, at a consent log no older than the last round's. After the last
round one evaluate message measures the model, under the same rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp

from federated.errors import PartnerFailed, PeerUnreachable, ReceiptInvalid
from federated.gate import ReceiptExpectation, RoundReceipt
from federated.vertical.terms import RunTerms
from privacy.signing import PublicKey

__all__ = ["NodeSeat", "RoundSummary", "RunSummary", "TrainingPlan", "server_app"]

_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class NodeSeat:
    """A node of the run: the partner's name and the key its receipts are signed with."""

    name: str
    key: PublicKey


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What the server needs: the terms, who sits at which Flower node id, and where nonces come from."""

    terms: RunTerms
    seats: Mapping[int, NodeSeat]
    random: Callable[[int], bytes] = field(repr=False)
    timeout: float = 900.0


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """One finished round. `receipts` and `metrics` by node name: each node answers for its own numbers."""

    number: int
    kind: str
    receipts: Mapping[str, RoundReceipt]
    metrics: Mapping[str, Mapping[str, float]]


@dataclass(slots=True)
class RunSummary:
    """Filled as the run goes: what the server has accepted so far."""

    rounds: list[RoundSummary] = field(default_factory=list)

    def epochs(self, name: str) -> int:
        """Epochs run so far, as node `name` counts them."""
        return sum(int(r.metrics[name].get("epochs", 0)) for r in self.rounds)


def server_app(
    plan: TrainingPlan,
    summary: RunSummary,
    *,
    on_round: Callable[[RoundSummary], None] = lambda _s: None,
) -> ServerApp:
    """The `ServerApp` of one run; accepted rounds are added to `summary` and told to `on_round`.

    Raises ReceiptInvalid, PartnerFailed or PeerUnreachable from the run; rounds accepted before stay.
    """
    app = ServerApp()
    terms = plan.terms

    def exchange(grid: Grid, number: int, kind: str) -> RoundSummary:
        nonces = {node: plan.random(16).hex() for node in plan.seats}
        messages = [
            Message(
                RecordDict(
                    {"task": ConfigRecord({"run": terms.run, "round": number, "nonce": nonces[node]})}
                ),
                dst_node_id=node,
                message_type=kind,
                group_id=str(number),
            )
            for node in plan.seats
        ]
        replies = {r.metadata.src_node_id: r for r in grid.send_and_receive(messages, timeout=plan.timeout)}
        _require_success(plan, number, replies)
        receipts, metrics = {}, {}
        for node, seat in plan.seats.items():
            if node not in replies:
                raise PeerUnreachable(
                    f"{seat.name} did not answer round {number} in time.", code="peer_timeout"
                )
            receipt, numbers = _opened(replies[node])
            expected(node, seat, number, nonces[node]).check(receipt)
            receipts[seat.name], metrics[seat.name] = receipt, numbers
        return RoundSummary(number, kind, receipts, metrics)

    def expected(node: int, seat: NodeSeat, number: int, nonce: str) -> ReceiptExpectation:
        before = summary.rounds[-1].receipts[seat.name] if summary.rounds else None
        return ReceiptExpectation(
            key=plan.seats[node].key,
            run=terms.run,
            round=number,
            purpose=terms.purpose,
            nonce=nonce,
            rows=terms.rows,
            log_size_at_least=before.log_size if before else 0,
            log_origin=before.log_origin if before else None,
        )

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        for number in range(1, terms.rounds + 2):
            kind = MessageType.TRAIN if number <= terms.rounds else MessageType.EVALUATE
            done = exchange(grid, number, kind)
            summary.rounds.append(done)
            on_round(done)
        for name, numbers in summary.rounds[-1].metrics.items():
            context.state[name] = MetricRecord(dict(numbers))

    return app


def _require_success(plan: TrainingPlan, number: int, replies: Mapping[int, Message]) -> None:
    """Raise PartnerFailed for the first cause among the error replies; one failure makes the other abort."""
    codes = {plan.seats[node].name: r.error.reason or "" for node, r in replies.items() if r.has_error()}
    for name, code in sorted(codes.items(), key=lambda item: item[1] == "partner_aborted"):
        shown = code if _CODE.fullmatch(code) else "unknown"
        raise PartnerFailed(f"{name} ended its part of round {number}: {shown}.")


def _opened(reply: Message) -> tuple[RoundReceipt, Mapping[str, float]]:
    receipt, metrics = reply.content.get("receipt"), reply.content.get("metrics")
    document = receipt.get("document") if isinstance(receipt, ConfigRecord) else None
    if not isinstance(document, bytes):
        raise ReceiptInvalid("A round's reply came without a receipt.")
    numbers: dict[str, float] = {}
    if isinstance(metrics, MetricRecord):
        numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float))}
    return RoundReceipt.from_bytes(document), numbers
