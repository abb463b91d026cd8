"""Trust policies (c2sp.org/tlog-policy): which logs are believed, and whose cosignatures are enough.

    log <vkey> [<url>]
    witness <name> <vkey> [<url>]
    group <name> all|any|<k> <member>…
    quorum <name>|none

One item a line; space and tab separate; `#` begins a comment line. Names are opaque octets, and mean
something only inside the file. A group refers to names defined above it, and a name is in one group at most,
so that each witness counts in one way only. The quorum is the rule a checkpoint's cosigners must satisfy.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from consent.cosignatures import CosignedCheckpoint, CosignerKey, open_cosigned
from consent.errors import BadTrustPolicy, InvalidNote
from consent.notes import VerifierKey
from privacy.errors import Misuse

__all__ = ["Group", "PolicyLog", "PolicyWitness", "TrustPolicy"]

MAX_POLICY = 1 << 20  # bytes
NONE = "none"
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PolicyLog:
    """A log that is believed. Its origin is its key's name."""

    key: VerifierKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class PolicyWitness:
    """A witness by the policy's own name for it; `url` is its submission prefix."""

    name: str
    key: CosignerKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Satisfied by `threshold` of its members, each a witness or a group defined before."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """A policy as read. `groups` are in the order of the file, `quorum` is a name or "none"."""

    logs: tuple[PolicyLog, ...] = ()
    witnesses: tuple[PolicyWitness, ...] = ()
    groups: tuple[Group, ...] = ()
    quorum: str = NONE

    @classmethod
    def parse(cls, data: bytes | str) -> TrustPolicy:
        """Raises BadTrustPolicy, which names the line."""
        try:
            return _Reader().read(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)
        except UnicodeEncodeError:
            raise BadTrustPolicy("The trust policy is not text.") from None

    @classmethod
    def any_of(cls, witnesses: Mapping[str, CosignerKey]) -> TrustPolicy:
        """The policy that one of these witnesses is enough; of none, where there is none."""
        named = tuple(PolicyWitness(name, key) for name, key in witnesses.items())
        if not named:
            return cls()
        return cls((), named, (Group("\x00any", 1, tuple(w.name for w in named)),), "\x00any")

    @property
    def keys(self) -> tuple[CosignerKey, ...]:
        return tuple(witness.key for witness in self.witnesses)

    def satisfied_by(self, cosigners: Collection[CosignerKey]) -> bool:
        """Whether these witnesses, having cosigned the same checkpoint, are a quorum."""
        if self.quorum == NONE:
            return True
        met = {witness.name for witness in self.witnesses if witness.key in cosigners}
        for group in self.groups:
            if sum(member in met for member in group.members) >= group.threshold:
                met.add(group.name)
        return self.quorum in met

    def log_keys(self, origin: str) -> tuple[VerifierKey, ...]:
        """The keys listed for the log of this origin: several while a key is being replaced."""
        return tuple(log.key for log in self.logs if log.key.name == origin)

    def open(self, data: bytes | str, log: VerifierKey) -> tuple[CosignedCheckpoint, bool]:
        """Verify a checkpoint of `log`; and whether those who cosigned it are a quorum.

        Raises InvalidNote when malformed, when not signed by the log, when a known witness's cosignature
        does not verify, and when the policy lists logs but not this one.
        """
        if self.logs and all(listed.key != log for listed in self.logs):
            raise InvalidNote("The trust policy does not list this log.", code="unknown_signer")
        opened = open_cosigned(data, log, self.keys)
        return opened, self.satisfied_by({made.key for made in opened.cosignatures})


@dataclass
class _Reader:
    logs: list[PolicyLog] = field(default_factory=list)
    witnesses: dict[str, PolicyWitness] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    quorum: str | None = None
    line: int = 0

    def read(self, data: bytes) -> TrustPolicy:
        if len(data) > MAX_POLICY:
            raise BadTrustPolicy("The trust policy is larger than a megabyte.")
        lines = data.split(b"\n")
        if lines.pop():
            # A file cut off in the middle of a name could mean a weaker quorum.
            raise BadTrustPolicy("The last line of the trust policy does not end; the file may be cut off.")
        for self.line, raw in enumerate(lines, 1):
            if _FORBIDDEN.search(raw):
                raise self.wrong("holds a control character")
            # Names are octets: the escape keeps apart what is not UTF-8 and what is.
            words = re.split("[ \t]+", raw.decode("utf-8", "surrogateescape").strip(" \t"))
            if not words[0] or words[0].startswith("#"):
                continue
            kinds = {"log": self.log, "witness": self.witness, "group": self.group, "quorum": self.of_quorum}
            if words[0] not in kinds:
                raise self.wrong("begins with none of log, witness, group, quorum")
            kinds[words[0]](words[1:])
        if self.quorum is None:
            raise BadTrustPolicy("The trust policy has no quorum line.")
        return TrustPolicy(
            tuple(self.logs), tuple(self.witnesses.values()), tuple(self.groups.values()), self.quorum
        )

    def wrong(self, what: str) -> BadTrustPolicy:
        return BadTrustPolicy(f"Line {self.line} of the trust policy {what}.")

    def log(self, words: list[str]) -> None:
        if len(words) not in (1, 2):
            raise self.wrong("is not: log <vkey> [<url>]")
        try:
            key = VerifierKey.from_text(words[0])
        except Misuse:
            raise self.wrong("has no vkey of a log (Ed25519)") from None
        if any(known.key.public == key.public for known in self.logs):
            raise self.wrong("repeats the key of another log")
        self.logs.append(PolicyLog(key, *words[1:]))

    def witness(self, words: list[str]) -> None:
        if len(words) not in (2, 3):
            raise self.wrong("is not: witness <name> <vkey> [<url>]")
        try:
            key = CosignerKey.from_text(words[1])
        except Misuse:
            raise self.wrong("has no vkey of a witness (type 04 or 06)") from None
        if any(known.key.public == key.public for known in self.witnesses.values()):
            raise self.wrong("repeats the key of another witness")
        name = self.new(words[0])
        self.witnesses[name] = PolicyWitness(name, key, *words[2:])

    def group(self, words: list[str]) -> None:
        if len(words) < 3:
            raise self.wrong("is not: group <name> all|any|<k> <member>…")
        name, rule, *members = words
        new = self.new(name)
        for member in members:
            self.known(member)
            if member in self.members:
                raise self.wrong("lists a name that is in a group already")
            self.members.add(member)
        thresholds = {"any": 1, "all": len(members)}
        if rule not in thresholds and not _THRESHOLD.fullmatch(rule):
            raise self.wrong("has a threshold that is neither all, any nor a number")
        threshold = thresholds[rule] if rule in thresholds else int(rule)
        if threshold > len(members):
            raise self.wrong("asks for more members than the group has")
        self.groups[new] = Group(new, threshold, tuple(members))

    def of_quorum(self, words: list[str]) -> None:
        if len(words) != 1:
            raise self.wrong("is not: quorum <name>|none")
        if self.quorum is not None:
            raise self.wrong("is a second quorum line")
        if words[0] != NONE:
            self.known(words[0])
        self.quorum = words[0]

    def new(self, name: str) -> str:
        if name == NONE:
            raise self.wrong("uses the name none, which has a meaning of its own")
        if name in self.witnesses or name in self.groups:
            raise self.wrong("defines a name a second time")
        return name

    def known(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise self.wrong("refers to a name that no line above it defines")
