"""The policy: a versioned tree of dotted purposes, and the notices people were shown.

`overlap.reach` is a child of `overlap`; `*` stands above them all and can only be withdrawn or refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from consent.encoding import canonical_json
from consent.errors import UnknownPurpose
from privacy.errors import BadInput

__all__ = ["EVERY_PURPOSE", "Notice", "Purpose", "PurposePolicy", "ancestry"]

EVERY_PURPOSE = "*"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_MAX_POLICY = 1 << 20


def ancestry(purpose: str) -> tuple[str, ...]:
    """The purpose itself, its parents upward, and `*`: `a.b` → (`a.b`, `a`, `*`)."""
    parts = purpose.split(".")
    return (*(".".join(parts[:n]) for n in range(len(parts), 0, -1)), EVERY_PURPOSE)


@dataclass(frozen=True, slots=True)
class Purpose:
    """`since`: the tree version that introduced it; `renotice`: the version grants must not be older than."""

    name: str
    since: int
    renotice: int
    title: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Notice:
    name: str
    version: int
    purposes: tuple[str, ...]
    text: Mapping[str, str]

    def hash(self, language: str) -> str:
        """Hex SHA-256 of the notice text in `language`; raises BadInput where there is none."""
        if language not in self.text:
            raise BadInput("The notice has no text in this language.")
        return sha256(self.text[language].encode()).hexdigest()


@dataclass(frozen=True)
class PurposePolicy:
    """A published policy. `document` is what the hash is taken over."""

    name: str
    version: int
    purposes: Mapping[str, Purpose]
    notices: Mapping[str, Notice]
    document: Mapping[str, Any] = field(repr=False)

    @property
    def hash(self) -> str:
        """Hex SHA-256 of the canonical JSON of the whole policy."""
        return sha256(canonical_json(self.document)).hexdigest()

    @classmethod
    def default(cls) -> PurposePolicy:
        return cls.parse(resources.files("consent").joinpath("purposes.yaml").read_text("utf-8"))

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
        except (yaml.YAMLError, RecursionError):
            raise BadInput("The purpose policy is not valid YAML.") from None
        if not isinstance(document, dict) or set(document) != {"policy", "version", "purposes", "notices"}:
            raise BadInput("A purpose policy has exactly: policy, version, purposes, notices.")
        version = _version(document["version"], 1_000_000, "version")
        purposes = {p.name: p for p in _purposes(document["purposes"], "", 0, version)}
        if not purposes:
            raise BadInput("A purpose policy needs a purpose.")
        notices = dict(_notices(document["notices"], purposes))
        return cls(str(document["policy"]), version, purposes, notices, document)

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


def _version(value: object, highest: int, place: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
        raise BadInput(f"At {place}: a version is a whole number from 1 to the policy's own.")
    return value


def _texts(value: object, place: str) -> dict[str, str]:
    if (
        not isinstance(value, dict)
        or not value
        or not all(isinstance(v, str) for v in (*value, *value.values()))
    ):
        raise BadInput(f"At {place}: texts are given per language.")
    return dict(value)


def _purposes(value: object, above: str, since: int, newest: int) -> Iterator[Purpose]:
    if not isinstance(value, dict) or above.count(".") > 6:
        raise BadInput("Purposes are a mapping of names, at most eight levels deep.")
    for name, body in value.items():
        place = f"{above}{name}" if isinstance(name, str) else "purposes"
        if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(body, dict):
            raise BadInput(f"Below {above or 'purposes'}: a purpose is a lower-case name with fields.")
        if not {"since", "title"} <= set(body) <= {"since", "title", "children", "renotice"}:
            raise BadInput(f"At {place}: fields are since, title, and optionally children and renotice.")
        born = _version(body["since"], newest, place)
        if born < since:
            raise BadInput(f"At {place}: a child cannot be older than its parent.")
        renotice = _version(body["renotice"], newest, place) if "renotice" in body else 0
        yield Purpose(place, born, renotice, _texts(body["title"], place))
        yield from _purposes(body.get("children", {}), place + ".", born, newest)


def _notices(value: object, purposes: Mapping[str, Purpose]) -> Iterator[tuple[str, Notice]]:
    if not isinstance(value, dict):
        raise BadInput("Notices are a mapping of names.")
    for name, body in value.items():
        if (
            not isinstance(name, str)
            or not isinstance(body, dict)
            or set(body) != {"version", "purposes", "text"}
        ):
            raise BadInput("A notice has exactly: version, purposes, text.")
        about = body["purposes"]
        if not isinstance(about, list) or not about or not all(p in purposes for p in about):
            raise BadInput(f"At notice {name}: every purpose must be in the tree.")
        version = _version(body["version"], 1 << 31, f"notice {name}")
        yield name, Notice(name, version, tuple(about), _texts(body["text"], f"notice {name}"))
