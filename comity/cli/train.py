"""`comity train`: train a joint model with a partner, look at runs and their cards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comity.cli.agreed import Collaboration, the_collaboration
from comity.cli.calling import ApiKey, Url, calling
from comity.cli.output import Directory, Json, document, show, table
from comity.cli.progress import bar

if TYPE_CHECKING:
    from federated.api import RunView

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Train a joint model with a partner.")


@app.command()
def run(
    *,
    collaboration: Collaboration = None,
    dataset: Annotated[str, typer.Option("--dataset", help="This node's dataset; it holds the label.")],
    partner_dataset: Annotated[str, typer.Option("--partner-dataset", help="The partner's dataset.")],
    label: Annotated[str, typer.Option("--label", help="Column of 0 and 1 to predict.")],
    purpose: Annotated[str, typer.Option("--purpose", help="One both agreed to.")] = "model.credit",
    align_purpose: Annotated[
        str | None,
        typer.Option("--align-purpose", help="Purpose of the alignment.", show_default="that of the model"),
    ] = None,
    alignment: Annotated[
        str | None,
        typer.Option("--alignment", help="A finished align job to build on.", show_default="align first"),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option("--feature", help="Own column; repeatable.", show_default="all listed for training"),
    ] = None,
    partner_feature: Annotated[
        list[str] | None,
        typer.Option(
            "--partner-feature", help="The partner's column; repeatable.", show_default="all it lists"
        ),
    ] = None,
    key: Annotated[str, typer.Option("--key", help="Identifier to align on: email or phone.")] = "email",
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, max=20, help="Consent is checked anew in each.")
    ] = 3,
    epochs: Annotated[int, typer.Option("--epochs", min=1, max=50, help="At most, in each round.")] = 4,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Asking again with it returns the same run.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result.")] = True,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Train on both partners' columns of the people they share, and compare with training alone.

    Ctrl-C cancels the run on both sides.

    Example:

        comity train run --dataset customers --partner-dataset shoppers --label defaulted
    """
    from federated.api import TrainingRunBody
    from federated.client import TrainingClient

    with calling(directory, url, api_key) as caller:
        node = TrainingClient.over(caller)
        body = TrainingRunBody(
            collaboration=the_collaboration(node, collaboration),
            dataset=dataset,
            partner_dataset=partner_dataset,
            label=label,
            purpose=purpose,
            align_purpose=align_purpose,
            alignment=alignment,
            features=feature or [],
            partner_features=partner_feature or [],
            key=key,
            rounds=rounds,
            epochs=epochs,
        )
        found = node.train(body, idempotency_key=idempotency_key)
        if wait:
            try:
                with bar(f"model with {found.partner}") as update:
                    found = node.follow_run(found.id, seen=lambda shown: update(shown.progress))
            except KeyboardInterrupt:
                node.cancel_run(found.id)
                raise
    _conclude(found, as_json)


@app.command("show")
def show_runs(
    *,
    run: Annotated[str | None, typer.Argument(help="Its id; without one, all runs.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on from here (next).")] = None,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show a run and its result, or list runs, newest first.

    Example:

        comity train show --dir bank
    """
    from federated.client import TrainingClient

    with calling(directory, url, api_key) as caller:
        node = TrainingClient.over(caller)
        if run is not None:
            found = node.run(run)
            show(as_json, found.model_dump(), list(_lines(found)))
            return
        page = node.runs(limit=limit, cursor=cursor)
    rows = [(r.id, r.role, r.partner, r.state, f"{r.progress:.0%}", r.created_at[:19]) for r in page.items]
    lines = table(["id", "role", "partner", "state", "done", "since"], rows)
    if page.next:
        lines.append(f"more: --cursor {page.next}")
    show(as_json, page.model_dump(), lines)


@app.command()
def card(
    run: Annotated[str, typer.Argument(help="Its id.")],
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show the model card of a run: data, purpose, consent heads of each round, metrics, limits.

    Example:

        comity train card 5f0d9f9a539d0c4f1b9a553c9f2a6f1c --json
    """
    from federated.client import TrainingClient

    with calling(directory, url, api_key) as caller:
        found = TrainingClient.over(caller).card(run)
    show(as_json, found, list(_card_lines(found)))


@app.command()
def cancel(
    run: Annotated[str, typer.Argument(help="Its id.")],
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Stop a run at its next epoch; no model is kept.

    Example:

        comity train cancel 5f0d9f9a539d0c4f1b9a553c9f2a6f1c
    """
    from federated.client import TrainingClient

    with calling(directory, url, api_key) as caller:
        found = TrainingClient.over(caller).cancel_run(run)
    show(as_json, found.model_dump(), [f"{found.id} is {found.state}."])


def _conclude(run: RunView, as_json: bool) -> None:
    """Print the end of a run; a failed one leaves with its error's exit code."""
    from federated.client import failure_of_run

    failure = failure_of_run(run)
    if failure is not None:
        if as_json:
            document(run.model_dump())
        raise failure
    show(as_json, run.model_dump(), list(_lines(run)))


def _lines(run: RunView) -> Iterator[str]:
    yield f"{run.id}  model with {run.partner} as {run.role}: {run.state} {run.stage}".rstrip()
    if run.error:
        yield f"why           {run.error['detail']} {run.error['advice']} ({run.error['code']})".rstrip()
    result = run.result
    if result is None:
        return
    if "auc_joint" in result:
        yield f"AUC           {result['auc_alone']:.4f} alone, {result['auc_joint']:.4f} joint"
        train, test = result["train_rows"], result["test_rows"]
        yield f"people        {result['people']:,} ({train:,} to train on, {test:,} to test)"
        yield f"work          {result['rounds']} rounds, {result['epochs']} epochs, {result['seconds']:.1f} s"
    else:
        yield f"people        {result['people']:,}"
        yield f"work          {result['rounds']} rounds, {result['epochs']} epochs"
    yield f"receipts      {len(result['receipts'])}, see comity train card {run.id}"


def _card_lines(found: dict[str, Any]) -> Iterator[str]:
    model, since = found["model"], found["created_at"][:19]
    yield f"{model['kind']} with {found['partner']}, for {found['purpose']}, {since}"
    yield f"{'protection':<20}{model['protection']}"
    for name, value in found["data"].items():
        yield f"{name:<20}{', '.join(value) if isinstance(value, list) else value}"
    for name, value in found["metrics"].items():
        yield f"{name:<20}{value:.4f}" if isinstance(value, float) else f"{name:<20}{value}"
    for name, value in found.get("disclosed", {}).items():
        yield f"{name:<20}{value}"
    rows = [
        (r["round"], party, head["origin"], head["size"], head["root"])
        for r in found["heads"]
        for party, head in r["parties"].items()
    ]
    yield ""
    yield from table(["round", "party", "log", "size", "root"], rows)
    yield ""
    for limit in found["limits"]:
        yield f"- {limit}"
