"""All the agreements a question is under: one, or for a `reach` one with every partner.

No two partners of a reach need to know each other. Each is asked under its own agreement; what all must
have in common, because it is one computation, is checked here before anybody is asked.
"""

from __future__ import annotations

from clean_room.agreement_book import Agreements
from clean_room.agreements import Agreement
from clean_room.jobs import Query
from clean_room.questions import asked_of, asked_under, sources_of
from clean_room.rules import AGREED, Asked
from privacy.errors import Refused

__all__ = ["check_agreed", "panel_of"]


def panel_of(query: Query, agreements_of: Agreements, analyst_key: str) -> tuple[Asked, ...]:
    """The query as each partner is asked it; those of a reach in the order of its ring.

    A reach asks with the least ε that all agreements allow unless it names one. Raises what
    `Agreements.agreement` raises, and Refused (`profile_mismatch`, `rule_mismatch`).
    """
    if query.kind != "reach":
        return (asked_of(query, agreements_of.agreement(query.collaboration), analyst_key),)
    sources = sources_of(query)
    agreements = [agreements_of.agreement(source.collaboration) for source in sources]
    _check_alike(agreements)
    epsilon = query.epsilon
    if epsilon is None:
        epsilon = min(agreement.terms.epsilon_per_query for agreement in agreements)
    return tuple(
        asked_of(asked_under(query, source, epsilon), agreement, analyst_key)
        for source, agreement in zip(sources, agreements, strict=True)
    )


def check_agreed(query: Query, agreements_of: Agreements, analyst_key: str) -> tuple[Asked, ...]:
    """`panel_of`, if every agreement allows it; Refused naming the partner whose does not."""
    panel = panel_of(query, agreements_of, analyst_key)
    for asked in panel:
        try:
            AGREED.check(asked)
        except Refused as error:
            if len(panel) == 1:
                raise
            detail = f"{asked.contributor}: {error.detail}"
            raise type(error)(detail, rule=error.rule, advice=error.advice, code=error.code) from None
    return panel


def _check_alike(agreements: list[Agreement]) -> None:
    if len({agreement.terms.key_profile for agreement in agreements}) > 1:
        raise Refused(
            "the agreements name different key profiles.",
            code="profile_mismatch",
            advice="Agree on one profile with all partners: identifiers normalised differently do not match.",
        )
    if len({agreement.terms.delta_per_query for agreement in agreements}) > 1:
        raise Refused(
            "the agreements state different delta_per_query.",
            code="rule_mismatch",
            advice="Amend them to one δ: the noise of a reach is that of one computation.",
        )
