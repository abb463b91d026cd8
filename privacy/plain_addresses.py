"""Which e-mail addresses of a column are canonical once trimmed and lowered, told without a parser.

`canonical_column` decides about every address; this only says for which of them the answer can be nothing
but the address trimmed, in small letters and without ignored dots, or a rejection. Where most rows are to
be thrown away anyway, as in drawing a sample, that is enough, and costs a tenth.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from privacy.errors import Misuse
from privacy.identifiers import PROFILES, Profile

__all__ = ["places", "plain_addresses"]

_LOWEST, _HIGHEST, _HYPHEN = 0x21, 0x7E, 0x2D
_ENDING = b"mail.com"
"""How every domain whose owner ignores dots ends; checked against the profiles when this is loaded."""
if any(not d.encode().endswith(_ENDING) for p in PROFILES.values() for d in p.dotless_domains):
    raise RuntimeError("a profile ignores dots at a domain that is not looked for here")


def plain_addresses(text: pa.StringArray, profile: str) -> tuple[pa.StringArray, npt.NDArray[np.bool_]]:
    """The column trimmed, lowered, without what Gmail ignores; and where `canonical` gives that or rejects.

    text: without nulls. The mask is False for what needs a closer look, and may be for more.
    """
    if text.null_count:
        raise Misuse("Missing addresses are left out first.")
    rules = PROFILES[profile]
    written = pc.ascii_lower(pc.ascii_trim(text, " "))
    count = len(written)
    sure = np.ones(count, dtype=np.bool_)
    if not count:
        return written, sure
    _, offsets, data = written.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int32)[written.offset : written.offset + count + 1]
    first, last = int(bounds[0]), int(bounds[-1])
    if last == first:
        return written, sure
    flat = np.frombuffer(data, dtype=np.uint8)[first:last]
    bounds = bounds - first
    # Spaces within, control characters and whatever is not ASCII are normalised by rules of their own, and
    # so is what IDNA encodes, which has two hyphens in a row.
    odd = (flat - np.uint8(_LOWEST)) > np.uint8(_HIGHEST - _LOWEST)
    hyphen = flat == _HYPHEN
    odd[:-1] |= hyphen[:-1] & hyphen[1:]
    places = np.flatnonzero(odd)
    if len(places):
        sure[np.searchsorted(bounds, places, side="right") - 1] = False
    if rules.dotless_domains:
        written = _undotted(written, flat, bounds[1:].astype(np.int64), rules, sure)
    return written, sure


def _undotted(
    written: pa.StringArray,
    flat: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int64],
    rules: Profile,
    sure: npt.NDArray[np.bool_],
) -> pa.StringArray:
    """`written` without the dots and +tags of addresses whose domain ignores them."""
    width = len(_ENDING)
    if len(flat) < width:
        return written
    anywhere = np.lib.stride_tricks.as_strided(
        flat[:width].view("<u8"), shape=(len(flat) - width + 1,), strides=(1,)
    )
    found = anywhere[np.maximum(ends - width, 0)] == np.frombuffer(_ENDING, dtype="<u8")[0]
    rows = np.flatnonzero(found)
    if not len(rows):
        return written
    some = written.take(places(rows))
    for domain in sorted(rules.dotless_domains):
        there = pc.ends_with(some, "@" + domain)
        at = rows[there.to_numpy(zero_copy_only=False)]
        if not len(at):
            continue
        local = pc.utf8_slice_codeunits(some.filter(there), 0, -(len(domain) + 1))
        if pc.any(pc.match_substring(local, "+")).as_py():
            local = pc.replace_substring_regex(local, r"\+.*$", "")
        local = pc.replace_substring(local, ".", "")
        sure[at[pc.equal(pc.binary_length(local), 0).to_numpy(zero_copy_only=False)]] = False
        mask = np.zeros(len(written), dtype=np.bool_)
        mask[at] = True
        better = pc.binary_join_element_wise(local, rules.dotless_becomes or domain, "@")
        written = pc.replace_with_mask(written, _flags(mask), better)
    return written


def places(rows: npt.NDArray[np.int64]) -> pa.Int64Array:
    """Row numbers as Arrow takes them. `pa.array` looks for pandas each time, in vain: 0.1 ms."""
    held = np.ascontiguousarray(rows, dtype=np.int64)
    return pa.Int64Array.from_buffers(pa.int64(), len(held), [None, pa.py_buffer(held)])


def _flags(mask: npt.NDArray[np.bool_]) -> pa.BooleanArray:
    packed = np.packbits(mask, bitorder="little")
    return pa.BooleanArray.from_buffers(pa.bool_(), len(mask), [None, pa.py_buffer(packed)])
