"""A party of a vertical run as a Flower `ClientApp`.

The app is a thin shell: rows come from the node's own data gate, weights stay in the party, and a reply
carries a receipt and a few numbers. Errors of the party become Flower error replies that name the code.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federated.errors import ComityError, PeerViolation
from federated.vertical.parties import Outcome, Party

__all__ = ["client_app"]

_NONCE = re.compile(r"[0-9a-f]{32}")


def _task(message: Message, run: str) -> tuple[int, str]:
    task = message.content.get("task")
    if not isinstance(task, ConfigRecord):
        raise PeerViolation("A training message carries no task.")
    number, nonce = task.get("round"), task.get("nonce")
    if task.get("run") != run or type(number) is not int or not 1 <= number <= 10_000:
        raise PeerViolation("A training task is about another run or an impossible round.")
    if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise PeerViolation("A training task has no usable nonce.")
    return number, nonce


def _reply(message: Message, outcome: Outcome) -> Message:
    metrics = MetricRecord({"epochs": outcome.epochs, "seconds": outcome.seconds})
    metrics.update(outcome.metrics)
    content = RecordDict(
        {
            "receipt": ConfigRecord({"document": outcome.receipt.to_bytes()}),
            "metrics": metrics,
        }
    )
    return Message(content, reply_to=message)


def client_app(
    run: str,
    party: Party,
    *,
    done: Callable[[int, Outcome], None] = lambda _round, _outcome: None,
    failed: Callable[[ComityError], None] = lambda _error: None,
) -> ClientApp:
    """The `ClientApp` of `party` in `run`.

    `done` hears of a round's outcome before the reply leaves; `failed` of the error behind an error reply.
    """
    app = ClientApp()

    def answered(message: Message, step: Callable[[int, str], Outcome]) -> Message:
        try:
            number, nonce = _task(message, run)
            outcome = step(number, nonce)
            done(number, outcome)
            return _reply(message, outcome)
        except ComityError as error:
            failed(error)
            return Message(Error(code=1, reason=error.code), reply_to=message)
        except Exception as error:
            # The other side waits for a reply whatever happened; the text may quote data and stays here.
            failed(ComityError(f"An unexpected {type(error).__name__} ended the round."))
            return Message(Error(code=1, reason=ComityError.code), reply_to=message)

    @app.train()
    def train(message: Message, _context: Context) -> Message:
        return answered(message, party.train)

    @app.evaluate()
    def evaluate(message: Message, _context: Context) -> Message:
        return answered(message, party.evaluate)

    return app
