"""Chunks: whatever is cut comes together again, and nothing else is let through."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room import transport
from clean_room.transport import CHUNK_BYTES, Inbox, Manifest, Outbox
from privacy.errors import PeerViolation


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """64-byte chunks instead of 2 MiB: the same arithmetic."""
    before = transport.CHUNK_BYTES
    transport.CHUNK_BYTES = 64
    yield
    transport.CHUNK_BYTES = before


def test_a_chunk_is_65536_points():
    assert CHUNK_BYTES == 65_536 * 32


@given(st.binary(max_size=1000))
def test_what_is_cut_comes_together(payload):
    outbox, inbox = Outbox(payload), Inbox(limit=1000)
    for index in range(outbox.manifest.chunks):
        inbox.chunk(index, outbox.chunk(index))
    assert inbox.finish(outbox.manifest) == payload
    assert inbox.finish(outbox.manifest) is None


@given(st.binary(min_size=65, max_size=500), st.data())
def test_a_repeat_of_the_last_chunk_changes_nothing_and_any_other_order_is_refused(payload, data):
    outbox, inbox = Outbox(payload), Inbox(limit=1000)
    for index in range(outbox.manifest.chunks):
        inbox.chunk(index, outbox.chunk(index))
        if data.draw(st.booleans()):
            inbox.chunk(index, outbox.chunk(index))
        wrong = data.draw(st.integers(-3, 20).filter(lambda i, index=index: i not in {index, index + 1}))
        with pytest.raises(PeerViolation):
            inbox.chunk(wrong, b"x" * 64)
    assert inbox.finish(outbox.manifest) == payload


@given(st.binary(min_size=1, max_size=500), st.data())
def test_a_message_that_is_not_whole_is_refused_and_can_still_be_finished(payload, data):
    outbox, inbox = Outbox(payload), Inbox(limit=1000)
    chunks = outbox.manifest.chunks
    missing = data.draw(st.integers(0, chunks - 1))
    for index in range(missing):
        inbox.chunk(index, outbox.chunk(index))
    with pytest.raises(PeerViolation):
        inbox.finish(outbox.manifest)
    for index in range(missing, chunks):
        inbox.chunk(index, outbox.chunk(index))
    bad = Manifest(outbox.manifest.size, chunks, hashlib.sha256(payload + b"x").hexdigest())
    with pytest.raises(PeerViolation):
        inbox.finish(bad)
    assert inbox.finish(outbox.manifest) == payload
    with pytest.raises(PeerViolation):
        inbox.chunk(chunks, b"")
    with pytest.raises(PeerViolation):
        inbox.finish(bad)


def test_too_long_and_too_short_chunks_are_refused():
    inbox = Inbox(limit=200)
    with pytest.raises(PeerViolation):
        inbox.chunk(0, bytes(65))
    inbox.chunk(0, bytes(64))
    inbox.chunk(1, bytes(10))
    with pytest.raises(PeerViolation):
        inbox.chunk(2, bytes(10))
    with pytest.raises(PeerViolation):
        Inbox(limit=63).chunk(0, bytes(64))


@pytest.mark.parametrize("index", [-1, 1, 1 << 40])
def test_chunks_the_message_does_not_have_are_not_given(index):
    with pytest.raises(PeerViolation):
        Outbox(bytes(64)).chunk(index)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"size": 64, "chunks": 1},
        {"size": 64, "chunks": 2, "digest": "0" * 64},
        {"size": -1, "chunks": 1, "digest": "0" * 64},
        {"size": True, "chunks": 1, "digest": "0" * 64},
        {"size": 1.0, "chunks": 1, "digest": "0" * 64},
        {"size": 1 << 60, "chunks": 1 << 54, "digest": "0" * 64},
        {"size": 64, "chunks": 1, "digest": "0"},
        {"size": 64, "chunks": 1, "digest": 0},
        {"size": 64, "chunks": 1, "digest": "0" * 64, "more": 1},
    ],
)
def test_a_manifest_is_read_strictly(document):
    with pytest.raises(PeerViolation):
        Manifest.from_document(document, limit=1 << 20)
