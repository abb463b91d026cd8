from __future__ import annotations

from typing import Any

import pytest

from clean_room.errors import IllegalStep, PeerViolation
from clean_room.protocols import expected, receive
from clean_room.protocols.cardinality import AnalystDone, ContributorDone
from clean_room.protocols.messages import MESSAGES, DecryptedSums, Offer, Seal
from clean_room.protocols.states import MOVES, TABLE, Role


def test_a_state_waits_for_one_message_and_has_one_role() -> None:
    states = [step.state for step in TABLE]
    assert len(states) == len(set(states))
    roles: dict[type, Role] = {}
    for row in (*TABLE, *MOVES):
        for state in (row.state, row.next):
            assert roles.setdefault(state, row.role) is row.role


def test_every_path_ends_and_every_reply_is_awaited() -> None:
    ends = {row.next for row in (*TABLE, *MOVES)} - {row.state for row in (*TABLE, *MOVES)}
    assert ends == {AnalystDone, ContributorDone}
    awaited = {(row.role, row.message) for row in TABLE}
    sent = {(row.role, row.reply) for row in TABLE if row.reply} | {(move.role, move.sends) for move in MOVES}
    for role, message in sent:
        other = Role.CONTRIBUTOR if role is Role.ANALYST else Role.ANALYST
        assert (other, message) in awaited
    assert {message for _, message in awaited} == set(MESSAGES.values()) - {Offer}


def test_a_live_state_says_what_it_waits_for_and_refuses_the_rest(
    pair: Any, overlap_terms: Any, people: Any
) -> None:
    pair.exchange(overlap_terms(), [people(["a"])], [people(["a"])])
    assert expected(pair.c) is Seal
    for message in (DecryptedSums(bytes(32), (0,)), Offer(b"", None, b"")):  # type: ignore[arg-type]
        with pytest.raises(PeerViolation):
            receive(pair.c, message)
    pair.seal()
    assert expected(pair.a) is None and expected(pair.c) is None
    with pytest.raises(IllegalStep):
        receive(pair.a, Seal(bytes(32), 1, bytes(64)))
