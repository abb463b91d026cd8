"""Pseudonyms of the erased: kept, sealed, until every partner has acknowledged their opt-out.

A pseudonym toward a partner is computed from the person's identifiers when it is sent. Erasing the person
destroys those, so for what a partner has not acknowledged the pseudonyms are computed one last time and
sealed beside the waiting row. They go when the row is acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consent.encoding import canonical_json, parse_json
from consent.peers import PairKeys
from consent.proofs import from_base64, to_base64
from consent.recording import IDENTIFIERS
from consent.store import LedgerTransaction
from consent.subjects import SubjectVault, pair_pseudonyms, unpack_identifiers

__all__ = ["freeze_pseudonyms", "open_pseudonyms"]

_LARGEST = 64 << 20  # bytes


def freeze_pseudonyms(
    tx: LedgerTransaction, vault: SubjectVault, pair_keys: PairKeys | None, subject: bytes
) -> int:
    """To be called in the transaction that erases `subject`, before its row goes; returns the rows sealed.

    Rows for a partner with whom no key is shared any more cannot be told to anybody and are left alone.
    """
    waiting: dict[str, list[int]] = {}
    for row in tx.undelivered(subject):
        waiting.setdefault(row.partner, []).append(row.seq)
    known = tx.subjects([subject]).get(subject) if waiting else None
    if known is None:
        return 0
    key = vault.unwrap(subject, known.wrapped_key)
    identifiers = unpack_identifiers(vault.open(key, subject, IDENTIFIERS, known.identifiers))
    done = 0
    for partner, seqs in waiting.items():
        pair_key = pair_keys.pair_key(partner) if pair_keys else None
        if pair_key:
            tx.freeze(partner, seqs, vault.seal_system(_pack(pair_pseudonyms(pair_key, identifiers))))
            done += len(seqs)
    return done


def open_pseudonyms(vault: SubjectVault, sealed: bytes) -> dict[str, list[bytes]]:
    """Kind → pseudonyms, as `consent.subjects.pair_pseudonyms` gave them."""
    body = parse_json(vault.open_system(sealed), limit=_LARGEST)
    return {kind: [from_base64(p, size=32) for p in found] for kind, found in body.items()}


def _pack(pseudonyms: Mapping[str, Sequence[bytes]]) -> bytes:
    return canonical_json({kind: [to_base64(p) for p in found] for kind, found in pseudonyms.items()})
