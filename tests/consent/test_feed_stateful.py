"""The feed under anything that can happen to it: whenever it is quiet, both sides know the same.

The sender records at random; the reader loses connections before, between and after messages, loses
acknowledgements, meets replayed and swapped messages, restarts, and has enforcers that fail; the sender
restarts as well. At every quiet point the restrictions the reader holds are those the sender recorded, the
gate and `check` deny exactly whom they should, nothing was acknowledged that was not enforced, and both logs
verify.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consent.events import grant, refuse, withdraw
from consent.feed import Feed
from consent.gate import ConsentGate
from consent.messages import Acknowledgement
from consent.sql import metadata
from consent.verify import verify_ledger
from privacy.errors import ComityError, PeerUnreachable
from privacy.keys import KeyRing
from privacy.signing import SigningKey
from tests.consent.conftest import Clock, Node, Wire

PEOPLE = range(5)
PURPOSES = ("overlap", "overlap.reach", "overlap.measure", "*")
REFUSED = "consent.refused"
ASKED = ("overlap.reach", "overlap.measure", "overlap.align")
_SIGNERS = [SigningKey.generate(), SigningKey.generate()]


def identifiers(person: int, which: int) -> list[tuple[str, bytes]]:
    """Everybody has two addresses; which of them an event names is anybody's guess."""
    both = [("email", b"p%d.a@example.org" % person), ("email", b"p%d.b@example.org" % person)]
    return [both[:1], both[1:], both][which]


class FailingEnforcer(Exception):
    pass


class FeedMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="feed-"))
        self.clock = Clock()
        self.failing = False
        self.enforced = 0
        self.old: list[bytes] = []
        self.engines: list[sa.Engine] = []

    @initialize()
    def two_partners(self) -> None:
        nodes = []
        for name, key in zip(("shop", "bank"), _SIGNERS, strict=True):
            folder = self.folder / name
            folder.mkdir()
            engine = sa.create_engine(f"sqlite:///{folder}/comity.db")
            metadata.create_all(engine)
            self.engines.append(engine)
            ring = KeyRing.from_root(name.encode().ljust(32, b"."))
            nodes.append(Node(name, engine, folder, self.clock, ring, key))
        self.shop_node, self.bank_node = nodes
        self.shop, self.bank = self.shop_node.open(), self.bank_node.open()
        self.shop.join_partner("bank", self.bank.vkey)
        self.bank.join_partner("shop", self.shop.vkey)
        everybody = [grant(identifiers(p, 2), "overlap", partner="shop") for p in PEOPLE]
        self.bank.record(everybody)
        self.wire = Wire("shop", self._feed(self.shop, 0), "bank", self._feed(self.bank, 1))

    def _feed(self, ledger: object, key: int) -> Feed:
        return Feed(ledger, signing_key=_SIGNERS[key], enforcers=[self._enforce])  # type: ignore[arg-type]

    def _enforce(self, told: object) -> int:
        if self.failing:
            raise FailingEnforcer
        self.enforced = self.bank.partner("shop").heard_seq
        return 1

    # what happens at the sender

    @rule(
        person=st.sampled_from(PEOPLE),
        which=st.integers(0, 2),
        purpose=st.sampled_from(PURPOSES),
        kind=st.sampled_from(["withdraw", "withdraw", "grant", "refuse"]),
    )
    def somebody_decides(self, person: int, which: int, purpose: str, kind: str) -> None:
        self.clock.move(seconds=1)
        make = {"withdraw": withdraw, "grant": grant, "refuse": refuse}[kind]
        purpose = "overlap" if kind == "grant" and purpose == "*" else purpose
        with contextlib.suppress(ComityError):  # a grant that names two people in part is refused
            self.shop.record([make(identifiers(person, which), purpose)])

    @rule()
    def many_decide_at_once(self) -> None:
        self.clock.move(seconds=1)
        self.shop.record([withdraw([("email", b"crowd%d@example.org" % i)]) for i in range(260)])

    @rule()
    def the_sender_restarts(self) -> None:
        self.shop = self.shop_node.open()
        self.wire.sender_feed = self._feed(self.shop, 0)

    # what happens at the reader and on the way

    @rule(messages=st.integers(0, 2))
    def a_connection_breaks(self, messages: int) -> None:
        hearing, delivery = self.wire.connect()
        with contextlib.suppress(FailingEnforcer):
            for _ in range(messages):
                self.wire.step(hearing, delivery)
                self.old.append(self.wire.bodies[-1])
        self.wire.sender_feed.outgoing.message(delivery)  # made, and lost

    @rule(data=st.data())
    def an_old_message_comes_again(self, data: st.DataObject) -> None:
        if not self.old:
            return
        before = self.bank.head().size
        hearing, _ = self.wire.connect()
        try:
            self.wire.reader_feed.incoming.apply(hearing, data.draw(st.sampled_from(self.old)))
        except ComityError:
            pass
        else:
            raise AssertionError("a replayed message was believed")
        assert self.bank.head().size == before

    @rule()
    def an_acknowledgement_is_lost(self) -> None:
        def lost(_: bytes) -> bytes:
            raise PeerUnreachable("lost")

        self.wire.after = lost
        with contextlib.suppress(PeerUnreachable, FailingEnforcer):
            self.wire.read()
        self.wire.after = lambda ack: ack

    @rule()
    def the_reader_restarts(self) -> None:
        self.bank = self.bank_node.open()
        self.wire.reader_feed = self._feed(self.bank, 1)

    @rule(failing=st.booleans())
    def enforcing_fails_or_works_again(self, failing: bool) -> None:
        self.failing = failing

    @rule()
    def it_becomes_quiet(self) -> None:
        self.failing = False
        for _ in range(3):
            self.wire.read()
        sent = self.shop.partner("bank")
        heard = self.bank.partner("shop")
        assert sent.sent_seq == sent.acked_seq == heard.heard_seq
        assert sent.acked_frontier == heard.heard_frontier
        self._same_answers()

    def _same_answers(self) -> None:
        gate = ConsentGate(self.bank)
        for person in PEOPLE:
            for one in identifiers(person, 2):
                state = self.shop.standings(one[1], one[0])
                for purpose in ASKED:
                    told = any(s.restricted_at is not None for s in state.values())
                    here = self.shop.check(one[1], one[0], purpose, "bank")
                    there = self.bank.check(one[1], one[0], purpose, "shop")
                    if here.reason == "restricted":
                        # A refusal of what was never agreed to is nothing to tell.
                        refused = {s.restricted_index for s in state.values() if s.restriction == REFUSED}
                        assert not there.allowed or here.index in refused
                    elif here.allowed or not told:
                        assert there.allowed, (person, purpose, here, there, state)
                    column = pa.array([one[1]])
                    bulk = gate.filter(one[0], column, purpose=purpose, partner="shop").mask.tolist()
                    assert bulk == [there.allowed]

    @invariant()
    def nothing_is_acknowledged_that_is_not_enforced(self) -> None:
        if not hasattr(self, "wire"):
            return
        for ack in self.wire.acks:
            assert Acknowledgement.from_bytes(ack)[0].seq <= self.enforced
        assert self.shop.partner("bank").acked_seq <= self.bank.partner("shop").heard_seq

    def teardown(self) -> None:
        try:
            if hasattr(self, "wire"):
                self.it_becomes_quiet()
                assert verify_ledger(self.shop).ok and verify_ledger(self.bank).ok
        finally:
            for engine in self.engines:
                engine.dispose()
            shutil.rmtree(self.folder, ignore_errors=True)


TestFeed = FeedMachine.TestCase
TestFeed.settings = settings(max_examples=12, stateful_step_count=14, deadline=None)
