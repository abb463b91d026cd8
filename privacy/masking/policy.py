"""Masking policies: YAML that a person can review, read so strictly that it means what it says.

.. code-block:: yaml

    version: 1
    keys: {customer: local:customer}
    columns:
      mobile: {class: cn_mobile, op: token, key: customer}
      name:   {class: person, op: mask, style: surname}
      birth:  {op: bucket, width: 5y}
      note:   {op: text, default: label}
      city:   {op: keep}

Every column of a table must be named. Unknown keys, operators and options, duplicate YAML keys, anchors
and values of the wrong type are refused with the place they stand at: a policy that is followed only in
part leaks the rest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785
import yaml

from privacy.detect.domains import CLASSES
from privacy.errors import PolicyError, UnknownEntity
from privacy.masking.operators import OPERATORS, Operator
from privacy.masking.options import Options

__all__ = ["ColumnRule", "Policy"]

_SIZE_LIMIT = 1_000_000  # bytes
_KEY = re.compile(r"local:[A-Za-z0-9_.-]{1,64}")
_SECTIONS = {"version", "keys", "columns"}
_LATER = {"risk", "export", "allowed", "forbidden", "retention"}


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """What happens to one column, and what it is said to hold."""

    entity_class: str | None
    operator: Operator


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy. `keys` maps the names used in columns to key references (`local:NAME`)."""

    keys: Mapping[str, str]
    columns: Mapping[str, ColumnRule]

    @classmethod
    def load(cls, path: Path | str) -> Policy:
        """Read a policy file. Raises `PolicyError`."""
        try:
            with Path(path).open("rb") as file:
                content = file.read(_SIZE_LIMIT + 1)
        except OSError as error:
            raise PolicyError(f"The policy {path} could not be read: {error.strerror}.") from error
        try:
            return cls.parse(content.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise PolicyError(f"The policy {path} is not UTF-8 text.") from None

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Read a policy from YAML text. Raises `PolicyError` naming the place of whatever is wrong."""
        if len(text) > _SIZE_LIMIT:
            raise PolicyError("The policy is longer than 1 MB.")
        document = _section(_yaml(text), "the policy")
        for name in document:
            if name in _LATER:
                raise PolicyError(
                    f"{name}: this version does not enforce this section, so it will not pretend to.",
                    advice="Take it out of the policy.",
                )
            if name not in _SECTIONS:
                raise PolicyError(f"{name}: unknown section of the policy.")
        version = document.get("version")
        if isinstance(version, bool) or version != 1:
            raise PolicyError("version: a policy of this format has version 1.")
        keys = {name: _key(name, value) for name, value in _section(document.get("keys", {}), "keys").items()}
        rules = _section(document.get("columns"), "columns")
        if not rules:
            raise PolicyError("columns: the policy names no column.")
        return cls(keys, {name: _rule(name, rule, keys) for name, rule in rules.items()})

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the policy's canonical form: RFC 8785 JSON with every default filled in.

        Comments, order and spelling of the YAML do not change it; anything that changes the output does.
        """
        columns: dict[str, Any] = {
            name: {
                "class": rule.entity_class,
                "op": rule.operator.NAME,
                "options": rule.operator.options(),
            }
            for name, rule in self.columns.items()
        }
        return hashlib.sha256(rfc8785.dumps({"version": 1, "columns": columns})).hexdigest()


def _rule(name: str, value: object, keys: Mapping[str, str]) -> ColumnRule:
    place = f"columns.{name}"
    line = dict(_section(value, place))
    entity_class = line.pop("class", None)
    if entity_class is not None and (not isinstance(entity_class, str) or entity_class not in CLASSES):
        raise UnknownEntity(f"{place}: class is one of {', '.join(CLASSES)}.")
    op = line.pop("op", None)
    if not isinstance(op, str) or op not in OPERATORS:
        raise PolicyError(f"{place}: op is one of {', '.join(OPERATORS)}.")
    options = Options(place, entity_class, line, keys)
    operator = OPERATORS[op].parse(options)
    options.finish()
    return ColumnRule(entity_class, operator)


def _key(name: str, value: object) -> str:
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise PolicyError(
            f"keys.{name}: this version knows keys of its own ring only.", advice="Write local:NAME."
        )
    return value


def _section(value: object, place: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise PolicyError(f"{place}: should hold names and values.")
    for key in value:
        if not isinstance(key, str) or not key:
            raise PolicyError(
                f"{place}: a name is not a text.",
                advice="YAML reads words such as yes, no, on and numbers as values; put names in quotes.",
            )
    return value


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which every key stands once and nothing is defined elsewhere."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call]
            raise _refused("anchors and aliases are not allowed", alias.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise _refused("merge keys are not allowed", key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a name is not a text", key.start_mark)
            if key.value in seen:
                raise _refused("the same name stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refused(problem: str, mark: yaml.Mark | None) -> PolicyError:
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return PolicyError(f"{place}{problem}.")


def _yaml(text: str) -> object:
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader, made stricter
    except yaml.MarkedYAMLError as error:
        raise _refused("this is not YAML", error.problem_mark) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise PolicyError("The policy is not YAML that can be read.") from None
