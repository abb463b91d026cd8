"""`comity access`: API keys of the people and programs that may call the node."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comity.cli.output import Directory, Json, document, moment, show, table

if TYPE_CHECKING:
    from comity.access import AccessKeys, ApiKey

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make, list and revoke API keys.")


@contextmanager
def _keys(directory: Path) -> Iterator[AccessKeys]:
    from comity.access import AccessKeys
    from comity.config import load_config
    from comity.database import check_migrated, open_engine
    from comity.system import system_random, utc_now

    engine = open_engine(load_config(directory).database_url)
    try:
        check_migrated(engine)
        yield AccessKeys(engine, clock=utc_now, random=system_random)
    finally:
        engine.dispose()


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= dt.datetime.now(dt.UTC) else "valid"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what will use the key; appears in the audit trail.")],
    *,
    role: Annotated[str, typer.Option(help="analyst, data_steward, compliance_officer or admin.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="A path the key is limited to, as in /v1/overlap-queries; repeatable."),
    ] = None,
    days: Annotated[
        int | None, typer.Option(help="Days until it expires.", min=1, show_default="never")
    ] = None,
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Make an API key and show it, this once.

    Example:

        comity access create reporting --role analyst --scope /v1/overlap-queries --days 90 --dir bank
    """
    expires = None if days is None else dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    with _keys(directory) as keys:
        new = keys.create(name, role, scope=scope or (), expires_at=expires)
    if as_json:
        document({**asdict(new.key), "token": new.token})
        return
    typer.echo(new.token)
    typer.echo(f"Key {new.key.id} ({role}) is shown this once; only its hash is kept.", err=True)


@app.command("list")
def list_keys(directory: Directory = Path(), as_json: Json = False) -> None:
    """List every API key, revoked and expired ones included."""
    with _keys(directory) as keys:
        found = keys.list()
    rows = [
        (k.id, k.name, k.role, _state(k), moment(k.created_at), moment(k.expires_at), " ".join(k.scope))
        for k in found
    ]
    value = {"keys": [{**asdict(k), "state": _state(k)} for k in found]}
    show(as_json, value, table(["id", "name", "role", "state", "created", "expires", "scope"], rows))


@app.command()
def revoke(
    key_id: Annotated[
        str, typer.Argument(metavar="ID", help="The key's id, as `comity access list` shows it.")
    ],
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Revoke a key, at once and for good.

    Example:

        comity access revoke 3f9a0c1d22b4 --dir bank
    """
    with _keys(directory) as keys:
        key = keys.revoke(key_id)
    show(as_json, {**asdict(key), "state": "revoked"}, [f"Key {key.id} ({key.name}) is revoked."])
