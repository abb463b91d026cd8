"""Asking a witness for its cosignature (c2sp.org/tlog-witness), as the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from consent.checkpoint import Checkpoint
from consent.cosignatures import Cosignature, CosignerKey, accept_cosignature
from consent.errors import InvalidNote
from consent.witness import SIZE_TYPE, AddCheckpoint
from privacy.errors import PeerViolation

__all__ = ["WitnessConnection", "ask_witness"]

_ATTEMPTS = 3  # one to learn the size, one with it, one where somebody else was faster
_CODES = {
    400: "witness_refused",
    403: "witness_wrong_key",
    404: "witness_unknown_log",
    422: "witness_inconsistent",
}


class WitnessConnection(Protocol):
    """A way to one witness."""

    @property
    def key(self) -> CosignerKey: ...

    def add_checkpoint(self, body: bytes) -> tuple[int, str, bytes]:
        """POST `body` to the witness's `add-checkpoint`; (status, content type, body).

        Raises PeerUnreachable without an answer, PeerViolation for one that is too large.
        """
        ...


def ask_witness(
    witness: WitnessConnection,
    checkpoint: Checkpoint,
    consistency: Callable[[int, int], Sequence[bytes]],
    old: int = 0,
) -> Cosignature:
    """A verified cosignature of `checkpoint`.

    `old` is the size that the witness is thought to have cosigned last; a 409 corrects it.
    `consistency(old, new)` proves. Raises PeerUnreachable, and PeerViolation with the code
    `witness_ahead` (it has cosigned a larger tree of this log than there is: the log was rolled back),
    `witness_inconsistent`, `witness_unknown_log`, `witness_wrong_key`, `witness_refused`, or
    `witness_malformed`.
    """
    old = min(old, checkpoint.size)
    for _ in range(_ATTEMPTS):
        proof = tuple(consistency(old, checkpoint.size)) if old else ()
        request = AddCheckpoint(old, proof, checkpoint.text)
        status, kind, body = witness.add_checkpoint(request.to_bytes())
        if status == 200:
            try:
                return accept_cosignature(checkpoint, body, witness.key)
            except InvalidNote as error:
                raise PeerViolation(error.detail, code="witness_malformed") from error
        if status != 409:
            if status >= 500 or status == 429:
                raise PeerViolation(f"The witness answered {status}.", code="witness_failed")
            code = _CODES.get(status, "witness_refused")
            raise PeerViolation(f"The witness answered {status}.", code=code)
        size = _size(kind, body)
        if size > checkpoint.size:
            raise PeerViolation(
                "The witness has cosigned a larger tree of this log than this one.",
                code="witness_ahead",
                advice="Unless the log has grown meanwhile, it was rolled back: find out before going on.",
            )
        old = size
    raise PeerViolation("The witness names another size each time.", code="witness_malformed")


def _size(kind: str, body: bytes) -> int:
    text = body[:32].decode("ascii", "replace")
    digits = text.removesuffix("\n")
    if (
        kind.partition(";")[0].strip().lower() != SIZE_TYPE
        or not (digits.isascii() and digits.isdigit())
        or str(int(digits)) != digits
        or text == digits
    ):
        raise PeerViolation("The witness answered 409 without a size.", code="witness_malformed")
    return int(digits)
