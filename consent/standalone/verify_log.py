#!/usr/bin/env python3
"""Verify a Comity transparency log, with nothing but Python 3.11+ and the `cryptography` package.

    python verify_log.py PATH_OR_URL --key VKEY [--known FILE] [--policy FILE] [--max-age HOURS] [--json]

A log is a folder of static files, or the same below a URL:

    checkpoint              who signs, how many entries, the root of their Merkle tree (C2SP tlog-checkpoint)
    checkpoint.cosigned     the newest checkpoint that witnesses have cosigned, if any has been
    tile/<L>/<N>[.p/<W>]    the tree's hashes, 256 a file (C2SP tlog-tiles)
    tile/entries/<N>[.p/<W>]  the entries, each behind its length as two bytes

This program reads every entry, hashes it (RFC 6962), derives every tile from the entries and compares it with
the published one, and compares the root with the one that is signed. With --known it also checks that the log
extends a checkpoint seen before; with --policy (C2SP tlog-policy) that a quorum of witnesses has cosigned.
It trusts nothing it reads but what VKEY, the log's verifier key, has signed.

Exit codes: 0 the log holds, 2 usage, 3 unreachable, 4 tampered or signed by another key, 5 incomplete,
6 stale (older than a checkpoint seen before, or than --max-age), 7 not cosigned as the policy asks.

What this cannot show: that what the log says is true, and that nothing was left out of it. Entries hold no
personal data; each commits to a payload that the log's owner can open.

It is one of two verifiers of Comity, written apart from the other (`comity log verify`) and tested to agree
with it. Licence: Apache-2.0.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import hashlib
import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

try:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
except ImportError:  # cryptography older than 47: witnesses with such keys cannot be checked
    MLDSA44PublicKey = None  # type: ignore[assignment,misc]

EXIT = {
    "ok": 0,
    "unreachable": 3,
    "tampered": 4,
    "wrong_key": 4,
    "incomplete": 5,
    "stale": 6,
    "unwitnessed": 7,
}
LARGEST = 256 * (2 + 0xFFFF)  # bytes of a tile or bundle
LARGEST_NOTE = 256 * 1024
ED25519, COSIGNATURE, MLDSA_COSIGNATURE = 0x01, 0x04, 0x06
KEY_SIZE = {ED25519: 32, COSIGNATURE: 32, MLDSA_COSIGNATURE: 1312}
ENTRY = re.compile(
    rb'\{"commit":"[0-9a-f]{64}","id":"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",'
    rb'"policy_hash":"[0-9a-f]{64}","recorded_at":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)",'
    rb'"type":"[a-z]+(?:[._][a-z]+)*","v":1\}'
)
SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class Found(Exception):
    """What ends the check: an outcome, and a sentence about it."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


def tampered(detail: str) -> Found:
    return Found("tampered", detail)


# signed notes (c2sp.org/signed-note)


def base64_bytes(text: str) -> bytes:
    """Canonical base64, else ValueError."""
    data = base64.b64decode(text.encode("ascii"), validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not canonical base64")
    return data


def valid_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() or c < " " for c in name)


class Key:
    """A verifier key: a log's (type 01) or a witness's (types 04 and 06)."""

    def __init__(self, vkey: str, kinds: tuple[int, ...]) -> None:
        parts = vkey.split("+", 2)
        data = base64_bytes(parts[2]) if len(parts) == 3 else b""
        self.name, self.kind, self.public = parts[0], data[0] if data else 0, data[1:]
        self.id = hashlib.sha256(self.name.encode() + b"\n" + data).digest()[:4]
        if self.kind not in kinds or len(self.public) != KEY_SIZE[self.kind] or not valid_name(self.name):
            raise ValueError("not a key of the kind needed here")
        if self.id.hex() != parts[1]:
            raise ValueError("the key's hash does not fit")

    def verify(self, text: bytes, signature: bytes) -> int:
        """The time of a cosignature, 0 for a log's own signature. Raises Found."""
        seconds = 0
        try:
            if self.kind == ED25519:
                Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text)
                return 0
            seconds = int.from_bytes(signature[:8], "big")
            if seconds >> 63:
                raise ValueError("no such time")
            if self.kind == COSIGNATURE:
                signed = b"cosignature/v1\ntime %d\n" % seconds + text
                Ed25519PublicKey.from_public_bytes(self.public).verify(signature[8:], signed)
            elif MLDSA44PublicKey is None:
                raise Found("unreachable", "This version of cryptography cannot check an ML-DSA cosignature.")
            else:
                origin, size, root = text.split(b"\n", 3)[:3]
                name = self.name.encode()
                signed = b"subtree/v1\n\0" + bytes([len(name)]) + name + signature[:8]
                signed += bytes([len(origin)]) + origin + bytes(8) + int(size).to_bytes(8, "big")
                signed += base64_bytes(root.decode("ascii"))
                MLDSA44PublicKey.from_public_bytes(self.public).verify(signature[8:], signed)
        except (InvalidSignature, ValueError):
            raise tampered("A signature by a trusted key does not verify.") from None
        return seconds


def open_note(data: bytes, keys: list[Key]) -> tuple[str, dict[Key, int]]:
    """The text and, of the trusted keys that signed it, the newest time each. Raises Found."""
    if len(data) > LARGEST_NOTE:
        raise tampered("The checkpoint is too large.")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError:
        raise tampered("The checkpoint is not UTF-8.") from None
    cut = whole.rfind("\n\n")
    lines = whole[cut + 2 :].split("\n")
    if cut < 0 or lines.pop() or any(c < " " and c != "\n" for c in whole) or not 1 <= len(lines) <= 100:
        raise tampered("The checkpoint is not a signed note.")
    text = whole[: cut + 1]
    signed: dict[Key, int] = {}
    for line in lines:
        dash, _, rest = line.partition(" ")
        name, space, encoded = rest.partition(" ")
        try:
            raw = base64_bytes(encoded)
        except ValueError:
            raw = b""
        if dash != "\u2014" or not space or not valid_name(name) or len(raw) < 5:
            raise tampered("A signature line of the checkpoint is malformed.")
        for key in keys:
            if (key.name, key.id) == (name, raw[:4]):
                signed[key] = max(key.verify(text.encode(), raw[4:]), signed.get(key, 0))
    return text, signed


class Checkpoint:
    """A verified tree head."""

    def __init__(self, data: bytes, log: Key, witnesses: list[Key]) -> None:
        text, signed = open_note(data, [log, *witnesses])
        if log not in signed:
            raise Found("wrong_key", "The checkpoint is not signed by the key given.")
        lines = text.split("\n")[:-1]
        if len(lines) < 3 or not all(lines) or not SIZE.fullmatch(lines[1]) or int(lines[1]) >= 1 << 63:
            raise tampered("The note is signed, but is not a checkpoint.")
        try:
            self.root = base64_bytes(lines[2])
        except ValueError:
            self.root = b""
        if len(self.root) != 32:
            raise tampered("The checkpoint's root is malformed.")
        if lines[0] != log.name:
            raise tampered("The checkpoint belongs to another log.")
        self.size = int(lines[1])
        self.witnesses = {key: at for key, at in signed.items() if key is not log}


# trust policies (c2sp.org/tlog-policy)


class Policy:
    """Raises ValueError, naming the line, for a policy that cannot be followed as written."""

    def __init__(self, data: bytes) -> None:
        self.logs: list[Key] = []
        self.witnesses: dict[str, Key] = {}
        self.groups: list[tuple[str, int, list[str]]] = []
        quorum = None
        lines = data.split(b"\n")
        if lines.pop():
            raise ValueError("the last line of the policy does not end")
        defined: set[str] = set()
        members: set[str] = set()
        for number, raw in enumerate(lines, 1):
            words = re.split("[ \t]+", raw.decode("utf-8", "surrogateescape").strip(" \t"))
            wrong = ValueError(f"line {number} of the policy cannot be followed")
            if re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", raw):
                raise wrong
            if not words[0] or words[0].startswith("#"):
                continue
            kind, rest = words[0], words[1:]
            try:
                if kind == "log" and len(rest) in (1, 2):
                    key = Key(rest[0], (ED25519,))
                    good = all(key.public != other.public for other in self.logs)
                    self.logs.append(key)
                elif kind == "witness" and len(rest) in (2, 3):
                    key = Key(rest[1], (COSIGNATURE, MLDSA_COSIGNATURE))
                    good = rest[0] not in defined | {"none"}
                    good = good and all(key.public != other.public for other in self.witnesses.values())
                    self.witnesses[rest[0]] = key
                    defined.add(rest[0])
                elif kind == "group" and len(rest) >= 3:
                    name, rule, *listed = rest
                    needed = {"any": 1, "all": len(listed)}.get(rule, 0)
                    if re.fullmatch("[1-9][0-9]{0,5}", rule, re.ASCII):
                        needed = int(rule)
                    good = name not in defined | {"none"} and 1 <= needed <= len(listed)
                    good = good and set(listed) <= defined and len(set(listed)) == len(listed)
                    good = good and not members & set(listed)
                    members |= set(listed)
                    defined.add(name)
                    self.groups.append((name, needed, listed))
                elif kind == "quorum" and len(rest) == 1:
                    good = quorum is None and rest[0] in defined | {"none"}
                    quorum = rest[0]
                else:
                    good = False
            except ValueError:
                raise wrong from None
            if not good:
                raise wrong
        if quorum is None:
            raise ValueError("the policy has no quorum line")
        self.quorum = quorum

    def satisfied_by(self, cosigners: dict[Key, int]) -> bool:
        met = {name for name, key in self.witnesses.items() if key in cosigners}
        for name, needed, listed in self.groups:
            if sum(member in met for member in listed) >= needed:
                met.add(name)
        return self.quorum == "none" or self.quorum in met


# the tree (RFC 6962) and its tiles (c2sp.org/tlog-tiles)


def root_of(hashes: list[bytes]) -> bytes:
    if not hashes:
        return hashlib.sha256(b"").digest()
    while len(hashes) > 1:
        odd = [hashes[-1]] if len(hashes) & 1 else []
        pairs = zip(hashes[::2], hashes[1::2])  # noqa: B905
        hashes = [hashlib.sha256(b"\x01" + left + right).digest() for left, right in pairs] + odd
    return hashes[0]


def path_of(level: str, index: int, width: int) -> str:
    number = f"{index % 1000:03d}"
    while index >= 1000:
        index //= 1000
        number = f"x{index % 1000:03d}/{number}"
    return f"tile/{level}/{number}" + (f".p/{width}" if width < 256 else "")


class Tree:
    """Grows by up to 256 leaf hashes at a time; compares each tile that fills with the published one."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.levels: list[list[bytes]] = [[]]  # of each level, the hashes of the tile that is not full yet
        self.full: list[int] = [0]  # of each level, how many tiles are

    def add(self, hashes: list[bytes], level: int = 0) -> None:
        if level == len(self.levels):
            self.levels.append([])
            self.full.append(0)
        self.levels[level] += hashes
        if len(self.levels[level]) == 256:
            done, self.levels[level] = self.levels[level], []
            self.compare(level, self.full[level], done)
            self.full[level] += 1
            self.add([root_of(done)], level + 1)

    def finish(self) -> None:
        for level, hashes in enumerate(self.levels):
            if hashes:
                self.compare(level, self.full[level], hashes)

    def compare(self, level: int, index: int, hashes: list[bytes]) -> None:
        if self.log.tile(str(level), index, len(hashes)) != b"".join(hashes):
            raise tampered(f"{path_of(str(level), index, len(hashes))} is not what the entries hash to.")

    def root(self, last: list[bytes] | None = None) -> bytes:
        """With `last` in the place of the unfinished tile of leaves."""
        parts: list[bytes] = []
        for level in range(len(self.levels) - 1, -1, -1):
            hashes = self.levels[level] if level or last is None else last
            start = 0
            for bit in (128, 64, 32, 16, 8, 4, 2, 1):
                if len(hashes) & bit:
                    parts.append(root_of(hashes[start : start + bit]))
                    start += bit
        if not parts:
            return root_of([])
        root = parts.pop()
        while parts:
            root = hashlib.sha256(b"\x01" + parts.pop() + root).digest()
        return root


class Log:
    """The files of a log, in a folder or below a URL."""

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")
        self.remote = place.startswith(("http://", "https://"))
        if not self.remote and not Path(place).is_dir():
            raise ValueError(f"there is no folder {place}")

    def read(self, path: str) -> bytes | None:
        try:
            if self.remote:
                with urllib.request.urlopen(f"{self.place}/{path}", timeout=30) as answer:  # noqa: S310
                    return bytes(answer.read(LARGEST + 1))
            with (Path(self.place) / path).open("rb") as file:
                return file.read(LARGEST + 1)
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                return None
            raise Found("unreachable", f"The log's server answered {error.code}.") from None
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise Found("unreachable", f"The log cannot be read ({type(error).__name__}).") from None

    def tile(self, level: str, index: int, width: int) -> bytes:
        """A file that must be there; where a partial one is gone, the full one cut to width."""
        path = path_of(level, index, width)
        data = self.read(path)
        if data is None and width < 256:
            whole = self.read(path_of(level, index, 256))
            if whole is not None:
                end = 0 if level == "entries" else width * 32
                for _ in range(width if level == "entries" else 0):
                    end += 2 + int.from_bytes(whole[end : end + 2], "big")
                data = whole[:end]
        if data is None:
            raise Found("incomplete", f"{path} is missing.")
        if len(data) > LARGEST:
            raise tampered("A published file is larger than it can be.")
        return data

    def entries(self, index: int, width: int) -> list[bytes]:
        data, found, at = self.tile("entries", index, width), [], 0
        for _ in range(width):
            end = at + 2 + int.from_bytes(data[at : at + 2], "big")
            if at + 2 > len(data) or end > len(data):
                raise tampered("An entry bundle is cut short.")
            found.append(data[at + 2 : end])
            at = end
        if at != len(data):
            raise tampered("An entry bundle holds more than it should.")
        return found


def rebuild(log: Log, size: int, tips: set[int]) -> dict[int, tuple[bytes, bytes]]:
    """(root, time of the last entry) of the tree at `size` and at the smaller sizes in `tips`."""
    tree, found, latest = Tree(log), {0: (root_of([]), b"")}, b""
    for start in range(0, size, 256):
        width = min(256, size - start)
        hashes, times = [], []
        for entry in log.entries(start // 256, width):
            match = ENTRY.fullmatch(entry) if len(entry) <= 1024 else None
            if match is None:
                raise tampered("A log entry is not in the canonical form.")
            if match[1] < latest:
                raise tampered("An entry claims to be older than one before it.")
            latest = match[1]
            times.append(latest)
            hashes.append(hashlib.sha256(b"\x00" + entry).digest())
        for tip in tips:
            if start < tip < start + width:
                found[tip] = (tree.root(hashes[: tip - start]), times[tip - start - 1])
        tree.add(hashes)
        if start + width in tips | {size}:
            found[start + width] = (tree.root(), latest)
    tree.finish()
    return found


def moment(text: bytes) -> dt.datetime | None:
    if not text:
        return None
    try:
        return dt.datetime.strptime(text.decode(), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=dt.UTC)
    except ValueError:
        raise tampered("A log entry carries an impossible time.") from None


def verify(
    log: Log,
    key: Key,
    known: Checkpoint | None = None,
    since: dt.datetime | None = None,
    policy: Policy | None = None,
) -> dict[str, object]:
    """The whole check; returns what to report, or raises Found."""
    witnesses = list(policy.witnesses.values()) if policy else []
    if policy and policy.logs and all((k.name, k.public) != (key.name, key.public) for k in policy.logs):
        raise Found("wrong_key", "The trust policy does not list this log.")
    # In this order: of a log that grows meanwhile, the newest checkpoint must be the later one.
    older, newest = log.read("checkpoint.cosigned"), log.read("checkpoint")
    if newest is None:
        raise Found("incomplete", "The checkpoint is missing.")
    head = Checkpoint(newest, key, witnesses)
    earlier = None
    if older is not None:
        try:
            earlier = Checkpoint(older, key, witnesses)
        except Found as error:
            raise tampered(error.detail) from None
    seen = [checkpoint for checkpoint in (known, earlier) if checkpoint is not None]
    if any(checkpoint.size > head.size for checkpoint in seen):
        raise Found("stale", "The log is smaller than a checkpoint seen before.")
    tips = rebuild(log, head.size, {checkpoint.size for checkpoint in seen})
    if tips[head.size][0] != head.root:
        raise tampered("The entries do not have the root that was signed.")
    if any(tips[checkpoint.size][0] != checkpoint.root for checkpoint in seen):
        raise tampered("The log does not extend a checkpoint seen before: its history was rewritten.")
    report: dict[str, object] = {"size": head.size, "root": base64.b64encode(head.root).decode()}
    believed: Checkpoint | None = head
    if policy:
        believed = next((c for c in (head, earlier) if c and policy.satisfied_by(c.witnesses)), None)
        if believed is None:
            raise Found("unwitnessed", "No quorum of the trust policy's witnesses has cosigned.")
        report["witnessed"] = believed.size
        report["witnesses"] = {k.name: at for k, at in believed.witnesses.items()}
    last = moment(tips[believed.size if believed else head.size][1])
    moment(tips[head.size][1])
    if since is not None and (last is None or last < since):
        raise Found("stale", "The log's last entry is older than allowed.")
    report["newest"] = last.isoformat() if last else None
    return report


def text_or_file(value: str) -> str:
    return value if "+" in value else Path(value).read_text("utf-8").strip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Verify a Comity transparency log.")
    parser.add_argument("log", metavar="PATH_OR_URL")
    parser.add_argument(
        "--key", required=True, metavar="VKEY", help="the log's verifier key, or a file with it"
    )
    parser.add_argument("--known", metavar="FILE", help="a checkpoint seen before, which the log must extend")
    parser.add_argument("--policy", metavar="FILE", help="a trust policy whose quorum must have cosigned")
    parser.add_argument("--max-age", metavar="HOURS", type=float, help="the newest entry may be no older")
    parser.add_argument("--json", action="store_true", help="report as JSON")
    given = parser.parse_args(arguments)
    outcome, detail, report = "ok", "", {}
    try:
        log, key = Log(given.log), Key(text_or_file(given.key), (ED25519,))
        policy = Policy(Path(given.policy).read_bytes()) if given.policy else None
        since = None
        if given.max_age is not None:
            since = dt.datetime.now(dt.UTC) - dt.timedelta(hours=given.max_age)
    except (ValueError, OSError, OverflowError) as error:
        parser.error(str(error))
    try:
        known = Checkpoint(Path(given.known).read_bytes(), key, []) if given.known else None
        report = verify(log, key, known, since, policy)
        detail = f"{report['size']} entries lead to the signed root."
        if "witnessed" in report:
            detail = detail[:-1] + f"; a quorum has cosigned {report['witnessed']} of them."
    except OSError as error:
        parser.error(str(error))
    except Found as found:
        outcome, detail = found.outcome, found.detail
    if given.json:
        whole = {"ok": outcome == "ok", "outcome": outcome, "detail": detail, "origin": key.name, **report}
        sys.stdout.write(json.dumps(whole, indent=2) + "\n")
    else:
        stream = sys.stdout if outcome == "ok" else sys.stderr
        stream.write(f"{outcome}: {key.name}: {detail}\n")
    return EXIT[outcome]


if __name__ == "__main__":
    sys.exit(main())
