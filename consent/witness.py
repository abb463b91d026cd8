"""This node as a witness of other logs (c2sp.org/tlog-witness).

A log sends its new checkpoint with a proof that it extends the one cosigned last; the witness checks that,
remembers the checkpoint, and only then answers with its cosignature. `judge` is the decision alone, without
storage or clock; `Witness` makes it inside one write transaction, so that of two requests at the same time
one sees what the other has stored.

Only known logs are witnessed: those of partners, the feed logs that partners keep for this node, and logs
that the node's trust policy names.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from http import HTTPStatus

from consent.checkpoint import Checkpoint, checkpoint_origin, open_checkpoint
from consent.cosignatures import Cosigner, add_signatures, cosign
from consent.errors import InvalidNote, InvalidProof
from consent.feed_log import feed_origin
from consent.merkle import EMPTY_ROOT, HASH_SIZE, verify_consistency
from consent.notes import MAX_NOTE, VerifierKey, decode_base64, open_note, parse_signatures
from consent.rows import WitnessedRow
from consent.split_views import FORK, UNPROVEN, SplitViews
from consent.store import LedgerStore, LedgerView
from consent.trust_policy import TrustPolicy
from privacy.errors import BadInput

__all__ = [
    "MAX_REQUEST",
    "SIZE_TYPE",
    "AddCheckpoint",
    "Answer",
    "Judgement",
    "KnownLogs",
    "Witness",
    "WitnessStore",
    "judge",
]

MAX_PROOF = 63
MAX_REQUEST = 64 + MAX_PROOF * 45 + MAX_NOTE  # bytes
SIZE_TYPE = "text/x.tlog.size"
TEXT_TYPE = "text/plain; charset=utf-8"
_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})", re.ASCII)
_FRESH = 60  # seconds in which the same checkpoint gets the same cosignature, without another write


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """The body of `add-checkpoint`: the size the log believes the witness has, the proof, the checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    note: str

    def to_bytes(self) -> bytes:
        lines = [f"old {self.old}", *(base64.b64encode(item).decode() for item in self.proof)]
        return ("\n".join(lines) + "\n\n" + self.note).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> AddCheckpoint:
        """Raises BadInput for anything that is not exactly such a body."""
        malformed = BadInput("This is not an add-checkpoint request.", code="malformed_request")
        if len(data) > MAX_REQUEST:
            raise BadInput("An add-checkpoint request is not so large.", code="too_large")
        head, blank, note = data.partition(b"\n\n")
        try:
            first, *lines = head.decode("ascii").split("\n")
            text = note.decode("utf-8")
            proof = tuple(decode_base64(line) for line in lines[: MAX_PROOF + 1])
        except (ValueError, binascii.Error):
            raise malformed from None
        match = _OLD.fullmatch(first)
        if (
            match is None
            or not blank
            or len(lines) > MAX_PROOF
            or any(len(item) != HASH_SIZE for item in proof)
            or int(match[1]) >= 1 << 63
        ):
            raise malformed
        return cls(int(match[1]), proof, text)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules say of one request. `split` names the kind of contradiction it shows, if it does."""

    status: HTTPStatus
    reason: str = ""
    split: str = ""


def judge(request: AddCheckpoint, checkpoint: Checkpoint, latest: WitnessedRow | None) -> Judgement:
    """The checks of the protocol, in its order, for a checkpoint whose signature has been verified.

    `latest` is what was cosigned last for this origin. The answer OK obliges the caller to persist first.
    """
    size, root = (latest.size, latest.root) if latest is not None else (0, EMPTY_ROOT)
    # Whatever else is wrong with the request: two signed roots of one size are what no honest log has.
    split = FORK if latest is not None and checkpoint.size == size and checkpoint.root != root else ""
    if request.old > checkpoint.size:
        return Judgement(HTTPStatus.BAD_REQUEST, "The old size is larger than the checkpoint's.", split)
    if request.old != size:
        return Judgement(HTTPStatus.CONFLICT, "", split)
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        return Judgement(HTTPStatus.UNPROCESSABLE_ENTITY, "The empty tree has another root.", split)
    if request.old == 0:
        if request.proof:
            return Judgement(HTTPStatus.UNPROCESSABLE_ENTITY, "From the empty tree no proof is needed.")
        return Judgement(HTTPStatus.OK)
    try:
        verify_consistency(request.old, checkpoint.size, root, checkpoint.root, request.proof)
    except InvalidProof:
        reason = "The checkpoint is not shown to extend the one cosigned last."
        return Judgement(HTTPStatus.UNPROCESSABLE_ENTITY, reason, split or UNPROVEN)
    return Judgement(HTTPStatus.OK)


class KnownLogs:
    """Which keys may sign for which origin, read anew for each question: partners come and go."""

    def __init__(self, store: LedgerStore, own: VerifierKey, policy: TrustPolicy | None = None) -> None:
        self._store = store
        self._own = own
        self._policy = policy or TrustPolicy()

    def keys(self, origin: str) -> tuple[VerifierKey, ...]:
        """Empty for an origin that is not known. This node is no witness of its own log."""
        if origin == self._own.name:
            return ()
        found = list(self._policy.log_keys(origin))
        for name, key in self._partners(origin):
            if origin in (key.name, name) and (again := VerifierKey(origin, key.public)) not in found:
                found.append(again)
        return tuple(found)

    def public(self, origin: str) -> bool:
        """Whether anybody may ask for what was cosigned: the length of a feed log is the partner's affair."""
        return all(origin != feed for feed, _ in self._partners(origin))

    def _partners(self, origin: str) -> list[tuple[str, VerifierKey]]:
        """(feed log, key of the main log) of the partners whom `origin` may belong to."""
        with self._store.read() as view:
            rows = [row for row in view.partners() if row.removed_at is None]
        keys = [VerifierKey.from_text(row.vkey) for row in rows]
        return [(feed_origin(k.name, self._own.name), k) for k in keys if origin.startswith(k.name)]


class WitnessStore:
    """What this node has cosigned."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    def latest(self, origin: str) -> WitnessedRow | None:
        """The newest checkpoint cosigned for the log of this origin."""
        with self._store.read() as view:
            return view.witnessed(origin)

    def all(self) -> list[WitnessedRow]:
        """The newest one of every log, ordered by origin."""
        with self._store.read() as view:
            return view.all_witnessed()


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: HTTPStatus
    body: bytes = b""
    content_type: str = TEXT_TYPE


class Witness:
    """Answers `add-checkpoint` and the monitors' question. Thread-safe, on several processes at once."""

    def __init__(
        self,
        store: LedgerStore,
        signer: Cosigner,
        known: KnownLogs,
        split_views: SplitViews,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self.key = signer.key
        self.store = WitnessStore(store)
        self._store = store
        self._signer = signer
        self._known = known
        self._split_views = split_views
        self._clock = clock

    def add_checkpoint(self, body: bytes) -> Answer:
        """The whole call; whatever the body holds, the answer is one that the protocol knows.

        Raises StorageError when nothing could be persisted; nothing is cosigned then.
        """
        try:
            request = AddCheckpoint.from_bytes(body)
            origin = checkpoint_origin(request.note)
        except (BadInput, InvalidNote) as error:
            return _refused(HTTPStatus.BAD_REQUEST, error.detail)
        keys = self._known.keys(origin)
        if not keys:
            return _refused(HTTPStatus.NOT_FOUND, "This log is not known here.")
        try:
            signed_by = [key for key in keys if key in open_note(request.note, keys).signed_by]
        except InvalidNote as error:
            return _refused(HTTPStatus.FORBIDDEN, error.detail)
        try:
            checkpoint = open_checkpoint(request.note, signed_by)
        except InvalidNote as error:
            return _refused(HTTPStatus.BAD_REQUEST, error.detail)
        bare = replace(checkpoint, text=_only(checkpoint, signed_by))
        with self._store.read() as view:
            # Looked at before the write lock is asked for, which everything that records waits on.
            answer, contradiction = self._look(view, request, bare)
        if answer is None:
            with self._store.write() as tx:
                answer, contradiction = self._look(tx, request, bare)
                if answer is None:
                    answer, row = self._accept(bare, tx.witnessed(origin))
                    tx.put_witnessed(row)
        if contradiction is not None:
            self._split_views.keep(origin, *contradiction)
        return answer

    def _look(
        self, view: LedgerView, request: AddCheckpoint, checkpoint: Checkpoint
    ) -> tuple[Answer | None, tuple[str, str, str] | None]:
        """The answer that needs nothing written, None where the checkpoint is to be accepted.

        And a contradiction that the request shows: its kind, the earlier checkpoint, this one.
        """
        latest = view.witnessed(checkpoint.origin)
        judged = judge(request, checkpoint, latest)
        split = None
        if judged.split and latest is not None:
            split = (judged.split, latest.checkpoint, checkpoint.text)
        if judged.status is HTTPStatus.CONFLICT:
            size = latest.size if latest is not None else 0
            return Answer(judged.status, b"%d\n" % size, SIZE_TYPE), split
        if judged.status is not HTTPStatus.OK:
            return _refused(judged.status, judged.reason), split
        if latest is None or latest.size != checkpoint.size or self._now() - latest.seconds >= _FRESH:
            return None, None
        lines = open_note(latest.checkpoint, [self.key]).signatures
        mine = [line.to_line() for line in lines if line.name == self.key.name]
        return Answer(HTTPStatus.OK, "".join(mine).encode()), None

    def _accept(self, checkpoint: Checkpoint, latest: WitnessedRow | None) -> tuple[Answer, WitnessedRow]:
        seconds = max(self._now(), latest.seconds if latest is not None else 1)
        made = cosign(checkpoint, self._signer, seconds)
        text = add_signatures(checkpoint.text, [made.signature])
        row = WitnessedRow(checkpoint.origin, checkpoint.size, checkpoint.root, text, seconds)
        return Answer(HTTPStatus.OK, made.to_line().encode()), row

    def _now(self) -> int:
        return int(self._clock().timestamp())

    def checkpoint(self, origin_hash: str) -> str | None:
        """The newest cosigned checkpoint of the log whose origin has this SHA-256 (hex, lower case)."""
        for row in self.store.all():
            if sha256(row.origin.encode()).hexdigest() == origin_hash:
                return row.checkpoint if self._known.public(row.origin) else None
        return None


def _only(checkpoint: Checkpoint, keys: Sequence[VerifierKey]) -> str:
    """The note with the log's own signatures alone: what strangers added to it is not kept."""
    wanted = {(key.name, key.key_id) for key in keys}
    signatures = parse_signatures(checkpoint.text[len(checkpoint.body) + 1 :])
    lines = {s.to_line(): None for s in signatures if (s.name, s.key_id) in wanted}
    return checkpoint.body + "\n" + "".join(lines)


def _refused(status: HTTPStatus, reason: str) -> Answer:
    return Answer(status, f"{reason}\n".encode())
