"""The options of one policy line, read strictly: each is asked for once, and none may be left over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import phonenumbers

from privacy.errors import PolicyError

__all__ = ["Options"]

_MISSING = object()


class Options:
    """What stands beside `op` and `class` in a policy line. Errors name the place and never the value."""

    def __init__(
        self, place: str, entity_class: str | None, values: Mapping[str, object], keys: Mapping[str, str]
    ) -> None:
        self.place = place
        self.entity_class = entity_class
        self._values = dict(values)
        self._keys = keys
        self._asked: set[str] = set()

    def value(self, name: str) -> object:
        """The option as written, or None if absent."""
        self._asked.add(name)
        return self._values.get(name)

    def text(self, name: str, default: str | None) -> str | None:
        """An option that must be text of at most 255 characters."""
        self._asked.add(name)
        value = self._values.get(name, _MISSING)
        if value is _MISSING:
            return default
        if not isinstance(value, str) or not 1 <= len(value) <= 255:
            raise PolicyError(f"{self.place}: {name} is a text.", advice="Put it in quotes.")
        return value

    def key(self, name: str) -> str:
        """The reference (`local:NAME`) behind a required option that names one of the policy's keys."""
        value = self.text(name, None)
        if value is None:
            raise PolicyError(f"{self.place}: {name} is missing.")
        if value not in self._keys:
            raise PolicyError(
                f"{self.place}: {name} names a key that the policy does not declare.",
                advice="Declare it under keys.",
            )
        return self._keys[value]

    def region(self, name: str) -> str:
        """A region for telephone numbers; CN if absent."""
        value = self.text(name, "CN")
        if value not in phonenumbers.SUPPORTED_REGIONS:
            raise PolicyError(f"{self.place}: {name} is a two-letter country code.")
        return str(value)

    def names(self) -> tuple[Literal["off", "auto", "require"], tuple[str, ...]]:
        """`names` (off if absent), and in which `languages` (zh and en if absent; none if off)."""
        match self.value("names"):
            case None | False | "off":  # unquoted, YAML reads off as false
                return "off", ()
            case "auto" | "require" as names:
                pass
            case _:
                raise PolicyError(f"{self.place}: names is off, auto or require.")
        languages = self.value("languages")
        if languages is None:
            return names, ("en", "zh")
        if not isinstance(languages, list) or not languages or any(x not in ("en", "zh") for x in languages):
            raise PolicyError(f"{self.place}: languages is a list of zh and en.")
        return names, tuple(sorted(set(languages)))

    def finish(self) -> None:
        """Refuse options that nobody asked for: a misspelt one must not be silently without effect."""
        extra = sorted(set(self._values) - self._asked)
        if extra:
            raise PolicyError(f"{self.place}: unknown option {', '.join(extra)}.")
