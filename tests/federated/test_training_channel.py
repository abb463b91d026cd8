"""The pair channel: in order, once, from this run only, over every carrier."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import federated.channel as channel_module
from consent.peers import PeerResponse
from federated.channel import FrameReader, FrameWriter, HttpChannel, MailboxChannel, memory_pair
from federated.errors import ChannelViolation, PeerUnreachable, PeerViolation, TrainingMisuse
from federated.vertical.encryption import SecretKeyHolder
from federated.vertical.messages import Opening, Residuals


class Loop:
    """A connection whose partner is a mailbox in this process."""

    partner = "shop"

    def __init__(self, mailbox: MailboxChannel) -> None:
        self.mailbox = mailbox
        self.before: Callable[[str], None] = lambda method: None
        self.after: Callable[[str], None] = lambda method: None

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        content_type: str = "application/octet-stream",
        timeout: float = 30.0,
    ) -> PeerResponse:
        self.before(method)
        if method == "POST":
            self.mailbox.deliver(body)
            answer = b""
        else:
            answer = self.mailbox.fetch(int(path.rsplit("/", 1)[1]), wait=0.2) or b""
        self.after(method)
        return PeerResponse(200 if answer else 204, {}, answer)


@given(messages=st.lists(st.binary(max_size=200), max_size=6))
def test_messages_arrive_whole_and_in_order(messages: list[bytes]) -> None:
    here, there = memory_pair("r", timeout=1)
    for message in messages:
        here.send(message)
    assert [there.receive() for _ in messages] == messages


def test_long_messages_travel_in_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "FRAME_PAYLOAD", 10)
    for size in (0, 1, 9, 10, 11, 30, 31):
        writer, reader = FrameWriter("r"), FrameReader("r")
        found = [reader.accept(frame) for frame in writer.frames(bytes(size))]
        assert found == [None] * (max(-(-size // 10), 1) - 1) + [bytes(size)]


def test_replayed_reordered_foreign_and_truncated_frames_change_nothing() -> None:
    writer, reader = FrameWriter("r"), FrameReader("r")
    first, second, third = (writer.frames(m)[0] for m in (b"one", b"two", b"three"))
    assert reader.accept(first) == b"one"
    foreign = FrameWriter("s")
    foreign.frames(b"")
    for wrong in (
        first,
        third,
        second[:20],
        b"",
        foreign.frames(b"two")[0],
        b"XXXX" + second[4:],
        second[:4] + b"\x07" + second[5:],
        second[:4] + b"\x00" + second[5:],
        second[:4] + b"\x02" + second[5:],
        second + bytes(channel_module.FRAME_PAYLOAD),
    ):
        with pytest.raises(ChannelViolation):
            reader.accept(wrong)
    assert reader.accept(second) == b"two"
    assert reader.accept(third) == b"three"


def test_messages_beyond_the_limit_are_refused_on_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "FRAME_PAYLOAD", 10)
    frames = FrameWriter("r").frames(bytes(50))
    monkeypatch.setattr(channel_module, "MESSAGE_MOST", 25)
    with pytest.raises(TrainingMisuse):
        FrameWriter("r").frames(bytes(26))
    reader = FrameReader("r")
    assert [reader.accept(f) for f in frames[:2]] == [None, None]
    with pytest.raises(ChannelViolation):
        reader.accept(frames[2])


def test_an_abort_ends_the_channel_for_the_partner() -> None:
    here, there = memory_pair("r", timeout=1)
    here.send(b"last")
    here.abort()
    assert there.receive() == b"last"
    for _ in range(2):
        with pytest.raises(PeerViolation) as caught:
            there.receive(timeout=0.05) if _ == 0 else there._reader.accept(b"")  # type: ignore[attr-defined]
        assert caught.value.code == "partner_aborted"


def test_silence_is_a_timeout() -> None:
    here, _ = memory_pair("r", timeout=0.05)
    mailbox = MailboxChannel("r", timeout=0.05)
    for end in (here, mailbox, HttpChannel(Loop(mailbox), "r", path="/c", timeout=0.05)):
        with pytest.raises(PeerUnreachable) as caught:
            end.receive()
        assert caught.value.code == "peer_timeout"


def test_http_carries_both_ways() -> None:
    mailbox = MailboxChannel("r", timeout=2)
    line = HttpChannel(Loop(mailbox), "r", path="/c", timeout=2)

    def echo() -> None:
        for _ in range(5):
            mailbox.send(mailbox.receive() * 2)

    thread = threading.Thread(target=echo)
    thread.start()
    for i in range(5):
        line.send(bytes([i]) * 3)
        assert line.receive() == bytes([i]) * 6
    thread.join()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_lost_request_or_answer_is_repeated_without_a_second_delivery(moment: str) -> None:
    mailbox = MailboxChannel("r", timeout=1)
    loop = Loop(mailbox)
    lost = {"POST": 1, "GET": 1}

    def lose(method: str) -> None:
        if lost[method]:
            lost[method] -= 1
            raise PeerUnreachable("lost")

    setattr(loop, moment, lose)
    line = HttpChannel(loop, "r", path="/c", timeout=1, sleep=lambda s: None)
    line.send(b"one")
    line.send(b"two")
    assert [mailbox.receive(), mailbox.receive()] == [b"one", b"two"]
    mailbox.send(b"back")
    mailbox.send(b"again")
    assert [line.receive(), line.receive()] == [b"back", b"again"]
    assert lost == {"POST": 0, "GET": 0}


def test_a_partner_that_stays_away_is_unreachable() -> None:
    loop = Loop(MailboxChannel("r"))

    def lose(method: str) -> None:
        raise PeerUnreachable("gone")

    loop.before = lose
    line = HttpChannel(loop, "r", path="/c", sleep=lambda s: None)
    for step in (lambda: line.send(b"x"), line.receive):
        with pytest.raises(PeerUnreachable):
            step()
    line.abort()


def test_a_mailbox_refuses_old_frames_floods_and_skipped_numbers() -> None:
    mailbox, writer = MailboxChannel("r", capacity=3, undelivered=3), FrameWriter("r")
    frames = [writer.frames(bytes([i]))[0] for i in range(5)]
    for frame in frames[:3]:
        mailbox.deliver(frame)
    with pytest.raises(ChannelViolation):
        mailbox.deliver(frames[0])
    with pytest.raises(ChannelViolation):
        mailbox.deliver(frames[3])
    assert mailbox.receive() == b"\0"
    mailbox.deliver(frames[3])
    for _ in range(3):
        mailbox.send(b"x")
    with pytest.raises(PeerUnreachable):
        mailbox.send(b"x")
    with pytest.raises(ChannelViolation):
        mailbox.fetch(4, wait=0)
    assert mailbox.fetch(2, wait=0)
    with pytest.raises(ChannelViolation):
        mailbox.fetch(0, wait=0)


def test_a_mailbox_holds_no_more_bytes_than_the_run_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "FRAME_PAYLOAD", 10)
    mailbox, writer = MailboxChannel("r", most=25), FrameWriter("r")
    first, *rest = writer.frames(bytes(5)) + writer.frames(bytes(30))
    mailbox.deliver(first)
    mailbox.deliver(rest[0])
    mailbox.deliver(rest[1])
    with pytest.raises(ChannelViolation):
        mailbox.deliver(rest[2])
    assert mailbox.receive() == bytes(5)
    with pytest.raises(ChannelViolation):
        mailbox.deliver(rest[2])
    mailbox, writer = MailboxChannel("r"), FrameWriter("r")
    for _ in range(4):
        mailbox.deliver(writer.frames(b"x")[0])
    with pytest.raises(ChannelViolation):
        mailbox.deliver(writer.frames(b"x")[0])


@pytest.mark.parametrize("rows", [1, 8192, 8193, 40_000])
def test_the_bound_leaves_room_for_the_longest_message(rows: int) -> None:
    keys = SecretKeyHolder()
    residuals = Residuals(1, np.zeros(50), keys.encrypt(np.ones(rows, dtype=np.int64)))
    most = channel_module.message_bytes(rows, 1)
    assert len(residuals.to_bytes()) + len(Opening(bytes(32), keys.public_key).to_bytes()) < most
    assert channel_module.message_bytes(10**9, 1) == channel_module.MESSAGE_MOST


def test_aborts_cross_http_in_both_directions() -> None:
    mailbox = MailboxChannel("r", timeout=1)
    HttpChannel(Loop(mailbox), "r", path="/c").abort()
    with pytest.raises(PeerViolation):
        mailbox.receive()
    mailbox = MailboxChannel("r", timeout=1)
    mailbox.abort()
    with pytest.raises(PeerViolation):
        HttpChannel(Loop(mailbox), "r", path="/c", timeout=1).receive()
