"""`comity keys`: the key ring of a node, shown and rotated."""

from __future__ import annotations

from pathlib import Path

import typer

from comity.cli.opening import opened
from comity.cli.output import Directory, Json, show

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show and rotate the node's key ring.")


@app.command("show")
def show_keys(directory: Directory = Path(), as_json: Json = False) -> None:
    """Show which roots the ring holds and which of them the ledger's lookups are hashed under.

    Example:

        comity keys show --dir bank
    """
    with opened(directory) as records:
        vault = records.ledger.vault
        value = {"versions": list(vault.versions), "lookups": vault.version}
    newest = value["lookups"] == vault.versions[-1]
    lines = [
        f"roots    {', '.join(map(str, vault.versions))}",
        f"lookups  {vault.version}" + ("" if newest else " (run comity keys rotate to finish a rotation)"),
    ]
    show(as_json, value, lines)


@app.command()
def rotate(directory: Directory = Path(), as_json: Json = False) -> None:
    """Add a root to the key ring, and hash and wrap everything of the ledger anew. The node must be stopped.

    The older roots stay in the ring: suppressions of erased people, and backups, need them. Back the new
    ring up. When it was interrupted, run it again: it goes on where it was. Names of masking keys and the
    hold-out of training runs are derived from the ring's newest root, so they are others from then on.

    Example:

        comity keys rotate --dir bank
    """
    from comity.cli.progress import counter
    from comity.config import load_config
    from consent.rekeying import rekey
    from privacy.keys import KeyRing

    ring = load_config(directory).ring_key
    with opened(directory) as records:
        vault = records.ledger.vault
        half_done = vault.version != vault.versions[-1]
        if not half_done:
            records.keyring.rotate(ring)
    with opened(directory) as records, counter("people") as count:
        done = rekey(records.ledger, progress=lambda n: count(n, None))
        records.erasure.scrub()
        versions = list(KeyRing.load(ring).versions)
    value = {"version": done.version, "subjects": done.subjects, "index": done.index, "versions": versions}
    show(
        as_json,
        value,
        [
            f"Rotated to version {done.version}: the keys and lookups of {done.subjects} people.",
            f"Back up {ring}, and restart the node.",
        ],
    )
