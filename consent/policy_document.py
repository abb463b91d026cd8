"""Reading a purpose policy: every field checked, every error with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from consent.laws import Trait, laws
from consent.purposes import (
    EVERY_PURPOSE,
    Category,
    Notice,
    NoticeText,
    Purpose,
    PurposePolicy,
    RedLine,
    ancestry,
)
from privacy.errors import BadInput

__all__ = ["read"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_DAYS = 36_525
_MAX_TEXT = 1 << 16
_TCF_PURPOSES = 11

_NEEDED = {"policy", "version", "purposes", "notices"}
_OPTIONAL = {"laws", "categories", "red_lines"}
_PURPOSE = {"children", "renotice", "traits", "bases", "data", "fields", "retention_days", "notice", "tcf"}
_NOTICE = {"since", "material", "ui", "earlier"}


def read(document: object) -> PurposePolicy:
    """A policy from its parsed document. Raises BadInput, naming the place."""
    body = _fields(document, _NEEDED, _OPTIONAL, "policy")
    name = _text(body["policy"], "policy")
    version = _version(body["version"], 1_000_000, "version")
    categories = dict(_categories(body.get("categories", {})))
    root = Purpose("", 1, 0, {})
    purposes = {p.name: p for p in _purposes(body["purposes"], root, version, categories)}
    if not purposes:
        raise BadInput("A purpose policy needs a purpose.")
    notices = dict(_notices(body["notices"], purposes, version))
    for notice in notices.values():
        _, material = notice.material_since
        for purpose in purposes.values():
            if notice.covers(purpose) and purpose.renotice < material:
                purposes[purpose.name] = replace(purpose, renotice=material)
    red_lines = tuple(_red_lines(body.get("red_lines", []), purposes, categories))
    known = _list(body.get("laws", []), _text, "laws")
    if not set(known) <= set(laws()):
        raise BadInput(f"At laws: known laws are {', '.join(sorted(laws()))}.")
    return PurposePolicy(name, version, purposes, notices, dict(body), categories, red_lines, known)


def _purposes(
    value: object, above: Purpose, newest: int, categories: Mapping[str, Category]
) -> Iterator[Purpose]:
    if not isinstance(value, dict) or above.name.count(".") > 6:
        raise BadInput("Purposes are a mapping of names, at most eight levels deep.")
    for name, item in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadInput(f"Below {above.name or 'purposes'}: a purpose is a lower-case name with fields.")
        place = f"{above.name}.{name}" if above.name else name
        body = _fields(item, {"since", "title"}, _PURPOSE, place)
        born = _version(body["since"], newest, place)
        if born < above.since:
            raise BadInput(f"At {place}: a child cannot be older than its parent.")
        made = Purpose(
            place,
            born,
            _version(body["renotice"], newest, place) if "renotice" in body else 0,
            _texts(body["title"], place),
            above.traits | _traits(body.get("traits", []), place),
            _bases(body["bases"], place) if "bases" in body else above.bases,
            _list(body["data"], _known(categories), place) if "data" in body else above.data,
            _list(body["fields"], _text, place) if "fields" in body else above.fields,
            _retention(body["retention_days"], place) if "retention_days" in body else above.retention,
            _choice(body["notice"], place) if "notice" in body else above.notice_required,
            _tcf(body["tcf"], place) if "tcf" in body else above.tcf,
        )
        yield made
        yield from _purposes(body.get("children", {}), made, newest, categories)


def _notices(value: object, purposes: Mapping[str, Purpose], newest: int) -> Iterator[tuple[str, Notice]]:
    if not isinstance(value, dict):
        raise BadInput("Notices are a mapping of names.")
    for name, item in value.items():
        place = f"notice {name}" if isinstance(name, str) and _NAME.fullmatch(name) else "notices"
        if place == "notices":
            raise BadInput("At notices: a notice has a lower-case name.")
        body = _fields(item, {"version", "purposes", "text"}, _NOTICE, place)
        about = _list(body["purposes"], _known(purposes), place)
        if not about:
            raise BadInput(f"At {place}: it is about at least one purpose.")
        version = _version(body["version"], 1 << 31, place)
        if version > 1 and "since" not in body:
            raise BadInput(f"At {place}: since, the version of the policy that brought this one, is missing.")
        texts = _texts(body["text"], place)
        yield (
            name,
            Notice(
                name,
                version,
                about,
                texts,
                _version(body.get("since", 1), newest, place),
                _flag(body.get("material", False), place),
                _hashes(body.get("ui", {}), place),
                tuple(_earlier(body.get("earlier", []), version, newest, place)),
            ),
        )


def _earlier(value: object, version: int, newest: int, place: str) -> Iterator[NoticeText]:
    seen = {version}
    for item in _items(value, place):
        body = _fields(item, {"version", "text"}, {"ui", "since", "material"}, f"{place}, earlier")
        number = _version(body["version"], version, place)
        if number in seen:
            raise BadInput(f"At {place}: a version stands there twice.")
        seen.add(number)
        material = _flag(body.get("material", False), place)
        if material and "since" not in body:
            raise BadInput(f"At {place}: a material version says since which version of the policy.")
        yield NoticeText(
            number,
            _hashes(body["text"], place),
            _hashes(body.get("ui", {}), place),
            _version(body.get("since", 1), newest, place),
            material,
        )


def _categories(value: object) -> Iterator[tuple[str, Category]]:
    if not isinstance(value, dict):
        raise BadInput("Categories are a mapping of names.")
    for name, item in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadInput("At categories: a category has a lower-case name.")
        place = f"category {name}"
        body = _fields(item, {"title", "fields"}, {"sensitive", "dpv"}, place)
        yield (
            name,
            Category(
                name,
                _texts(body["title"], place),
                _list(body["fields"], _text, place),
                frozenset(_list(body.get("sensitive", []), _known(set(laws())), place)),
                _text(body.get("dpv", "dpv:PersonalData"), place),
            ),
        )


def _red_lines(
    value: object, purposes: Mapping[str, Purpose], categories: Mapping[str, Category]
) -> Iterator[RedLine]:
    seen: set[str] = set()
    for item in _items(value, "red_lines"):
        body = _fields(item, {"id", "title"}, {"purposes", "fields", "categories", "traits"}, "red_lines")
        name = _text(body["id"], "red_lines")
        place = f"red line {name}" if _NAME.fullmatch(name) else "red_lines"
        if place == "red_lines" or name in seen:
            raise BadInput("At red_lines: each has a lower-case id of its own.")
        seen.add(name)
        line = RedLine(
            name,
            _texts(body["title"], place),
            _list(body.get("purposes", [EVERY_PURPOSE]), _known({*purposes, EVERY_PURPOSE}), place),
            _list(body.get("fields", []), _text, place),
            _list(body.get("categories", []), _known(categories), place),
            _traits(body.get("traits", []), place),
        )
        if not (line.fields or line.categories or line.traits) or not line.purposes:
            raise BadInput(f"At {place}: it forbids fields, categories or traits.")
        for purpose in purposes.values():
            if not line.traits.isdisjoint(purpose.traits) and set(line.purposes) & set(
                ancestry(purpose.name)
            ):
                raise BadInput(f"At {purpose.name}: crosses the {place} of the same policy.")
        yield line


def _fields(value: object, needed: set[str], allowed: set[str], place: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not needed <= set(value) <= needed | allowed:
        raise BadInput(
            f"At {place}: fields are {', '.join(sorted(needed))}; optional {', '.join(sorted(allowed))}."
        )
    return value


def _items(value: object, place: str) -> list[object]:
    if not isinstance(value, list) or len(value) > 1000:
        raise BadInput(f"At {place}: a list is needed.")
    return value


def _list(value: object, read_one: Callable[[object, str], str], place: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(read_one(item, place) for item in _items(value, place)))


def _known(names: Mapping[str, object] | set[str]) -> Callable[[object, str], str]:
    def check(value: object, place: str) -> str:
        if not isinstance(value, str) or value not in names:
            raise BadInput(f"At {place}: a name that the policy does not define.")
        return value

    return check


def _text(value: object, place: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 200:
        raise BadInput(f"At {place}: a text of up to 200 characters is needed.")
    return value


def _version(value: object, highest: int, place: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
        raise BadInput(f"At {place}: a version is a whole number from 1 to the policy's own.")
    return value


def _texts(value: object, place: str) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        raise BadInput(f"At {place}: texts are given per language.")
    for language, text in value.items():
        if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
            raise BadInput(f"At {place}: texts are given per language.")
        if not isinstance(text, str) or not text.strip() or len(text) > _MAX_TEXT:
            raise BadInput(f"At {place}: a text is empty or longer than {_MAX_TEXT} characters.")
    return dict(value)


def _hashes(value: object, place: str) -> dict[str, str]:
    given = list(value.values()) if isinstance(value, dict) else [None]
    if not all(isinstance(each, str) and _HASH.fullmatch(each) for each in given):
        raise BadInput(f"At {place}: hashes are given per language, as 64 hexadecimal digits in quotes.")
    return _texts(value, place) if given else {}


def _flag(value: object, place: str) -> bool:
    if not isinstance(value, bool):
        raise BadInput(f"At {place}: true or false is needed.")
    return value


def _choice(value: object, place: str) -> bool:
    if value not in ("required", "optional"):
        raise BadInput(f"At {place}: notice is required or optional.")
    return value == "required"


def _retention(value: object, place: str) -> timedelta:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_DAYS:
        raise BadInput(f"At {place}: retention_days is a whole number from 1 to {_MAX_DAYS}.")
    return timedelta(days=value)


def _tcf(value: object, place: str) -> tuple[int, ...]:
    numbers = _items(value, place)
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= _TCF_PURPOSES:
            raise BadInput(f"At {place}: tcf lists purposes 1 to {_TCF_PURPOSES} of that framework.")
    return tuple(n for n in numbers if isinstance(n, int))


def _traits(value: object, place: str) -> frozenset[Trait]:
    try:
        return frozenset(Trait(name) for name in _list(value, _text, place))
    except ValueError:
        raise BadInput(f"At {place}: known traits are {', '.join(sorted(Trait))}.") from None


def _bases(value: object, place: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise BadInput(f"At {place}: bases are given per law.")
    found: dict[str, tuple[str, ...]] = {}
    for name, names in value.items():
        if name not in laws():
            raise BadInput(f"At {place}: known laws are {', '.join(sorted(laws()))}.")
        found[name] = _list(names, _known(dict(laws()[name].bases)), f"{place}, bases of {name}")
    return found
