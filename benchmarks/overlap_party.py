"""One party of Comity's `overlap` or `measure`, from Parquet to result, over a loopback socket.

The protocol is the real one: canonical form, RFC 9380 hashing, both blindings, dummies drawn for ε and δ,
padding, shuffles, signatures over offer, accept and transcript; for `measure` one column, encrypted, masked,
smudged and noised. Not in it: the node (HTTP, jobs, the consent gate), which is measured where it runs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from loopback import Stages, Wire, meet, own_things, party_arguments

from clean_room.cached_pool import CachedPool
from clean_room.group import BlindingPool
from clean_room.point_cache import PointCache, PointSet
from clean_room.protocols import MeasureTerms, OverlapTerms, cardinality, receive, sums
from clean_room.protocols.terms import ColumnTerms
from privacy.identifiers import Kind, canonical_column
from privacy.keys import KeyRing
from privacy.noise import discrete_laplace, half_width_for, truncated_discrete_laplace

COLUMN = ColumnTerms(name="spend", lower=0, upper=100_000, scale=100)


def main() -> None:
    """Connect, warm up, wait for the start, run, report."""
    parser = party_arguments()
    parser.add_argument("--points", type=Path, help="own hashed points are kept there, and filled in first")
    parser.add_argument("--measure", action="store_true", help="also sum the contributor's column")
    given = parser.parse_args()
    wire, attestation = meet(given)
    half = half_width_for(given.epsilon, given.delta)
    shared: dict[str, Any] = {
        "job": "benchmark", "purpose": "overlap.reach", "analyst": "a", "contributor": "c",
        "dummies": 2 * half, "epsilon": given.epsilon, "delta": given.delta,
    }  # fmt: skip
    terms = MeasureTerms(**shared, columns=(COLUMN,)) if given.measure else OverlapTerms(**shared)
    with BlindingPool(given.workers, engine=given.engine) as pool:
        pool.warm()
        if given.measure:
            import clean_room.encryption  # noqa: F401 loaded before the clock starts
        kept = None if given.points is None else points_kept(given.points, given.input, pool)
        stages = Stages()
        wire.sent = 0
        names = ["email", "spend"] if given.measure and given.role == "contributor" else ["email"]
        table = pq.read_table(given.input, columns=names)
        column = canonical_column(Kind.EMAIL, table["email"]).values
        people = column.drop_null().unique()
        if given.measure and len(people) != len(column):
            raise SystemExit("The people of a measure are given once each.")
        values = COLUMN.fixed_point(table["spend"].to_numpy()) if "spend" in names else None
        del table, column
        stages.mark("read")
        own = own_things(pool if kept is None else CachedPool(pool, kept, [people]), attestation)
        if given.role == "analyst":
            answer = ask(terms, people, own, wire, stages)
        else:
            noise = int(truncated_discrete_laplace(1 / given.epsilon, half, 1)[0])
            own["matching"] = np.array([[half + noise]])
            more = {"values": values, "epsilon": given.epsilon}
            answer = {"noise": noise} | contribute(terms, people, own, wire, stages, **more)
        stages.mark("seal")
        answer |= {"sent": wire.sent, "engine": pool.engine, "stages": stages.seconds()}
        print(json.dumps(answer), flush=True)
    wire.connection.close()


def points_kept(folder: Path, source: str, pool: BlindingPool) -> PointSet:
    """The sealed points of everybody in the file, hashed before the clock starts, as by an earlier query."""
    keyring = KeyRing.create(folder / "ring")
    cache = PointCache(folder / "points", keyring, today=lambda: 20_000, random=os.urandom)
    people = canonical_column(Kind.EMAIL, pq.read_table(source, columns=["email"])["email"]).values
    points = cache.set_of("people", "email", "comity-1")
    points.points(people.drop_null().unique(), pool.hash)
    return points


def ask(terms: OverlapTerms, people: Any, own: dict[str, Any], wire: Wire, stages: Stages) -> dict[str, Any]:
    """The analyst."""
    state, message = cardinality.start(terms, [people], **own)
    wire.send(message)
    state, message = receive(state, wire.next())
    stages.mark("own points")
    wire.send(message)
    message = wire.next()
    stages.mark("waiting")
    state, _ = receive(state, message)
    stages.mark("partner's points and join")
    answer = {"value": int(state.counts[0, 0])}
    if isinstance(terms, MeasureTerms):
        message = wire.next()
        stages.mark("waiting for columns")
        state, message = receive(state, message)
        stages.mark("masking")
        wire.send(message)
        state, _ = receive(state, wire.next())
        stages.mark("sums decrypted there")
        answer["sum"] = float(state.sums[0, 0, 0]) / COLUMN.scale
    state, message = state.seal()
    wire.send(message)
    receive(state, wire.next())
    return answer


def contribute(
    terms: OverlapTerms,
    people: Any,
    own: dict[str, Any],
    wire: Wire,
    stages: Stages,
    *,
    values: Any,
    epsilon: float,
) -> dict[str, Any]:
    """The contributor."""
    answer: dict[str, Any] = {"value": None}
    state, message = cardinality.answer(wire.next(), terms, [people], **own)
    wire.send(message)
    state = state.prepared()
    stages.mark("own points")
    message = wire.next()
    stages.mark("waiting")
    state, message = receive(state, message)
    stages.mark("partner's points")
    if values is None:
        wire.send(message)
    else:
        # As the node sends them: both once the columns are encrypted.
        state, columns = sums.offer_values(state, [[values]])
        stages.mark("encrypting")
        wire.send(message)
        wire.send(columns)
        noise = discrete_laplace(COLUMN.magnitude / epsilon, 1)
        message = wire.next()
        stages.mark("waiting for masks")
        state, message = receive(state, message, noise=np.array(noise).reshape(1, 1, 1))
        stages.mark("decrypting")
        wire.send(message)
        answer["sum_noise"] = noise[0] / COLUMN.scale
    state, message = receive(state, wire.next())
    wire.send(message)
    return answer


if __name__ == "__main__":
    main()
