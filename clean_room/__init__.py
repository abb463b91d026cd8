"""The clean room: what two partners may learn about the people they share, and nothing else.

The protocols compute without any I/O; here both roles meet in one process and are exact, because no
dummies are mixed in. On a node, `CleanRoom` adds agreements, consent, budgets, jobs and receipts.

>>> import numpy as np, os, pyarrow as pa
>>> from clean_room import Attestation, BlindingPool, OverlapTerms, cardinality, new_scalar
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

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clean_room.api import create_router
    from clean_room.client import Comity
    from clean_room.collaboration import Collaborations
    from clean_room.datasets import Catalogue
    from clean_room.group import BlindingPool, new_scalar
    from clean_room.protocols import (
        AlignTerms,
        Attestation,
        MeasureTerms,
        OverlapTerms,
        alignment,
        cardinality,
        sums,
    )
    from clean_room.service import CleanRoom
    from clean_room.storage import metadata

__all__ = [
    "AlignTerms",
    "Attestation",
    "BlindingPool",
    "Catalogue",
    "CleanRoom",
    "Collaborations",
    "Comity",
    "MeasureTerms",
    "OverlapTerms",
    "alignment",
    "cardinality",
    "create_router",
    "metadata",
    "new_scalar",
    "sums",
]

# Names are fetched when first asked for: a blinding worker imports this package for the group alone, and
# should not load the web framework and the encryption library with it.
_HOME = {
    "AlignTerms": "protocols",
    "Attestation": "protocols",
    "BlindingPool": "group",
    "Catalogue": "datasets",
    "CleanRoom": "service",
    "Collaborations": "collaboration",
    "Comity": "client",
    "MeasureTerms": "protocols",
    "OverlapTerms": "protocols",
    "alignment": "protocols",
    "cardinality": "protocols",
    "create_router": "api",
    "metadata": "storage",
    "new_scalar": "group",
    "sums": "protocols",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
