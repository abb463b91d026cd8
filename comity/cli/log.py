"""`comity log`: the transparency log, verified, shown, proved."""

from __future__ import annotations

import base64
import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comity.cli.opening import opened
from comity.cli.output import Directory, Json, document, moment, show, table
from comity.cli.person import Email, Phone, Region, identifiers
from comity.cli.restoring import restore

if TYPE_CHECKING:
    from consent.checkpoint import Checkpoint
    from consent.notes import VerifierKey
    from consent.trust_policy import TrustPolicy
    from consent.verify import LogReport, Reader

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Verify, show and prove the transparency log."
)

_MOST_BYTES = 32 << 20


@app.command()
def verify(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH_OR_URL]",
            help="A log directory or URL; without one, the node's own log, database and all.",
        ),
    ] = None,
    *,
    key: Annotated[
        str, typer.Option("--key", metavar="VKEY", help="The log's verifier key, or a file with it.")
    ] = "",
    known: Annotated[
        Path | None, typer.Option(help="A checkpoint seen before, which the log must extend.", exists=True)
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="A trust policy (c2sp.org/tlog-policy): a quorum of its witnesses must have cosigned.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    max_age: Annotated[
        float | None, typer.Option(metavar="HOURS", help="The newest entry may be no older.", min=0)
    ] = None,
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Check a log from its entries up to the signed checkpoint, offline, trusting nothing but the key.

    Exit codes: 0 holds, 2 usage, 3 unreachable, 4 tampered or signed by another key, 5 incomplete, 6 stale,
    7 not cosigned as the trust policy asks.

    Examples:

        comity log verify --dir bank

        comity log verify shop/log --key shop.example/log+0a1b2c3d+AbC…

        comity log verify https://shop.example/log --key shop.vkey --known seen.checkpoint

        comity log verify https://shop.example/log --policy witnesses.policy
    """
    from comity.cli.progress import counter
    from consent.trust_policy import TrustPolicy
    from consent.verify import directory_reader, verify_ledger, verify_log

    since = None if max_age is None else dt.datetime.now(dt.UTC) - dt.timedelta(hours=max_age)
    trusted = None if policy is None else TrustPolicy.parse(policy.read_bytes())
    if target is None:
        with opened(directory) as records:
            report = verify_ledger(records.ledger)
            verifier = verifier_key(key or records.ledger.vkey)
            if report.ok and (key or known is not None or since is not None or trusted is not None):
                files = directory_reader(records.config.log_dir)
                seen = _known(known, verifier)
                report = verify_log(files, verifier, known=seen, not_older_than=since, policy=trusted)
    else:
        files = log_reader(target)
        verifier = verifier_key(key) if key else _listed(files, trusted)
        with counter("entries checked") as count:
            report = verify_log(
                files,
                verifier,
                known=_known(known, verifier),
                not_older_than=since,
                policy=trusted,
                each=lambda n: count(n, None),
                workers=os.cpu_count() or 1,
            )
    _tell(report, as_json)


def _tell(report: LogReport, as_json: bool) -> None:
    from consent.encoding import from_micros

    newest = None if report.newest is None else from_micros(report.newest)
    value: dict[str, object] = {
        "ok": report.ok,
        "outcome": report.outcome.value,
        "detail": report.detail,
        "origin": report.origin,
        "size": report.size,
        "root": base64.b64encode(report.root).decode(),
        "newest": newest,
    }
    if report.witnessed is not None:
        value["witnessed"] = report.witnessed
        value["witnesses"] = {made.key.name: made.at for made in report.cosignatures}
    line = f"{report.origin}: {report.detail}"
    if report.ok:
        show(as_json, value, [line])
        return
    if as_json:
        document(value)
    typer.echo(f"comity: {report.outcome.value}: {line}", err=True)
    raise typer.Exit(report.outcome.exit_code)


def verifier_key(text: str) -> VerifierKey:
    from consent.notes import VerifierKey
    from privacy.errors import BadInput

    if "+" not in text:
        try:
            text = Path(text).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise BadInput(
                "The key is neither a verifier key nor a file with one.", code="invalid_vkey"
            ) from None
    return VerifierKey.from_text(text)


def _listed(read: Reader, policy: TrustPolicy | None) -> VerifierKey:
    """The key that the policy lists for the log's origin."""
    from consent.checkpoint import checkpoint_origin
    from consent.errors import InvalidNote

    if policy is not None and policy.logs:
        try:
            keys = policy.log_keys(checkpoint_origin(read("checkpoint") or b""))
        except InvalidNote:
            keys = ()
        # Another log's key, where none is listed for this one, makes the report say that the key is wrong.
        return keys[0] if keys else policy.logs[0].key
    raise typer.BadParameter("a log is verified against its key", param_hint="--key")


def _known(path: Path | None, key: VerifierKey) -> Checkpoint | None:
    from consent.checkpoint import open_checkpoint

    return None if path is None else open_checkpoint(path.read_bytes(), [key])


def log_reader(target: str) -> Reader:
    from consent.verify import directory_reader, url_reader
    from privacy.errors import BadInput

    if target.startswith(("http://", "https://")):
        return url_reader(target.rstrip("/"), _get)
    if not Path(target).is_dir():
        raise BadInput(f"There is no directory {target}.")
    return directory_reader(Path(target))


def _get(url: str) -> tuple[int, bytes]:
    import httpx

    from privacy.errors import PeerUnreachable

    try:
        with httpx.stream("GET", url, timeout=30, follow_redirects=True) as answer:
            received = bytearray()
            for chunk in answer.iter_bytes():
                received += chunk
                if len(received) > _MOST_BYTES:
                    raise PeerUnreachable("The log's server sends more than a log file can be.")
            return answer.status_code, bytes(received)
    except httpx.HTTPError as e:
        raise PeerUnreachable(f"The log cannot be fetched ({type(e).__name__}).") from None


@app.command("show")
def show_log(
    *,
    last: Annotated[
        int, typer.Option(help="How many of the newest entries to list.", min=0, max=10_000)
    ] = 10,
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Show the signed tree head, the log's key, and the newest entries. Entries hold no personal data.

    Example:

        comity log show --last 5 --dir bank
    """
    from consent.cosignatures import witness_key
    from consent.encoding import Leaf, from_micros

    with opened(directory) as records:
        ledger = records.ledger
        head = ledger.head()
        first = max(0, head.size - last)
        with ledger.store.read() as view:
            rows = view.entries(first, head.size)
        leaves = [(index, Leaf.from_bytes(row.leaf)) for index, row in enumerate(rows, first)]
        vkey, witness = ledger.vkey, witness_key(ledger.key).to_text()
    entries = [
        {"index": i, "type": leaf.type, "recorded_at": from_micros(leaf.recorded_at), "id": leaf.id}
        for i, leaf in leaves
    ]
    value = {
        "origin": head.origin,
        "size": head.size,
        "root": base64.b64encode(head.root).decode(),
        "vkey": vkey,
        "witness_vkey": witness,
        "checkpoint": head.text,
        "entries": entries,
    }
    lines = [
        f"origin  {head.origin}",
        f"size    {head.size}",
        f"root    {value['root']}",
        f"key     {vkey}",
        f"witness {witness}",
        "",
    ]
    listed = [(i, moment(from_micros(leaf.recorded_at)), leaf.type, leaf.id) for i, leaf in leaves]
    show(as_json, value, [*lines, *table(["entry", "recorded", "type", "id"], listed)])


@app.command()
def prove(
    index: Annotated[int | None, typer.Argument(help="The entry's index.", min=0)] = None,
    *,
    state: Annotated[
        bool, typer.Option("--state", help="Prove instead what stands about a person now.")
    ] = False,
    email: Email = None,
    phone: Phone = None,
    region: Region = "CN",
    handle: Annotated[str, typer.Option(help="The person by the handle in a receipt of theirs.")] = "",
    purpose: Annotated[str, typer.Option(help="With --state: the purpose asked about.")] = "",
    partner: Annotated[str, typer.Option(help="With --state: the partner asked about.")] = "",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Prove that an entry is in the log; or, with --state, what the ledger now holds about one person.

    The first is the entry, its path, and the checkpoint it leads to. The second is written to the log first,
    and shows, for every decision that the answer depends on, what stands, or that nothing does: nothing
    about anybody else. It names the person by a random handle; `comity log check-state` checks it offline.

    Examples:

        comity log prove 42 --dir bank --json > proof.json

        comity log prove --state --email - --purpose overlap.reach --partner shop --dir bank --json > now.json
    """
    if state:
        from comity.cli.log_state import prove_state

        if index is not None or not purpose or not partner:
            raise typer.BadParameter("needs --purpose and --partner, and no index", param_hint="--state")
        found = None if handle else identifiers(email, phone, region)[0]
        prove_state(found, handle, purpose, partner, directory=directory, as_json=as_json)
        return
    if index is None:
        raise typer.BadParameter("name an entry, or use --state", param_hint="INDEX")
    with opened(directory) as records:
        proof = records.ledger.prove(index)
        vkey = records.ledger.vkey
        leaf, checkpoint = proof.verify(records.ledger.key)
    value = {"vkey": vkey, "proof": proof.to_dict()}
    lines = [
        f"entry {index}: {leaf.type}, id {leaf.id}",
        f"is in the tree of {checkpoint.size} entries with root {base64.b64encode(checkpoint.root).decode()}",
        *(base64.b64encode(step).decode() for step in proof.path),
    ]
    show(as_json, value, lines)


@app.command("check-state")
def check_state(
    file: Annotated[Path, typer.Argument(help="What `comity log prove --state --json` wrote.", exists=True)],
    *,
    key: Annotated[
        str, typer.Option("--key", metavar="VKEY", help="The log's verifier key, or a file with it.")
    ],
    purpose: Annotated[
        str, typer.Option(help="Also decide on this purpose, by the policy that ships here.")
    ] = "",
    partner: Annotated[str, typer.Option(help="Also decide on this partner.")] = "",
    as_json: Json = False,
) -> None:
    """Check a proof of what stands about a person, offline, trusting nothing but the log's key.

    Exit codes: 0 holds, 4 does not.

    Example:

        comity log check-state now.json --key bank.vkey --purpose overlap.reach --partner shop
    """
    from comity.cli.log_state import check_proof

    check_proof(file, verifier_key(key), purpose, partner, as_json)


@app.command()
def verifier() -> None:
    """Print a verifier in one file, which needs nothing but Python and `cryptography`.

    It checks what `comity log verify PATH_OR_URL` checks, with the same exit codes; for whoever would rather
    read two pages of Python than install a node.

    Example:

        comity log verifier > verify_log.py
    """
    from importlib.resources import files

    typer.echo(files("consent.standalone").joinpath("verify_log.py").read_text("utf-8"), nl=False)


@app.command("split-views")
def split_views(directory: Directory = Path(), as_json: Json = False) -> None:
    """List logs that were caught signing checkpoints that do not fit together.

    A fork, two roots of one size, is proof against the log to anybody who has its key; --json has both
    signed checkpoints. Exit code 1 where there is any.

    Example:

        comity log split-views --dir bank
    """
    from consent.encoding import from_micros
    from consent.split_views import SplitViews

    with opened(directory) as records:
        found = SplitViews(records.ledger).listing()
    value = [
        {
            "origin": row.origin,
            "kind": row.kind,
            "seen_at": from_micros(row.seen_at),
            "index": row.idx,
            "first": row.first,
            "second": row.second,
        }
        for row in found
    ]
    listed = [(row.origin, row.kind, moment(from_micros(row.seen_at)), row.idx) for row in found]
    lines = table(["log", "kind", "seen", "entry"], listed) if found else ["No log was caught."]
    show(as_json, {"split_views": value}, lines)
    if found:
        raise typer.Exit(1)


app.command()(restore)
