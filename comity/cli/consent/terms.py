"""The options of a decision that say under which terms it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from consent.terms import ConsentTerms

__all__ = ["ConsentForm", "Country", "Jurisdiction", "Language", "Notice", "Recipients", "Route", "terms_of"]

Notice = Annotated[
    str | None, typer.Option(help="The notice that was shown, by its name in the policy.", show_default=False)
]
Language = Annotated[
    str | None, typer.Option(help="The language it was shown in, as in zh.", show_default=False)
]
Jurisdiction = Annotated[
    str | None, typer.Option(help="The law it is held to: CN, DE, US-CA, ….", show_default=False)
]
ConsentForm = Annotated[
    str | None, typer.Option("--consent-type", help="explicit, separate or written.", show_default=False)
]
Recipients = Annotated[
    list[str] | None,
    typer.Option("--recipient", help="Who else receives data; repeatable.", show_default=False),
]
Country = Annotated[
    str | None, typer.Option("--transfer-country", help="Where data go, as in SG.", show_default=False)
]
Route = Annotated[
    str | None,
    typer.Option("--transfer-route", help="On which condition, as standard_contract.", show_default=False),
]


def terms_of(
    *,
    notice: str | None,
    language: str | None,
    jurisdiction: str | None,
    consent_type: str | None,
    recipients: list[str] | None,
    country: str | None,
    route: str | None,
) -> ConsentTerms | None:
    """Raises BadInput for what is malformed; None where nothing was said."""
    from consent.terms import ConsentTerms, ConsentType

    if consent_type is not None and consent_type not in set(ConsentType):
        raise typer.BadParameter("is explicit, separate or written", param_hint="--consent-type")
    found = ConsentTerms(
        notice=notice,
        language=language,
        jurisdiction=jurisdiction,
        consent_type=None if consent_type is None else ConsentType(consent_type),
        recipients=tuple(recipients or ()),
        transfer_country=country,
        transfer_route=route,
    )
    return None if found == ConsentTerms() else found
