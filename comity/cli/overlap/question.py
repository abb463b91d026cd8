"""The options that say what is asked, written once for every command that takes a question."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comity.cli.agreed import Collaboration, the_collaboration
from comity.cli.calling import ApiKey, Url
from comity.cli.output import Directory, Json
from privacy.errors import Misuse

if TYPE_CHECKING:
    from clean_room.client import Comity
    from clean_room.schemas import QueryIn

__all__ = ["Question", "takes_question"]


def _options(
    *,
    collaboration: Collaboration = None,
    dataset: Annotated[str, typer.Option("--dataset", help="One of this node's datasets.")],
    partner_dataset: Annotated[
        str, typer.Option("--partner-dataset", help="The dataset of the partner to ask about.")
    ],
    purpose: Annotated[str, typer.Option("--purpose", help="One both agreed to.")] = "overlap.reach",
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="overlap, measure (a partner's column), estimate (very large lists), reach (several "
            "partners), align (row ids) or activate (the partner's encrypted ids).",
        ),
    ] = "overlap",
    key: Annotated[str, typer.Option("--key", help="Identifier to join on: email or phone.")] = "email",
    fallback_keys: Annotated[
        list[str] | None,
        typer.Option("--fallback-key", help="Joined on where the key finds nobody; repeatable."),
    ] = None,
    dimensions: Annotated[
        list[str] | None, typer.Option("--by", help="Split own people by this dimension; repeatable.")
    ] = None,
    partner_dimensions: Annotated[
        list[str] | None,
        typer.Option("--partner-by", help="Split the partner's by this dimension; repeatable."),
    ] = None,
    segment: Annotated[str | None, typer.Option("--segment", help="Only own people in this segment.")] = None,
    partner_segment: Annotated[
        str | None, typer.Option("--partner-segment", help="Only the partner's people in this segment.")
    ] = None,
    column: Annotated[str | None, typer.Option("--column", help="For measure: the partner's column.")] = None,
    statistic: Annotated[
        str, typer.Option("--statistic", help="For measure: mean, sum, count, variance or lift.")
    ] = "mean",
    holdout: Annotated[
        str | None,
        typer.Option("--holdout", help="For lift: the value of the --by dimension left out of the campaign."),
    ] = None,
    sample: Annotated[
        float | None,
        typer.Option(
            "--sample", help="For estimate: the share of people looked at.", show_default="for half a percent"
        ),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="COLLAB:DATASET", help="For reach: a further partner; repeatable."),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="ε to spend.", show_default="the agreement's")
    ] = None,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """The options; never called."""


class Question:
    """What was asked on the command line, and of which node."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        fields = dict(given)
        self.directory: Path = fields.pop("directory")
        self.url: str | None = fields.pop("url")
        self.api_key: str | None = fields.pop("api_key")
        self.as_json: bool = fields.pop("as_json")
        self.collaboration: str | None = fields.pop("collaboration")
        self.kind: str = fields["kind"]
        self._fields = fields

    def query(self, node: Comity) -> QueryIn:
        """The query as the node takes it. Raises `Misuse` naming what this version does not know."""
        from pydantic import ValidationError

        from clean_room.schemas import QueryIn

        fields = dict(self._fields)
        for name in _LISTS:
            fields[name] = tuple(fields[name] or ())
        fields["others"] = tuple(_other(text) for text in fields["others"])
        fields["collaboration"] = the_collaboration(node, self.collaboration)
        try:
            return QueryIn.model_validate(fields)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise Misuse(f"the query's {where} is not one this version knows.") from None


_LISTS = frozenset({"fallback_keys", "dimensions", "partner_dimensions", "others"})


def _other(text: str) -> dict[str, str]:
    collaboration, colon, dataset = text.partition(":")
    if not (colon and collaboration and dataset):
        raise Misuse("--with takes the id of a collaboration, a colon and a dataset of that partner.")
    return {"collaboration": collaboration, "dataset": dataset}


def takes_question(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(question, …)` the options of a question beside its own."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    options = list(inspect.signature(_options, eval_str=True).parameters.values())
    names = {option.name for option in options}

    @wraps(command)
    def asking(**given: Any) -> None:
        command(
            Question({name: given[name] for name in names}),
            **{name: value for name, value in given.items() if name not in names},
        )

    shown = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    # The common ones that say which node, and --json, stay last in the help.
    asking.__signature__ = inspect.Signature([*options[:-4], *shown, *options[-4:]])  # type: ignore[attr-defined]
    asking.__annotations__ = {p.name: p.annotation for p in (*options, *shown)}
    return asking
