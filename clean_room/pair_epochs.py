"""The publisher's side of PAIR over time: a key and a salt for each partner, sealed on disk.

Publisher ids are the same in every run under one key and salt, which is what makes them of use to the
publisher, and what lets a partner tell that somebody is the same as in an earlier run. So neither lives long:
the key at most 180 days, the salt at most 30 (PAIR 1.x), each replaced a day before, so that a run that
begins in an epoch ends in it. A new salt changes every id just as a new key does.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from clean_room.group.points import Random
from clean_room.group.ristretto import SALT, new_key
from clean_room.sealed_files import SealedFiles
from consent.encoding import canonical_json, parse_json
from privacy.errors import Tampered
from privacy.keys import KeyRing

__all__ = ["KEY_LIFE", "SALT_LIFE", "PairEpoch", "PairEpochs"]

KEY_LIFE = timedelta(days=180)
SALT_LIFE = timedelta(days=30)
_MARGIN = timedelta(days=1)
_LIMIT = 1 << 12


@dataclass(frozen=True, slots=True)
class PairEpoch:
    """Key and salt of one partner, 32 bytes each, and since when they are in use."""

    key: bytes = field(repr=False)
    salt: bytes = field(repr=False)
    key_since: datetime
    salt_since: datetime

    @property
    def secrets(self) -> bytes:
        """Key ‖ salt."""
        return self.key + self.salt


class PairEpochs:
    """Epochs by partner. Thread-safe; one running instance a folder."""

    def __init__(
        self, folder: Path, keyring: KeyRing, *, clock: Callable[[], datetime], random: Random
    ) -> None:
        self._files = SealedFiles(folder, keyring, "pair")
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()

    def current(self, partner: str) -> PairEpoch:
        """The epoch of now: begun with the first call, renewed where its time is over. Raises `Tampered`."""
        with self._lock:
            kept = self._load(partner)
            now = self._clock()
            if kept is None or now - kept.key_since >= KEY_LIFE - _MARGIN:
                return self._begin(partner, now)
            if now - kept.salt_since >= SALT_LIFE - _MARGIN:
                return self._save(partner, PairEpoch(kept.key, self._random(SALT), kept.key_since, now))
            return kept

    def rotate(self, partner: str) -> PairEpoch:
        """A new key and a new salt, from the next run on; ids made before cannot be linked to later ones."""
        with self._lock:
            return self._begin(partner, self._clock())

    def forget(self, partner: str) -> None:
        """Destroy key and salt; nobody can compute these ids again."""
        with self._lock:
            self._files.discard(_name(partner))

    def _begin(self, partner: str, now: datetime) -> PairEpoch:
        return self._save(partner, PairEpoch(new_key(self._random), self._random(SALT), now, now))

    def _save(self, partner: str, epoch: PairEpoch) -> PairEpoch:
        document = {
            "key": epoch.key.hex(),
            "salt": epoch.salt.hex(),
            "key_since": epoch.key_since.isoformat(),
            "salt_since": epoch.salt_since.isoformat(),
        }
        self._files.save(_name(partner), canonical_json(document))
        return epoch

    def _load(self, partner: str) -> PairEpoch | None:
        content = self._files.load(_name(partner))
        if content is None:
            return None
        document = parse_json(content, limit=_LIMIT)
        try:
            return PairEpoch(
                bytes.fromhex(document["key"]),
                bytes.fromhex(document["salt"]),
                datetime.fromisoformat(document["key_since"]),
                datetime.fromisoformat(document["salt_since"]),
            )
        except (KeyError, TypeError, ValueError):
            raise Tampered("the key kept for activations cannot be read.") from None


def _name(partner: str) -> str:
    return hashlib.sha256(b"comity/pair-epoch/v1\n" + partner.encode()).hexdigest()[:32]
