"""IAB Global Privacy Platform strings: the header, and of each section what it says about opting out.

Source: IAB Tech Lab, Global Privacy Platform, Core/Consent String Specification and Sections. Sections this
reader does not know are named in `unread`, never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from consent.bits import BitReader, bad
from consent.tcf import TcString, parse_tc_string

__all__ = ["GppString", "UsSection", "parse_gpp_string"]

_TYPE, _VERSION = 3, 1
_MAX_SECTIONS = 32
_TCF_EU, _USP_V1 = 2, 6
_USP = re.compile(r"1[YN-]{3}", re.ASCII)
_GPC_SEGMENT = 1

_STATES: Mapping[int, tuple[str, tuple[str, ...]]] = {
    7: ("usnat", ("", "", "", "", "", "", "sale", "sharing", "targeted_advertising")),
    8: ("usca", ("", "", "", "sale", "sharing")),
    **{
        number: (f"us{state}", ("", "", "", "sale", "targeted_advertising"))
        for number, state in {
            9: "va", 10: "co", 12: "ct", 13: "fl", 14: "mt", 15: "or", 16: "tx", 17: "de", 19: "ne",
            20: "nh", 21: "nj", 22: "tn", 23: "mn",
        }.items()
    },
    11: ("usut", ("", "", "", "", "sale", "targeted_advertising")),
    18: ("usia", ("", "", "", "", "sale", "targeted_advertising")),
}  # fmt: skip
"""Section id → its name and its two-bit fields after the version, up to the last that is an opt-out."""


@dataclass(frozen=True, slots=True)
class UsSection:
    """One section of a state of the USA, of the federation (`usnat`), or the older US Privacy string."""

    name: str
    opted_out: frozenset[str]
    """of `sale`, `sharing`, `targeted_advertising`"""
    gpc: bool = False


@dataclass(frozen=True, slots=True)
class GppString:
    """`unread` are ids of sections whose content was not looked at."""

    sections: tuple[int, ...]
    us: tuple[UsSection, ...] = ()
    tcf: TcString | None = None
    unread: tuple[int, ...] = ()

    @property
    def gpc(self) -> bool:
        return any(section.gpc for section in self.us)

    @property
    def opted_out(self) -> frozenset[str]:
        return frozenset().union(*(section.opted_out for section in self.us))

    def to_dict(self) -> dict[str, object]:
        """The part kept in the payload beside the raw string."""
        found: dict[str, object] = {
            "sections": list(self.sections),
            "opted_out": sorted(self.opted_out),
            "gpc": self.gpc,
            "unread": list(self.unread),
        }
        if self.tcf is not None:
            found["tcf"] = self.tcf.to_dict()
        return found


def parse_gpp_string(text: str) -> GppString:
    """Raises BadInput(bad_signal) for anything that is not a GPP string of version 1."""
    header, *contents = text.split("~")
    r = BitReader(header)
    if r.integer(6) != _TYPE or r.integer(6) != _VERSION:
        raise bad("is of a version that is not read")
    sections = r.fibonacci_range()
    if len(sections) > _MAX_SECTIONS or list(sections) != sorted(set(sections)):
        raise bad("has too many sections, or one of them twice")
    if len(sections) != len(contents) or not sections:
        raise bad("does not hold the sections that its header names")
    us: list[UsSection] = []
    unread: list[int] = []
    tcf = None
    for number, content in zip(sections, contents, strict=True):
        if number == _TCF_EU:
            tcf = parse_tc_string(content)
        elif number == _USP_V1:
            us.append(_us_privacy(content))
        elif number in _STATES:
            us.append(_state(content, *_STATES[number]))
        else:
            unread.append(number)
    return GppString(sections, tuple(us), tcf, tuple(unread))


def _us_privacy(text: str) -> UsSection:
    if not _USP.fullmatch(text):
        raise bad("has a US Privacy section that is none")
    return UsSection("uspv1", frozenset({"sale"} if text[2] == "Y" else ()))


def _state(text: str, name: str, fields: tuple[str, ...]) -> UsSection:
    core, *rest = text.split(".")
    if len(rest) > 1:
        raise bad("has too many segments")
    r = BitReader(core)
    if r.integer(6) not in (1, 2):
        raise bad("has a section of a version that is not read")
    opted_out = set()
    for field in fields:
        value = r.integer(2)
        if value == 3:
            raise bad("has a field of no known meaning")
        if field and value == 1:
            opted_out.add(field)
    gpc = False
    if rest:
        r = BitReader(rest[0])
        if r.integer(2) != _GPC_SEGMENT:
            raise bad("has a segment of no known kind")
        gpc = r.flag()
    return UsSection(name, frozenset(opted_out), gpc)
