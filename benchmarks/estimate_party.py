"""One party of Comity's `estimate`: from a Parquet of any size to an interval, over a loopback socket."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from loopback import Stages, meet, own_things, party_arguments

from clean_room.datasets import Catalogue
from clean_room.group import BlindingPool
from clean_room.protocols import cardinality, receive
from clean_room.protocols.sampling import SamplingKey, factor_of, planned_step, rate_of, sampled_interval
from clean_room.protocols.terms import EstimateTerms
from clean_room.samples import Sampler, draw
from privacy.identifiers import Kind, canonical_column
from privacy.noise import half_width_for, truncated_discrete_laplace


def main() -> None:
    """Connect, warm up, wait for the start, draw, run, report."""
    parser = party_arguments()
    parser.add_argument("--pair-key", required=True, help="hex; that of both nodes")
    parser.add_argument("--rows", type=int, required=True, help="own rows, from which the rate is planned")
    given = parser.parse_args()
    source = Path(given.input)
    text = f'[datasets.people]\nsource = "{source.name}"\nkeys = {{ email = "email" }}'
    dataset = Catalogue.parse(text, base=source.parent)["people"]
    wire, attestation = meet(given)
    half = half_width_for(given.epsilon, given.delta)
    key = SamplingKey.derive(bytes.fromhex(given.pair_key), "00" * 32, "2026-11")
    sampler = Sampler.of(key, rate_of(planned_step(given.rows, minimum=1000, noise=half)))
    terms = EstimateTerms(
        job="benchmark", purpose="overlap.reach", analyst="a", contributor="c",
        dummies=2 * half, epsilon=given.epsilon, delta=given.delta,
        step=sampler.step, period=key.period, sample=key.id,
    )  # fmt: skip
    value = interval = noise = None
    with BlindingPool(given.workers, engine=given.engine) as pool:
        pool.warm()
        stages = Stages()
        wire.sent = 0
        extract, facts = draw(dataset, sampler, kind="email", profile=terms.profile)
        stages.mark("sample")
        people = canonical_column(Kind.EMAIL, extract.keys, terms.profile).values.drop_null().unique()
        own = own_things(pool, attestation)
        if given.role == "analyst":
            state, message = cardinality.start(terms, [people], **own)
            wire.send(message)
            state, message = receive(state, wire.next())
            wire.send(message)
            state, _ = receive(state, wire.next())
            count = int(state.counts[0, 0])
            state, message = state.seal()
            wire.send(message)
            receive(state, wire.next())
            value = round(count * factor_of(facts)[0])
            interval = sampled_interval(count, half, facts)
        else:
            noise = int(truncated_discrete_laplace(1 / given.epsilon, half, 1)[0])
            matching = np.array([[half + noise]])
            state, message = cardinality.answer(wire.next(), terms, [people], matching=matching, **own)
            wire.send(message)
            state = state.prepared()
            state, message = receive(state, wire.next())
            wire.send(message)
            state, message = receive(state, wire.next())
            wire.send(message)
        stages.mark("overlap of the sample")
        answer = {
            "value": value, "ci95": interval, "noise": noise, "sent": wire.sent, "engine": pool.engine,
            "rate": facts.rate, "rows": facts.rows, "sampled": len(people), "stages": stages.seconds(),
        }  # fmt: skip
        print(json.dumps(answer), flush=True)
    wire.connection.close()


if __name__ == "__main__":
    main()
