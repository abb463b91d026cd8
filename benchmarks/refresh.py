"""`make bench-refresh`: what a refresh in an epoch takes, beside the cold run before it.

    python benchmarks/refresh.py                   1 M people a side, of whom 1 in 100 leaves and as many come
    python benchmarks/refresh.py --people 20000    fewer

Both parties in one process, one after the other, from columns of canonical identifiers to the signed result;
reading what the run before has left and writing what this one leaves, sealed, is in every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clean_room.group import BlindingPool, new_scalar
from clean_room.protocols import Attestation, EpochTerms, RefreshTerms, epochs, receive
from clean_room.protocols.epoch_states import AnalystEpoch, ContributorEpoch
from clean_room.sealed_files import SealedFolder
from privacy.keys import KeyRing
from privacy.noise import half_width_for, truncated_discrete_laplace

UNSIGNED = Attestation(sign=lambda *_: bytes(64), verify=lambda *_: None)


def people(first: int, last: int) -> pa.BinaryArray:
    """Addresses of a range of people."""
    return pa.array([f"{n * 2654435761 % 2**32:08x}.{n}@example.org".encode() for n in range(first, last)])


class Parties:
    """Both sides of one epoch, each with a folder of its own."""

    def __init__(self, folder: Path, given: argparse.Namespace, pool: BlindingPool) -> None:
        self._pool, self._epsilon = pool, given.epsilon
        self._half = half_width_for(given.epsilon, given.delta)
        self._files = SealedFolder(folder / "epochs", KeyRing.create(folder / "ring"), "epoch", ".sealed")
        self._generation = 0

    def run(self, mine: Any, theirs: Any) -> dict[str, Any]:
        """One run: seconds, bytes sent both ways, the count."""
        began = time.perf_counter()
        shared: dict[str, Any] = {
            "job": "j", "purpose": "p", "analyst": "a", "contributor": "c",
            "dummies": 2 * self._half, "epsilon": self._epsilon,
        }  # fmt: skip
        cold = self._generation == 0
        terms = EpochTerms(**shared) if cold else RefreshTerms(**shared, epoch="j", number=self._generation)
        left = [self._files.load(name) for name in ("a", "c")]
        noise = None
        if cold:
            drawn = truncated_discrete_laplace(1 / self._epsilon, self._half, terms.pairs)
            noise = np.asarray(drawn) + self._half
        own: dict[str, Any] = {"random": os.urandom, "pool": self._pool, "attestation": UNSIGNED}
        a, offer = epochs.start(
            terms, [mine], scalar=new_scalar(os.urandom),
            held=None if left[0] is None else AnalystEpoch.from_bytes(left[0]), **own,
        )  # fmt: skip
        c, accept = epochs.answer(
            offer, terms, [theirs], scalar=new_scalar(os.urandom), matching=noise,
            held=None if left[1] is None else ContributorEpoch.from_bytes(left[1]), **own,
        )  # fmt: skip
        state: Any
        state, change = receive(a, accept)
        c, reply = receive(c, change)  # type: ignore[arg-type]
        joined, _ = receive(state, reply)  # type: ignore[arg-type]
        sealing, seal = joined.seal()
        _, last = receive(c, seal)
        receive(sealing, last)  # type: ignore[arg-type]
        for name, held in (("a", joined.held), ("c", c.held)):
            self._files.save(name, held.to_bytes())
        self._generation += 1
        sent = sum(len(m.to_bytes()) for m in (change, reply))  # type: ignore[union-attr]
        return {"seconds": time.perf_counter() - began, "bytes": sent, "count": int(joined.counts[0, 0])}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=1_000_000, metavar="N", help="people a side")
    parser.add_argument(
        "--change", type=float, default=0.01, help="share that leaves, and comes, on each side"
    )
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--delta", type=float, default=1e-6)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="blinding processes")
    parser.add_argument("--engine", default="auto", help="auto, cryptography or ipp")
    parser.add_argument("--json", type=Path, help="write every figure there")
    given = parser.parse_args()
    n, moved = given.people, round(given.people * given.change)
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="comity-bench-") as name,
        BlindingPool(given.workers, engine=given.engine) as pool,
    ):
        pool.warm()
        parties = Parties(Path(name), given, pool)
        for generation in range(3):
            start = generation * moved
            rows.append(parties.run(people(start, n + start), people(n // 2 + start, n // 2 + n + start)))
            row = rows[-1] | {"of_cold": rows[-1]["seconds"] / rows[0]["seconds"], "truth": n - n // 2}
            rows[-1] = row
            kind = f"refresh {generation}" if generation else "cold run"
            print(
                f"{kind:<10} {row['seconds']:8.2f} s  {row['of_cold']:7.2%} of cold  {row['bytes'] / n:7.1f} "
                f"bytes a person  counted {row['count']:,} of {row['truth']:,}",
                flush=True,
            )
    if given.json:
        given.json.write_text(json.dumps({"engine": pool.engine, "people": n, "runs": rows}, indent=1))


if __name__ == "__main__":
    main()
