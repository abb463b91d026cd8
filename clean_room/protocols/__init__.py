"""The private joins as sans-I/O state machines: a step takes a message and returns (next state, message).

Both roles in one process, exact because there are no dummies; in life each runs on a node of its own:

>>> import numpy as np, os, pyarrow as pa
>>> from clean_room.group import BlindingPool, new_scalar
>>> from clean_room.protocols import Attestation, OverlapTerms, cardinality
>>> unsigned = Attestation(sign=lambda context, message: bytes(64), verify=lambda *signed: None)
>>> terms = OverlapTerms(job="1", purpose="overlap.reach", analyst="bank", contributor="shop")
>>> with BlindingPool(workers=0) as pool:
...     own = {"random": os.urandom, "pool": pool, "attestation": unsigned}
...     bank, shop = ({**own, "scalar": new_scalar(os.urandom)} for _ in range(2))
...     a, offer = cardinality.start(terms, [pa.array([b"ada", b"bob"])], **bank)
...     c, accept = cardinality.answer(
...         offer, terms, [pa.array([b"bob", b"eve"])], matching=np.array([[0]]), **shop)
...     a, points = a.accepted(accept)
...     c, returned = c.returned(points)
...     a.joined(returned).counts.tolist()
[[1]]
"""

from __future__ import annotations

from clean_room.protocols import activation, alignment, cardinality, circle, epochs, reach, sums, waterfall
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.messages import MESSAGES, Message, parse_message
from clean_room.protocols.states import Role, expected, receive
from clean_room.protocols.terms import (
    ActivateTerms,
    AlignTerms,
    ColumnTerms,
    EpochTerms,
    EstimateTerms,
    MeasureTerms,
    OverlapTerms,
    Padding,
    PartnerList,
    ReachTerms,
    RefreshTerms,
    Terms,
    WaterfallTerms,
    parse_terms,
)

__all__ = [
    "MESSAGES",
    "ActivateTerms",
    "AlignTerms",
    "Attestation",
    "ColumnTerms",
    "EpochTerms",
    "EstimateTerms",
    "MeasureTerms",
    "Message",
    "OverlapTerms",
    "Padding",
    "PartnerList",
    "ReachTerms",
    "RefreshTerms",
    "Role",
    "Terms",
    "WaterfallTerms",
    "activation",
    "alignment",
    "cardinality",
    "circle",
    "epochs",
    "expected",
    "parse_message",
    "parse_terms",
    "reach",
    "receive",
    "sums",
    "waterfall",
]
