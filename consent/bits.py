"""Bit fields written in the 64 letters of base64url, six bits a letter: the form of IAB consent strings.

Unlike base64 the length need not come out at whole bytes (IAB GPP, Core/Consent String Specification).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from privacy.errors import BadInput

__all__ = ["BitReader"]

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_VALUE = {letter: number for number, letter in enumerate(_ALPHABET)}
_MAX_LETTERS = 8192
_MAX_IDS = 65_535
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BitReader:
    """Reads fields from the front. Every read past the end raises BadInput(bad_signal)."""

    def __init__(self, text: str) -> None:
        if not 1 <= len(text) <= _MAX_LETTERS:
            raise bad("has no letters or too many")
        number = 0
        for letter in text:
            value = _VALUE.get(letter)
            if value is None:
                raise bad("holds a character that is not of its alphabet")
            number = number << 6 | value
        self._number = number
        self._size = 6 * len(text)
        self._at = 0

    @property
    def left(self) -> int:
        return self._size - self._at

    def integer(self, bits: int) -> int:
        if bits > self.left:
            raise bad("is cut short")
        self._at += bits
        return self._number >> (self._size - self._at) & (1 << bits) - 1

    def flag(self) -> bool:
        return self.integer(1) == 1

    def letters(self, count: int) -> str:
        """Six bits a letter, 0 for A (`EN`)."""
        values = [self.integer(6) for _ in range(count)]
        if any(value > 25 for value in values):
            raise bad("holds a letter that is none")
        return "".join(chr(ord("A") + value) for value in values)

    def moment(self) -> datetime:
        """36 bits of tenths of a second since 1970 UTC."""
        return _EPOCH + timedelta(milliseconds=100 * self.integer(36))

    def members(self, count: int) -> frozenset[int]:
        """A bit for each of the ids 1 to `count`."""
        digits = f"{self.integer(count):0{count}b}" if count else ""
        return frozenset(i for i, digit in enumerate(digits, 1) if digit == "1")

    def fibonacci(self) -> int:
        """A Fibonacci code: digits from the smallest up, ended by two ones in a row."""
        total, last, small, large = 0, False, 1, 2
        while True:
            one = self.flag()
            if one and last:
                return total
            if one:
                total += small
            if total > _MAX_IDS:
                raise bad("holds a number that is too large")
            last = one
            small, large = large, small + large

    def fibonacci_range(self) -> tuple[int, ...]:
        """Range(Fibonacci): ids in ascending order, each as the distance from the one before."""
        found: list[int] = []
        last = 0
        for _ in range(self.integer(12)):
            group = self.flag()
            first = last + self.fibonacci()
            last = first + self.fibonacci() if group else first
            if last > _MAX_IDS:
                raise bad("holds a number that is too large")
            found.extend(range(first, last + 1))
        return tuple(found)

    def pairs(self, highest: int) -> tuple[tuple[int, int], ...]:
        """Range(Int) of ids up to `highest`: first and last of each entry, not expanded."""
        found = []
        for _ in range(self.integer(12)):
            group = self.flag()
            first = self.integer(16)
            last = self.integer(16) if group else first
            if not 1 <= first <= last <= highest:
                raise bad("holds a range that is none")
            found.append((first, last))
        return tuple(found)

    def vendors(self) -> frozenset[int]:
        """A section of vendor ids: the highest, then a bit for each or ranges."""
        highest = self.integer(16)
        if not self.flag():
            return self.members(highest)
        pairs = self.pairs(highest)
        if sum(last - first + 1 for first, last in pairs) > _MAX_IDS:
            raise bad("names vendors more than once")
        return frozenset(i for first, last in pairs for i in range(first, last + 1))


def bad(what: str) -> BadInput:
    return BadInput(f"The preference signal {what}.", code="bad_signal")
