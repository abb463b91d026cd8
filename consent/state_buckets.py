"""The state tree kept in small rows, so that a change of one pair reads and writes a few kilobytes.

A row covers all keys that begin with its path (hexadecimal digits, one for four bits). It is a *bucket* of
up to 64 pairs, or, where there are more, a *branch* with the nodes of its sixteen children. Which of the
two a place is depends on what was there before; the root does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from consent.state_tree import NOTHING, Pair, Subtree, TreeProof, bit, join, subtree
from privacy.errors import Tampered

__all__ = ["ReadNodes", "all_pairs", "prove_key", "root_node", "update"]

MOST_PAIRS = 64
DIGIT_BITS = 4
_BUCKET, _BRANCH = b"\x00", b"\x01"
_CHILD = 33
_DIGITS = "0123456789abcdef"

ReadNodes = Callable[[Sequence[str]], Mapping[str, bytes]]
"""Paths → rows, those that are there. A missing row is an empty bucket."""


def _children(data: bytes) -> list[Subtree]:
    if len(data) != 1 + 16 * _CHILD:
        raise Tampered("A stored part of the state tree is malformed.", code="state_differs")
    return [Subtree(data[at + 1 : at + _CHILD], data[at]) for at in range(1, len(data), _CHILD)]


def _branch(children: Sequence[Subtree]) -> bytes:
    return _BRANCH + b"".join([bytes([child.pairs]) + child.hash for child in children])


def _pairs(data: bytes) -> dict[bytes, bytes]:
    if len(data) % 64 != 1:
        raise Tampered("A stored part of the state tree is malformed.", code="state_differs")
    return {data[at : at + 32]: data[at + 32 : at + 64] for at in range(1, len(data), 64)}


def _levels(children: Sequence[Subtree]) -> list[list[Subtree]]:
    """The nodes above sixteen children, level by level: 16, 8, 4, 2, 1."""
    levels = [list(children)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([join(below[i], below[i + 1]) for i in range(0, len(below), 2)])
    return levels


def root_node(read: ReadNodes) -> Subtree:
    """The root as the stored rows have it."""
    data = read([""]).get("")
    if not data:
        return NOTHING
    return _levels(_children(data))[-1][0] if data[:1] == _BRANCH else subtree(sorted(_pairs(data).items()))


def _build(path: str, pairs: list[tuple[bytes, bytes]], writes: dict[str, bytes | None]) -> Subtree:
    """Rows for these sorted pairs at a path, into `writes`."""
    if len(pairs) <= MOST_PAIRS:
        writes[path] = _BUCKET + b"".join([key + value for key, value in pairs]) if pairs else None
        return subtree(pairs, len(path) * DIGIT_BITS)
    parts: list[list[tuple[bytes, bytes]]] = [[] for _ in range(16)]
    place, low = divmod(len(path), 2)
    for pair in pairs:
        parts[pair[0][place] & 15 if low else pair[0][place] >> 4].append(pair)
    children = [_build(path + _DIGITS[n], part, writes) for n, part in enumerate(parts)]
    writes[path] = _branch(children)
    return _levels(children)[-1][0]


def update(
    read: ReadNodes, changes: Mapping[bytes, bytes | None]
) -> tuple[Subtree, int, dict[str, bytes | None]]:
    """Set (or with None remove) keys.

    Returns the new root, by how much the number of pairs changed, and the rows to write (None: delete).
    """
    writes: dict[str, bytes | None] = {}
    nodes: dict[str, Subtree] = {}
    branches: dict[str, list[Subtree]] = {}
    grown = 0
    waiting: dict[str, list[bytes]] = {"": list(changes)} if changes else {}
    while waiting:
        rows = read(list(waiting))
        below: dict[str, list[bytes]] = {}
        for path, keys in waiting.items():
            data = rows.get(path, _BUCKET)
            if data[:1] == _BRANCH:
                branches[path] = _children(data)
                place, low = divmod(len(path), 2)
                for key in keys:
                    digit = key[place] & 15 if low else key[place] >> 4
                    below.setdefault(path + _DIGITS[digit], []).append(key)
                continue
            pairs = _pairs(data)
            before = len(pairs)
            for key in keys:
                value = changes[key]
                if value is None:
                    pairs.pop(key, None)
                else:
                    pairs[key] = value
            grown += len(pairs) - before
            nodes[path] = _build(path, sorted(pairs.items()), writes)
        waiting = below
    for path in sorted(branches, key=len, reverse=True):
        children = branches[path]
        for n, last in enumerate(_DIGITS):
            children[n] = nodes.get(path + last, children[n])
        writes[path] = _branch(children)
        nodes[path] = _levels(children)[-1][0]
    return nodes[""] if nodes else root_node(read), grown, writes


def prove_key(read: ReadNodes, key: bytes) -> TreeProof:
    """The proof of presence or absence of `key`."""
    siblings: list[Subtree] = []
    homes: list[tuple[str, int]] = []  # where each sibling's pairs are stored: (path, depth)
    digits = key.hex()
    path = ""
    while True:
        data = read([path]).get(path, _BUCKET)
        if data[:1] != _BRANCH:
            break
        levels = _levels(_children(data))
        digit = int(digits[len(path)], 16)
        for step in range(DIGIT_BITS):
            place = (digit >> (DIGIT_BITS - 1 - step)) ^ 1
            siblings.append(levels[DIGIT_BITS - 1 - step][place])
            homes.append((path, len(path) * DIGIT_BITS + step))
        path += digits[len(path)]
    pairs = sorted(_pairs(data).items())
    depth = len(path) * DIGIT_BITS
    while len(pairs) > 1:
        turn = bit(key, depth)
        other = [pair for pair in pairs if bit(pair[0], depth) != turn]
        siblings.append(subtree(other, depth + 1))
        homes.append((path, depth))
        pairs = [pair for pair in pairs if bit(pair[0], depth) == turn]
        depth += 1
    end = Pair(*pairs[0]) if pairs else None
    # What became alone by removals stands higher in the tree than the rows are split.
    while siblings and (siblings[-1].pairs == 0 or (end is None and siblings[-1].pairs == 1)):
        if siblings[-1].pairs == 1:
            end = _lone(read, *homes[-1], key)
        siblings.pop()
        homes.pop()
    return TreeProof(tuple(node.hash for node in siblings), end)


def _lone(read: ReadNodes, path: str, depth: int, key: bytes) -> Pair:
    """The one pair on the other side of `key` at a depth, below the row at `path`."""
    found = [
        pair
        for pair in _below(read, path)
        if bit(pair.key, depth) != bit(key, depth) and _agree(pair.key, key, depth)
    ]
    if len(found) != 1:
        raise Tampered("The stored state tree contradicts itself.", code="state_differs")
    return found[0]


def _agree(one: bytes, other: bytes, bits: int) -> bool:
    shift = 256 - bits
    return int.from_bytes(one, "big") >> shift == int.from_bytes(other, "big") >> shift


def _below(read: ReadNodes, path: str) -> Iterable[Pair]:
    waiting = [path]
    while waiting:
        rows = read(waiting)
        below: list[str] = []
        for at in waiting:
            data = rows.get(at, _BUCKET)
            if data[:1] == _BRANCH:
                children = zip(_DIGITS, _children(data), strict=True)
                below.extend(at + digit for digit, child in children if child.pairs)
            else:
                yield from (Pair(*pair) for pair in _pairs(data).items())
        waiting = below


def all_pairs(read: ReadNodes) -> dict[bytes, bytes]:
    """Every pair, each checked against the nodes above it. Raises Tampered where the rows disagree."""
    found: dict[bytes, bytes] = {}
    expected: dict[str, Subtree | None] = {"": None}
    while expected:
        below: dict[str, Subtree | None] = {}
        paths = list(expected)
        for start in range(0, len(paths), 1000):
            part = paths[start : start + 1000]
            rows = read(part)
            for path in part:
                data = rows.get(path, _BUCKET)
                if data[:1] == _BRANCH:
                    children = _children(data)
                    node = _levels(children)[-1][0]
                    below.update((path + d, child) for d, child in zip(_DIGITS, children, strict=True))
                else:
                    pairs = _pairs(data)
                    if any(not key.hex().startswith(path) for key in pairs):
                        raise Tampered("A pair of the state tree is kept elsewhere.", code="state_differs")
                    found.update(pairs)
                    node = subtree(sorted(pairs.items()), len(path) * DIGIT_BITS)
                wanted = expected[path]
                if wanted is not None and node != wanted:
                    raise Tampered("The stored state tree does not hash to its root.", code="state_differs")
        expected = below
    return found
