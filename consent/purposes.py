"""The policy: a versioned tree of dotted purposes, the notices shown for them, and the red lines.

`overlap.reach` is a child of `overlap`; `*` stands above them all and can only be withdrawn or refused.

What a purpose says about itself (all of it optional, and taken over by its children unless they say
otherwise; traits and red lines only ever add up):

- `traits`: what is done with the data, as far as laws tell cases apart (`consent.laws.Trait`);
- `bases`: the legal bases it may rest on, per law;
- `data`: the categories of data it needs; `fields`: further columns, by name or pattern;
- `retention_days`: how long what was obtained for it may be kept;
- `notice: required`: a grant must say which notice was shown;
- `tcf`: the purposes of the IAB Transparency and Consent Framework that it needs.

A notice covers the purposes it names and those of their children that existed when it was written
(`since`). A new version that is `material` makes older grants of everything it covers stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from consent.encoding import canonical_json
from consent.errors import UnknownPurpose
from consent.laws import Trait
from consent.shipped import read_shipped
from privacy.errors import BadInput

__all__ = [
    "EVERY_PURPOSE",
    "Category",
    "Notice",
    "NoticeText",
    "Purpose",
    "PurposePolicy",
    "RedLine",
    "ancestry",
]

EVERY_PURPOSE = "*"
_MAX_POLICY = 1 << 20


def ancestry(purpose: str) -> tuple[str, ...]:
    """The purpose itself, its parents upward, and `*`: `a.b` → (`a.b`, `a`, `*`)."""
    parts = purpose.split(".")
    return (*(".".join(parts[:n]) for n in range(len(parts), 0, -1)), EVERY_PURPOSE)


@dataclass(frozen=True, slots=True)
class Purpose:
    """`since`: the tree version that introduced it; `renotice`: the version grants must not be older than.

    Everything below `title` is as it holds for this purpose, what it takes over from its parents included.
    `retention` None means that no limit was set, `notice_required` that a grant must name its notice.
    """

    name: str
    since: int
    renotice: int
    title: Mapping[str, str]
    traits: frozenset[Trait] = frozenset()
    bases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    retention: timedelta | None = None
    notice_required: bool = False
    tcf: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NoticeText:
    """A version of a notice, by hash: language → hex SHA-256 of text and of the screen."""

    version: int
    text: Mapping[str, str]
    ui: Mapping[str, str]
    since: int = 1
    material: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """What people were shown. `since` is the tree version it was written for, `ui` the hex SHA-256 of the
    screen as shown, per language; `material` says that it asks for more than its predecessor.
    """

    name: str
    version: int
    purposes: tuple[str, ...]
    text: Mapping[str, str]
    since: int = 1
    material: bool = False
    ui: Mapping[str, str] = field(default_factory=dict)
    earlier: tuple[NoticeText, ...] = ()

    def hash(self, language: str) -> str:
        """Hex SHA-256 of the notice text in `language`; raises BadInput where there is none."""
        if language not in self.text:
            raise BadInput("The notice has no text in this language.", code="unknown_language")
        return sha256(self.text[language].encode()).hexdigest()

    def covers(self, purpose: Purpose) -> bool:
        """Whether it tells about a purpose: by name, or as a child that existed when it was written."""
        return purpose.name in self.purposes or (
            purpose.since <= self.since and any(name in self.purposes for name in ancestry(purpose.name))
        )

    @property
    def material_since(self) -> tuple[int, int]:
        """The newest material version, and the tree version it was written for; (0, 0) without one."""
        mine = ((self.version, self.since),) if self.material else ()
        return max((*mine, *((t.version, t.since) for t in self.earlier if t.material)), default=(0, 0))

    def of_version(self, version: int) -> NoticeText | None:
        """The hashes of a version, None for one the policy does not hold."""
        if version == self.version:
            hashes = {language: self.hash(language) for language in self.text}
            return NoticeText(version, hashes, self.ui, self.since, self.material)
        return next((text for text in self.earlier if text.version == version), None)


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of data, and the columns that hold it (names or patterns with `*`, in any letter case).

    `sensitive` names the laws under which it is sensitive or special.
    """

    name: str
    title: Mapping[str, str]
    fields: tuple[str, ...]
    sensitive: frozenset[str] = frozenset()
    dpv: str = "dpv:PersonalData"


@dataclass(frozen=True, slots=True)
class RedLine:
    """A forbidden use: these columns and categories never for these purposes, whatever else allows them."""

    id: str
    title: Mapping[str, str]
    purposes: tuple[str, ...]
    fields: tuple[str, ...]
    categories: tuple[str, ...]
    traits: frozenset[Trait] = frozenset()


@cache
def _default() -> PurposePolicy:
    return PurposePolicy.from_document(read_shipped("consent", "purposes.yaml"))


@dataclass(frozen=True)
class PurposePolicy:
    """A published policy. `document` is what the hash is taken over.

    `laws` are those held to for decisions that name no jurisdiction of their own.
    """

    name: str
    version: int
    purposes: Mapping[str, Purpose]
    notices: Mapping[str, Notice]
    document: Mapping[str, Any] = field(repr=False)
    categories: Mapping[str, Category] = field(default_factory=dict)
    red_lines: tuple[RedLine, ...] = ()
    laws: tuple[str, ...] = ()

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 of the canonical JSON of the whole policy."""
        return sha256(canonical_json(self.document)).hexdigest()

    @classmethod
    def default(cls) -> PurposePolicy:
        """That of the release; read once a process."""
        return _default()

    @classmethod
    def load(cls, path: Path) -> PurposePolicy:
        try:
            return cls.parse(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput("The purpose policy cannot be read as UTF-8 text.") from error

    @classmethod
    def parse(cls, text: str) -> PurposePolicy:
        """Raises BadInput, naming the place, for anything that is not a policy."""
        if len(text) > _MAX_POLICY:
            raise BadInput("The purpose policy is too large.")
        try:
            document = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise BadInput("The purpose policy is not valid YAML.") from None
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: object) -> PurposePolicy:
        """A policy as it was published. Raises BadInput."""
        from consent.policy_document import read

        return read(document)

    def require(self, purpose: str, version: int | None = None) -> Purpose:
        """The purpose, if the tree of `version` (default: the current one) holds it; else UnknownPurpose."""
        found = self.purposes.get(purpose)
        if found is None:
            known = ", ".join(sorted(self.purposes))
            raise UnknownPurpose(
                "This purpose is not in the published policy.", advice=f"Known purposes: {known}."
            )
        if version is not None and not 1 <= version <= self.version:
            raise UnknownPurpose(
                f"The policy has versions 1 to {self.version}.", code="unknown_purpose_version"
            )
        if version is not None and version < found.since:
            raise UnknownPurpose(
                f"This purpose exists since version {found.since} of the policy.",
                code="unknown_purpose_version",
            )
        return found

    def notice(self, name: str, version: int | None = None) -> Notice:
        """The notice of that name. Raises BadInput(unknown_notice, unknown_notice_version)."""
        found = self.notices.get(name)
        if found is None:
            raise BadInput("The policy has no notice of this name.", code="unknown_notice")
        if version is not None and found.of_version(version) is None:
            raise BadInput(
                "The policy does not hold this version of the notice.", code="unknown_notice_version"
            )
        return found

    def notices_for(self, purpose: str) -> tuple[Notice, ...]:
        """The notices that cover a purpose. Raises UnknownPurpose."""
        wanted = self.require(purpose)
        return tuple(notice for notice in self.notices.values() if notice.covers(wanted))

    def oldest_grant(self, purpose: Purpose, granted: str) -> int:
        """The oldest tree version under which a grant of `granted` (itself or a parent) covers `purpose`."""
        return max(purpose.renotice, purpose.since if granted != purpose.name else 0)

    def below(self, purpose: str, version: int) -> list[str]:
        """`purpose` and its descendants present in the tree of `version`."""
        return [
            p.name
            for p in self.purposes.values()
            if p.since <= version and (p.name == purpose or p.name.startswith(purpose + "."))
        ]

    # what data may be used for

    def categories_of(self, column: str) -> tuple[Category, ...]:
        """The categories of data that a column of this name holds."""
        return tuple(c for c in self.categories.values() if _matches(column, c.fields))

    def allows(self, purpose: str, column: str) -> bool | None:
        """Whether a column is on the white list of a purpose; None if the purpose has no white list.

        Raises UnknownPurpose. Red lines are asked apart (`crossed`): they hold whatever is allowed.
        """
        wanted = self.require(purpose)
        if not wanted.data and not wanted.fields:
            return None
        return _matches(column, wanted.fields) or any(
            c.name in wanted.data for c in self.categories_of(column)
        )

    def crossed(self, purpose: str, column: str) -> tuple[RedLine, ...]:
        """The red lines that using this column for this purpose would cross. Raises UnknownPurpose."""
        above = ancestry(self.require(purpose).name)
        kinds = {c.name for c in self.categories_of(column)}
        return tuple(
            line
            for line in self.red_lines
            if any(name in line.purposes for name in above)
            and (_matches(column, line.fields) or not kinds.isdisjoint(line.categories))
        )


def _matches(column: str, patterns: tuple[str, ...]) -> bool:
    folded = column.casefold()
    return any(fnmatchcase(folded, pattern.casefold()) for pattern in patterns)
