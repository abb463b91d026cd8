"""Which e-mail addresses of a column are canonical but for case and spaces around, told without a parser.

`canonical_column` decides about every address; this only says for which of them the answer can be nothing
but the address trimmed and in small letters, or a rejection. Where most rows are to be thrown away anyway,
as in drawing a sample, that is enough, and costs a tenth.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from privacy.errors import Misuse
from privacy.identifiers import PROFILES, Profile

__all__ = ["plain_addresses"]

_LOWEST, _HIGHEST, _HYPHEN = 0x21, 0x7E, 0x2D
_ENDING = b"mail.com"
"""How every domain whose owner ignores dots ends; checked against the profiles when this is loaded."""
if any(not d.encode().endswith(_ENDING) for p in PROFILES.values() for d in p.dotless_domains):
    raise RuntimeError("a profile ignores dots at a domain that is not looked for here")


def plain_addresses(text: pa.StringArray, profile: str) -> tuple[pa.StringArray, npt.NDArray[np.bool_]]:
    """The column trimmed and lowered, and where `canonical` gives exactly that, or rejects.

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
        sure[_dotted(written, flat, bounds[1:].astype(np.int64), rules)] = False
    return written, sure


def _dotted(
    written: pa.StringArray, flat: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64], rules: Profile
) -> npt.NDArray[np.int64]:
    """Rows that lose something because the owner of their domain ignores dots and +tags."""
    width = len(_ENDING)
    if len(flat) < width:
        return np.empty(0, dtype=np.int64)
    anywhere = np.lib.stride_tricks.as_strided(
        flat[:width].view("<u8"), shape=(len(flat) - width + 1,), strides=(1,)
    )
    found = anywhere[np.maximum(ends - width, 0)] == np.frombuffer(_ENDING, dtype="<u8")[0]
    rows = np.flatnonzero(found)
    some = written.take(pa.array(rows))
    changed = np.zeros(len(rows), dtype=np.bool_)
    for domain in sorted(rules.dotless_domains):
        there = pc.ends_with(some, "@" + domain)
        if rules.dotless_becomes in (None, domain):
            local = pc.utf8_slice_codeunits(some, 0, -(len(domain) + 1))
            there = pc.and_(there, pc.match_substring_regex(local, "[.+]"))
        changed |= there.to_numpy(zero_copy_only=False)
    return rows[changed]
