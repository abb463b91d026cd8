"""The HTTP edge of the ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["Guards"]


class Guards(Protocol):
    """FastAPI dependencies that establish who calls; the roof supplies them."""

    def role(self, *roles: str) -> Callable[..., str]:
        """A dependency that returns the principal's name, or answers 401 or 403.

        Roles: analyst, data_steward, compliance_officer, admin; admin always passes.
        """
        ...

    def partner(self) -> Callable[..., str]:
        """A dependency that returns the authenticated partner's name.

        The request's signature and body digest have been verified by then, and a replay refused.
        """
        ...
