"""The ground floor: identifiers, pseudonyms, keys, detection, masking, noise and the ε ledger.

Two partners write the same person in the same way, and neither shows the other who it is:

>>> import pyarrow as pa
>>> from privacy import KeyRing, Pseudonymiser, canonical, canonical_column
>>> canonical("phone", "138-0013-8000"), canonical("email", " Li.Lei+shop@Gmail.com ")
(b'+8613800138000', b'lilei@gmail.com')
>>> column = canonical_column("phone", pa.array(["+86 138 0013 8000", "８６１３８００１３８０００", "n/a"]))
>>> dict(column.rejected)
{'not_a_number': 1}
>>> ring = KeyRing.from_root(bytes(32))  # for the example; KeyRing.create(path) makes a secret one
>>> key = ring.derive("pseudonym", "customer")
>>> tokens = Pseudonymiser(key, purpose="mask", domain="phone").tokens(column.values).to_pylist()
>>> tokens[0] == tokens[1], tokens[0][:3], tokens[2]
(True, 't1_', None)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privacy.budget import AuditSink, BudgetKey, BudgetLedger, BudgetStatus, Cost
    from privacy.identifiers import (
        PROFILES,
        CanonicalColumn,
        Kind,
        Profile,
        Rejected,
        canonical,
        canonical_column,
        match_key,
    )
    from privacy.keys import KeyManagement, KeyRing
    from privacy.noise import discrete_gaussian, discrete_laplace, half_width_for, truncated_discrete_laplace
    from privacy.pseudonyms import Pseudonymiser
    from privacy.signing import PublicKey, SigningKey

__all__ = [
    "PROFILES",
    "AuditSink",
    "BudgetKey",
    "BudgetLedger",
    "BudgetStatus",
    "CanonicalColumn",
    "Cost",
    "KeyManagement",
    "KeyRing",
    "Kind",
    "Profile",
    "Pseudonymiser",
    "PublicKey",
    "Rejected",
    "SigningKey",
    "canonical",
    "canonical_column",
    "discrete_gaussian",
    "discrete_laplace",
    "half_width_for",
    "match_key",
    "truncated_discrete_laplace",
]

# Names are fetched when first asked for: every room imports `privacy.errors` through this package, and a
# command should not load the phone number tables and the noise library to say what went wrong.
_HOME = {
    "PROFILES": "identifiers",
    "AuditSink": "budget",
    "BudgetKey": "budget",
    "BudgetLedger": "budget",
    "BudgetStatus": "budget",
    "CanonicalColumn": "identifiers",
    "Cost": "budget",
    "KeyManagement": "keys",
    "KeyRing": "keys",
    "Kind": "identifiers",
    "Profile": "identifiers",
    "Pseudonymiser": "pseudonyms",
    "PublicKey": "signing",
    "Rejected": "identifiers",
    "SigningKey": "signing",
    "canonical": "identifiers",
    "canonical_column": "identifiers",
    "discrete_gaussian": "noise",
    "discrete_laplace": "noise",
    "half_width_for": "noise",
    "match_key": "identifiers",
    "truncated_discrete_laplace": "noise",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
