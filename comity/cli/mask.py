"""`comity mask FILE`: mask a table by a policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comity.cli.output import Json, show, table

if TYPE_CHECKING:
    from privacy.masking import Manifest

app = typer.Typer(add_completion=False)


@app.command()
def mask(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV, Parquet or Arrow table.")],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="Where the masked table goes.")
    ],
    policy: Annotated[Path, typer.Option("--policy", "-p", help="The masking policy (YAML).")],
    directory: Annotated[
        Path | None,
        typer.Option("--dir", "-d", envvar="COMITY_DIR", help="The node whose key ring makes tokens."),
    ] = None,
    key_ring: Annotated[
        Path | None, typer.Option("--keys", help="A key ring file, instead of a node's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Mask FILE by a policy: tokens, partial masks, buckets, redaction, and personal data in free text.

    Columns the policy does not name are refused, not passed through. OUT appears whole or not at all.

    Examples:

        comity mask customers.csv -o masked.parquet --policy policy.yaml --dir bank

        comity mask notes.parquet -o clean.parquet -p policy.yaml --keys ring.key
    """
    if (directory is None) == (key_ring is None):
        raise typer.BadParameter(
            "give either the node's directory or a key ring file", param_hint="--dir / --keys"
        )
    from comity.cli.progress import counter
    from comity.config import load_config
    from privacy.errors import BadInput
    from privacy.keys import KeyRing
    from privacy.masking import Policy, mask_table

    if not file.is_file():
        raise BadInput(f"There is no file {file}.")
    if output.resolve() == file.resolve():
        raise typer.BadParameter("must not be the input itself", param_hint="--output")
    ring = KeyRing.load(key_ring if key_ring is not None else load_config(directory or Path()).ring_key)
    with counter(f"masking {file.name}") as progress:
        manifest = mask_table(file, output, Policy.load(policy), ring, progress=progress)
    _report(manifest, output, as_json)


def _report(manifest: Manifest, output: Path, as_json: bool) -> None:
    value = {"output": output, **manifest.to_dict()}
    listed = [(name, column.op) for name, column in manifest.columns.items()]
    rows = f"{manifest.rows} row{'' if manifest.rows == 1 else 's'} masked into {output}."
    show(as_json, value, [rows, *table(["column", "operator"], listed)])
