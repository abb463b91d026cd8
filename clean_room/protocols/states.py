"""The table: role → state → message that may come → step → next state. What is not in it cannot happen.

`receive` looks a message up and takes the step; a driver needs no other knowledge of the protocols:

    state, reply = receive(state, parse_message(body))

A step that needs more than the message (the noise of `measure`, a progress callback) takes it as keyword
arguments. Moves that no message causes are in `MOVES`: sealing, and sending the encrypted columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from clean_room.errors import IllegalStep, PeerViolation
from clean_room.protocols import activation, alignment, cardinality, circle, epochs, reach, sums, waterfall
from clean_room.protocols.messages import (
    Accept,
    AlignedRows,
    AlignPoints,
    AnalystChange,
    AnalystPoints,
    AnalystRows,
    ContributorChange,
    ContributorPoints,
    ContributorRows,
    DecryptedSums,
    MaskedSums,
    Message,
    PairPoints,
    PairSalt,
    ReachList,
    ReachOwn,
    ReachSizes,
    Seal,
    ValueColumns,
)

__all__ = ["MOVES", "TABLE", "Move", "Role", "Step", "expected", "receive"]


class Role(StrEnum):
    """Which of the two sides."""

    ANALYST = "analyst"
    CONTRIBUTOR = "contributor"


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table. `take(state, message, **given)` returns a state, or a state and a reply."""

    role: Role
    state: type
    message: type
    take: Callable[..., Any]
    next: type
    reply: type | None


@dataclass(frozen=True, slots=True)
class Move:
    """A step that no message causes: `take(state, …)` returns a state and the message to send."""

    role: Role
    state: type
    take: Callable[..., Any]
    next: type
    sends: type


_A, _C = Role.ANALYST, Role.CONTRIBUTOR
_c, _s, _a, _p = cardinality, sums, alignment, activation
_Accepted, _Returned = _c.ContributorAccepted, _c.ContributorReturned
_Offered, _Answered = _s.ContributorOffered, _s.ContributorAnswered
_w = waterfall
_Rows, _RowsBack = _w.WaterfallAccepted, _w.WaterfallReturned
_e = epochs
_InEpoch, _Changed = _e.EpochAccepted, _e.EpochReturned
_Paired, _Activated = _p.ActivateAccepted, _p.ActivateReturned
_l, _r = circle, reach
_Passing, _Back = _r.ReachPassing, _r.ReachReturned

TABLE: tuple[Step, ...] = (
    # overlap
    Step(_A, _c.AnalystOffered, Accept, _c.AnalystOffered.accepted, _c.AnalystSent, AnalystPoints),
    Step(_C, _Accepted, AnalystPoints, _Accepted.returned, _Returned, ContributorPoints),
    Step(_A, _c.AnalystSent, ContributorPoints, _c.AnalystSent.joined, _c.AnalystJoined, None),
    Step(_C, _Returned, Seal, _Returned.sealed, _c.ContributorDone, Seal),
    Step(_A, _c.AnalystSealing, Seal, _c.AnalystSealing.sealed, _c.AnalystDone, None),
    # overlap on several keys
    Step(_A, _w.WaterfallOffered, Accept, _w.WaterfallOffered.accepted, _w.WaterfallSent, AnalystRows),
    Step(_C, _Rows, AnalystRows, _Rows.returned, _RowsBack, ContributorRows),
    Step(_A, _w.WaterfallSent, ContributorRows, _w.WaterfallSent.joined, _w.WaterfallJoined, None),
    Step(_C, _RowsBack, Seal, _RowsBack.sealed, _c.ContributorDone, Seal),
    # overlap in an epoch
    Step(_A, _e.EpochOffered, Accept, _e.EpochOffered.accepted, _e.EpochSent, AnalystChange),
    Step(_C, _InEpoch, AnalystChange, _InEpoch.returned, _Changed, ContributorChange),
    Step(_A, _e.EpochSent, ContributorChange, _e.EpochSent.joined, _e.EpochJoined, None),
    Step(_C, _Changed, Seal, _Changed.sealed, _c.ContributorDone, Seal),
    # measure
    Step(_A, _c.AnalystJoined, ValueColumns, _s.ask, _s.AnalystAsked, MaskedSums),
    Step(_C, _Offered, MaskedSums, _Offered.masked, _Answered, DecryptedSums),
    Step(_A, _s.AnalystAsked, DecryptedSums, _s.AnalystAsked.answered, _s.AnalystMeasured, None),
    Step(_C, _Answered, Seal, _Answered.sealed, _c.ContributorDone, Seal),
    # align
    Step(_A, _a.AlignOffered, Accept, _a.AlignOffered.accepted, _a.AlignSent, AnalystPoints),
    Step(_C, _a.AlignAccepted, AnalystPoints, _a.AlignAccepted.returned, _a.AlignReturned, AlignPoints),
    Step(_A, _a.AlignSent, AlignPoints, _a.AlignSent.joined, _a.AnalystAligned, AlignedRows),
    Step(_C, _a.AlignReturned, AlignedRows, _a.AlignReturned.aligned, _a.AlignAgreed, None),
    Step(_C, _a.AlignAgreed, Seal, _a.AlignAgreed.sealed, _c.ContributorDone, Seal),
    # activate
    Step(_A, _p.ActivateOffered, Accept, _p.ActivateOffered.accepted, _p.ActivateSalted, None),
    Step(_A, _p.ActivateSalted, PairSalt, _p.ActivateSalted.salted, _p.ActivateSent, AnalystPoints),
    Step(_C, _Paired, AnalystPoints, _Paired.returned, _Activated, PairPoints),
    Step(_A, _p.ActivateSent, PairPoints, _p.ActivateSent.joined, _p.AnalystActivated, None),
    Step(_C, _Activated, Seal, _Activated.sealed, _c.ContributorDone, Seal),
    # reach; after its last list a contributor is in _Back, a kind of _Passing
    Step(_A, _l.LineOffered, Accept, _l.LineOffered.accepted, _l.LineAgreed, None),
    Step(_C, _r.ReachAccepted, ReachSizes, _r.ReachAccepted.sized, _Passing, ReachOwn),
    Step(_A, _l.LineSized, ReachOwn, _l.LineSized.opened, _l.LineOpen, None),
    Step(_C, _Passing, ReachList, _Passing.passed, _Passing, ReachList),
    Step(_A, _l.LinePassing, ReachList, _l.LinePassing.returned, _l.LineOpen, None),
    Step(_C, _Back, Seal, _Back.sealed, _c.ContributorDone, Seal),
)  # fmt: skip

MOVES: tuple[Move, ...] = (
    Move(_A, _c.AnalystJoined, _c.AnalystJoined.seal, _c.AnalystSealing, Seal),
    Move(_A, _w.WaterfallJoined, _w.WaterfallJoined.seal, _c.AnalystSealing, Seal),
    Move(_A, _e.EpochJoined, _e.EpochJoined.seal, _c.AnalystSealing, Seal),
    Move(_C, _Returned, _s.offer_values, _Offered, ValueColumns),
    Move(_A, _s.AnalystMeasured, _s.AnalystMeasured.seal, _c.AnalystSealing, Seal),
    Move(_A, _a.AnalystAligned, _a.AnalystAligned.seal, _c.AnalystSealing, Seal),
    Move(_A, _p.AnalystActivated, _p.AnalystActivated.seal, _c.AnalystSealing, Seal),
    Move(_A, _l.LineAgreed, _l.LineAgreed.sizes, _l.LineSized, ReachSizes),
    Move(_A, _l.LineOpen, _l.LineOpen.passes, _l.LinePassing, ReachList),
    Move(_A, _l.LineOpen, _l.LineOpen.seal, _c.AnalystSealing, Seal),
)

_STEPS: Mapping[type, Step] = {step.state: step for step in TABLE}


def expected(state: object) -> type | None:
    """The type of message `state` waits for; None if it waits for none."""
    step = _STEPS.get(type(state))
    return None if step is None else step.message


def receive(state: object, message: Message, **given: object) -> tuple[Any, Message | None]:
    """Take the step that `message` causes: (next state, reply or None).

    PeerViolation if another message was due, IllegalStep if none was; the state is as it was.
    """
    step = _STEPS.get(type(state))
    if step is None:
        raise IllegalStep("The protocol waits for no message now.")
    if type(message) is not step.message:
        raise PeerViolation(f"A message {step.message.__name__} was due and a {type(message).__name__} came.")
    outcome = step.take(state, message, **given)
    return (outcome, None) if step.reply is None else outcome
