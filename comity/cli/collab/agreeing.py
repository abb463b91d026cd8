"""Inviting, accepting, looking at what is agreed, leaving."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from comity.cli.calling import ApiKey, Url, calling
from comity.cli.collab.app import app
from comity.cli.collab.terms import Datasets, OwnTerms, lines, read_terms
from comity.cli.output import Directory, Json, document, show, table
from privacy.errors import BadInput, Misuse


def _invitation(path: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
        found = json.loads(text)
    except (OSError, ValueError):
        raise BadInput(
            f"{path} is not an invitation.", advice="Pass the file as the partner sent it."
        ) from None
    if not isinstance(found, dict):
        raise BadInput(f"{path} is not an invitation.", advice="Pass the file as the partner sent it.")
    return found


@app.command()
def invite(
    partner: Annotated[str, typer.Argument(help="What this node will call the partner.")],
    *,
    url: Annotated[str, typer.Option("--partner-url", help="Where the partner's node is.")],
    key: Annotated[str, typer.Option("--partner-key", help="Its public key, learnt by phone or in person.")],
    terms: Annotated[
        Path,
        typer.Option("--terms", help="A collaboration.toml with the terms.", dir_okay=False, exists=True),
    ],
    dataset: Datasets = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the invitation to this file.", dir_okay=False)
    ] = None,
    deliver: Annotated[bool, typer.Option("--deliver", help="Also send it to the partner's node.")] = False,
    days: Annotated[int, typer.Option(min=1, max=365, help="Days until it expires.")] = 14,
    directory: Directory = Path(),
    node_url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Invite a partner: sign the terms and pin the partner's key.

    Example:

        comity collab invite shop --partner-url https://shop.example --partner-key 3kq… \\
            --terms collaboration.toml -o invitation.json
    """
    from clean_room.schemas import InviteIn

    asked = InviteIn(
        partner=partner,
        url=url,
        key=key,
        terms=read_terms(terms),
        datasets=dataset,
        deliver=deliver,
        days=days,
    )
    with calling(directory, node_url, api_key) as node:
        made = node.invite(asked).model_dump()
    if out is None:
        document(made)
        return
    unfinished = out.with_name(f".{out.name}.partial")
    unfinished.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", "utf-8")
    unfinished.replace(out)
    typer.echo(f"Invitation {made['invitation']['id']} written to {out}: hand it to {partner}.", err=True)


@app.command()
def accept(
    invitation: Annotated[
        str, typer.Argument(help="The file (- for standard input), or the id of one received.")
    ],
    *,
    terms: OwnTerms = None,
    dataset: Datasets = None,
    inviter_key: Annotated[
        str | None, typer.Option("--inviter-key", help="Refuse unless signed with this public key.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask whether the fingerprint is right.")
    ] = False,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Accept an invitation; the stricter of both sides' numbers will hold.

    Example:

        comity collab accept invitation.json --terms ours.toml --inviter-key 9xW…
    """
    from clean_room.schemas import AcceptIn
    from privacy.signing import PublicKey

    is_id = len(invitation) == 32 and not Path(invitation).exists()
    meant: str | dict[str, Any] = invitation if is_id else _invitation(invitation)
    with calling(directory, url, api_key) as node:
        if inviter_key is None and not yes:
            if isinstance(meant, str):
                fingerprint, name = (
                    node.collaboration(meant).partner_fingerprint,
                    node.collaboration(meant).partner,
                )
            else:
                inviter = meant.get("invitation", {}).get("inviter", {})
                fingerprint = PublicKey.from_text(str(inviter.get("key", ""))).fingerprint
                name = str(inviter.get("name", "the inviter"))
            if not sys.stdin.isatty():
                raise Misuse("nobody can confirm the inviter's key.", advice="Give --inviter-key or --yes.")
            typer.echo(f"The invitation is signed with key {fingerprint}.", err=True)
            typer.confirm(f"Has {name} confirmed this fingerprint to you?", abort=True, err=True)
        stated = None if terms is None else read_terms(terms)
        agreed = node.accept(
            AcceptIn(invitation=meant, terms=stated, datasets=dataset, inviter_key=inviter_key)
        )
    show(as_json, agreed.model_dump(), lines(agreed))


@app.command("show")
def show_collaborations(
    collaboration: Annotated[str | None, typer.Argument(help="Its id; all without one.")] = None,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show agreements and invitations, or one of them with its terms and offers.

    Example:

        comity collab show --dir bank
    """
    with calling(directory, url, api_key) as node:
        if collaboration is not None:
            found = node.collaboration(collaboration)
            show(as_json, found.model_dump(), lines(found))
            return
        listed = node.collaborations()
    rows = [
        (c.id, c.partner, c.state, c.role, ", ".join(c.terms["query_types"]), c.created_at[:19])
        for c in listed
    ]
    show(
        as_json,
        {"collaborations": [c.model_dump() for c in listed]},
        table(["id", "partner", "state", "role", "queries", "since"], rows),
    )


@app.command()
def feeds(
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show where the opt-out feed with each partner stands: told, waiting, heard, and the lease.

    Example:

        comity collab feeds --dir bank
    """
    with calling(directory, url, api_key) as node:
        found = node.feeds()
    rows = [
        (
            f["partner"],
            "reads" if f["connected"] else "away",
            str(f["queued"]),
            f"{f['enforced']['p99']:.0f} ms" if f["enforced"] else "-",
            "never" if f["heard_age_seconds"] is None else f"{f['heard_age_seconds']:.1f} s ago",
            "none" if f["lease_seconds"] is None else f"{f['lease_seconds']:g} s",
            "denied" if f["lease_expired"] else f["heard_error"] or f["last_error"] or "",
        )
        for f in found
    ]
    head = ["partner", "now", "waiting", "enforced p99", "heard", "lease", ""]
    show(as_json, {"partners": found}, table(head, rows))


@app.command()
def rotate(
    collaboration: Annotated[str, typer.Argument(help="Its id.")],
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Replace the key shared with the partner; whoever opted out is told to it again under the new one.

    Should the partner not answer, run it again: until it has, nobody passes whom it may have restricted.

    Example:

        comity collab rotate 0d9f9a539d0c4f1b9a553c9f2a6f1c11 --dir bank
    """
    with calling(directory, url, api_key) as node:
        rotated = node.rotate(collaboration)
    show(as_json, rotated.model_dump(), [f"Another key is shared with {rotated.partner} now."])


@app.command()
def leave(
    collaboration: Annotated[str, typer.Argument(help="Its id.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Leave a collaboration at once; running queries of it end.

    Example:

        comity collab leave 0d9f9a539d0c4f1b9a553c9f2a6f1c11 --yes
    """
    if not yes:
        typer.confirm("Leave for good? The partner would have to be invited anew.", abort=True, err=True)
    with calling(directory, url, api_key) as node:
        left = node.leave(collaboration)
    show(as_json, left.model_dump(), [f"Left the collaboration with {left.partner}."])
