"""Checkpoints on their way to witnesses: rounds, pauses, late answers, and what stands in their way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from comity import cosigning
from comity.cosigning import Cosigning
from comity.witnessing import HttpWitness, _check_prefix
from consent.checkpoint import open_checkpoint
from consent.cosignatures import Cosigner, CosignerKey, cosign
from consent.events import grant
from consent.ledger import Ledger
from consent.sql import metadata
from consent.trust_policy import TrustPolicy
from consent.witness import SIZE_TYPE, AddCheckpoint
from privacy.errors import Misuse, PeerUnreachable, PeerViolation
from privacy.keys import KeyRing
from privacy.signing import SigningKey


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/comity.db")
    metadata.create_all(engine)
    key, ring = SigningKey.generate(), KeyRing.create(tmp_path / "ring")
    yield Ledger.open(
        engine, keyring=ring, signing_key=key, origin="shop.example/log", directory=tmp_path / "log"
    )
    engine.dispose()


class Line:
    """A witness that cosigns whatever extends its size, and can be told to fail or to wait."""

    def __init__(self, name: str, seed: int, ledger: Ledger) -> None:
        self.name, self.size, self.asked = name, 0, 0
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        signing = SigningKey.from_seed(bytes([seed]) * 32)
        self.key = CosignerKey(name, signing.public.bytes32)
        self._signer = Cosigner(self.key, signing.sign_raw)
        self._log = ledger.key

    def add_checkpoint(self, body: bytes) -> tuple[int, str, bytes]:
        self.asked += 1
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        request = AddCheckpoint.from_bytes(body)
        if request.old != self.size:
            return 409, SIZE_TYPE, b"%d\n" % self.size
        checkpoint = open_checkpoint(request.note, [self._log])
        self.size = checkpoint.size
        return 200, "text/plain", cosign(checkpoint, self._signer, 1_772_000_000).to_line().encode()


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(ledger: Ledger, lines: list[Line], needed: int = 1) -> tuple[Cosigning, Time, TrustPolicy]:
    text = "".join(f"witness {line.name} {line.key.to_text()}\n" for line in lines)
    policy = TrustPolicy.parse(f"{text}group g {needed} {' '.join(x.name for x in lines)}\nquorum g\n")
    clock = Time()
    return Cosigning(ledger.log, lambda: lines, lambda: policy, seconds=1.0, monotonic=clock), clock, policy


def grow(ledger: Ledger, name: bytes = b"a") -> None:
    ledger.record([grant([("email", name)], "overlap.reach")])


def test_every_witness_is_asked_once_for_each_new_checkpoint(ledger: Ledger) -> None:
    lines = [Line("a", 1, ledger), Line("b", 2, ledger)]
    sender, _, policy = made(ledger, lines, 2)
    assert sender.round() == 2 and sender.round() == 2
    assert [line.asked for line in lines] == [1, 1]
    assert policy.open(ledger.head().text, ledger.key)[1]
    grow(ledger)
    assert not policy.open(ledger.head().text, ledger.key)[1]
    assert sender.round() == 2 and policy.open(ledger.head().text, ledger.key)[1]
    assert [line.asked for line in lines] == [2, 2]  # the size is remembered: no 409
    assert [(s.name, s.size, s.error) for s in sender.statuses()] == [
        (name, ledger.head().size, "") for name in "ab"
    ]
    sender.stop()


def test_a_witness_that_fails_is_left_alone_for_longer_each_time(ledger: Ledger) -> None:
    line = Line("a", 1, ledger)
    sender, clock, _ = made(ledger, [line])
    line.error = PeerUnreachable("down")
    asked = []
    for _ in range(40):
        clock.now += 1
        grow(ledger, b"%f" % clock.now)
        sender.round()
        asked.append(line.asked)
    assert line.asked == 5  # at 1, 3, 7, 15, 31
    (status,) = sender.statuses()
    assert (status.error, status.failures) == ("peer_unreachable", 5)
    line.error = None
    clock.now += 1000
    assert sender.round() == 1
    assert [(s.error, s.failures, s.size) for s in sender.statuses()] == [("", 0, ledger.head().size)]
    sender.stop()


def test_one_slow_witness_does_not_hold_up_the_others_and_is_added_when_it_comes(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cosigning, "_ROUND", 0.2)
    quick, slow = Line("quick", 1, ledger), Line("slow", 2, ledger)
    sender, _, both = made(ledger, [quick, slow], 2)
    monkeypatch.setattr(sender, "_monotonic", __import__("time").monotonic)
    slow.gate.clear()
    assert sender.round() == 1
    assert quick.key.name in ledger.head().text and slow.key.name not in ledger.head().text
    assert sender.round() == 1 and slow.asked == 1  # still busy: not asked again
    slow.gate.set()
    sender.stop()
    assert both.open(ledger.head().text, ledger.key)[1]
    assert ledger.log.cosigned() is not None


def test_a_quorum_that_was_published_is_not_replaced_by_less(ledger: Ledger) -> None:
    lines = [Line("a", 1, ledger), Line("b", 2, ledger)]
    sender, clock, policy = made(ledger, lines, 2)
    sender.round()
    before = ledger.log.cosigned()
    lines[1].error = PeerViolation("no", code="witness_refused")
    grow(ledger)
    assert sender.round() == 1
    assert ledger.log.cosigned() == before
    lines[1].error = None
    clock.now += 1000
    assert sender.round() == 2
    cosigned = ledger.log.cosigned()
    assert cosigned is not None and cosigned.size == ledger.head().size
    assert policy.open(cosigned.text, ledger.key)[1]
    sender.stop()


def test_a_witness_that_knows_a_larger_log_is_told_of_and_nothing_is_published(ledger: Ledger) -> None:
    line = Line("a", 1, ledger)
    line.size = 99
    sender, _, _ = made(ledger, [line])
    assert sender.round() == 0
    assert [s.error for s in sender.statuses()] == ["witness_ahead"]
    assert ledger.log.cosigned() is None
    sender.stop()


def test_without_witnesses_nothing_is_done_and_who_left_is_forgotten(ledger: Ledger) -> None:
    lines: list[Line] = []
    sender = Cosigning(ledger.log, lambda: lines, TrustPolicy)
    assert sender.round() == 0
    lines.append(Line("a", 1, ledger))
    assert sender.round() == 1
    lines.clear()
    assert sender.round() == 0 and sender.statuses() == []
    sender.stop()


def test_the_thread_outlives_what_a_round_meets_and_stops_when_told(ledger: Ledger) -> None:
    rounds = threading.Semaphore(0)

    def broken() -> list[Line]:
        rounds.release()
        raise RuntimeError("no")

    sender = Cosigning(ledger.log, broken, TrustPolicy, seconds=0.01)
    sender.start()
    for _ in range(3):
        sender.wake()
        assert rounds.acquire(timeout=10)
    sender.stop()
    assert not any(thread.name == "cosigning" for thread in threading.enumerate())


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: httpx.Response(200, stream=httpx.ByteStream(b"x" * 70_000)),
        lambda _: (_ for _ in ()).throw(httpx.ConnectError("no")),
        lambda _: (_ for _ in ()).throw(httpx.ReadTimeout("no")),
    ],
)
def test_what_a_witness_says_is_bounded_and_its_silence_has_a_name(answer: Any) -> None:
    key = CosignerKey("w", SigningKey.generate().public.bytes32)
    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        witness = HttpWitness("w", key, "https://w.example/prefix/", client)
        with pytest.raises((PeerUnreachable, PeerViolation)):
            witness.add_checkpoint(b"old 0\n")


def test_the_prefix_of_a_witness_may_have_a_path_but_needs_tls() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, str(request.url)))
        return httpx.Response(409, headers={"content-type": SIZE_TYPE}, stream=httpx.ByteStream(b"3\n"))

    key = CosignerKey("w", SigningKey.generate().public.bytes32)
    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        witness = HttpWitness("w", key, "https://w.example/prefix/", client)
        assert witness.add_checkpoint(b"") == (409, SIZE_TYPE, b"3\n")
    assert asked == [("POST", "https://w.example/prefix/add-checkpoint")]
    _check_prefix("https://w.example/prefix/")
    _check_prefix("http://127.0.0.1:8440/witness")
    for wrong in (
        "http://w.example/",
        "ftp://w.example",
        "https://w.example/?a",
        "https://a@w.example/",
        "x",
    ):
        with pytest.raises(Misuse):
            _check_prefix(wrong)
