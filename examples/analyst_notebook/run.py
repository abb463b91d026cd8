# ruff: noqa: E402 - cells import what they need
"""An analyst's notebook: how many customers a partner shares, by age, and what the campaign really sold.

Open it in an editor that knows `# %%` cells and run them one by one, or all at once:

    python examples/analyst_notebook/run.py

It prints two tables and draws `shared.svg`, with the error bars that privacy costs, where it is run.
"""

# %% Two nodes to ask. With nodes of your own: comity = Comity("https://comity.bank.example", "your API key")
import atexit
import sys
from contextlib import ExitStack
from pathlib import Path

try:
    HERE = Path(__file__).resolve().parent
except NameError:  # a cell has no file
    HERE = Path.cwd()
sys.path.insert(0, str(HERE.parent))

from two_nodes import two_nodes

from clean_room.client import Comity
from clean_room.schemas import QueryIn

session = ExitStack()
atexit.register(session.close)
nodes = session.enter_context(two_nodes())
comity = session.enter_context(Comity(nodes.ann_url, nodes.ann_key))

# %% What is there to ask about?
for dataset in comity.datasets():
    print(dataset.name, "can be split by", ", ".join(d["name"] for d in dataset.dimensions))
agreement = comity.collaboration(nodes.agreement)
print("agreed with", agreement.partner, "for", ", ".join(agreement.terms["purposes"]))


# %% How many people do we share, by our ages and theirs? First what the answer would cost.
def question(**more):
    return QueryIn(collaboration=nodes.agreement, dataset="people", partner_dataset="people", **more)


def answer(asked):
    job = comity.wait(comity.ask(asked).id)
    if job.result is None:
        raise SystemExit(f"the query ended as {job.state}: {job.error}")
    return job.result


shared = question(purpose="overlap.reach", dimensions=("age_band",), partner_dimensions=("campaign",))
cost = comity.preview(shared)
print(f"ε {cost.epsilon:g} for {cost.cells} cells, each within ±{cost.error_bar_cell} people")
overlap = answer(shared)

# %% As a table
from rich.console import Console
from rich.table import Table

table = Table("our customers", "theirs", "in both", "95 % interval", title="People in both lists")
for cell in overlap["cells"]:
    low, high = cell["ci95"] or ("", "")
    table.add_row(cell["analyst"], cell["contributor"], str(cell["value"] or "too few"), f"{low} – {high}")
table.add_section()
table.add_row("all", "all", str(overlap["value"]), " – ".join(map(str, overlap["ci95"])))
Console(width=100).print(table)

# %% As a picture
from jinja2 import Environment, FileSystemLoader

bars = [cell for cell in overlap["cells"] if not cell["suppressed"]]
scale = 260 / max(cell["ci95"][1] for cell in bars)
pictures = Environment(loader=FileSystemLoader(HERE), autoescape=True)
picture = pictures.get_template("picture.svg.jinja").render(bars=bars, scale=scale)
Path("shared.svg").write_text(picture, encoding="utf-8")

# %% What did the campaign sell? Spending of those who saw it, against those who were held out.
lift = answer(
    question(
        kind="measure",
        purpose="overlap.measure",
        column="spent",
        statistic="lift",
        dimensions=("campaign",),
        holdout="held out",
    )
)
low, high = lift["ci95"]
print(f"lift per customer: {lift['value']:+.0%}, 95 % interval {low:+.0%} to {high:+.0%}")

# %% Who vouches for this? Both nodes signed what happened.
receipt = comity.receipt(overlap["receipt_id"])
print("receipt", receipt.id, "verified:", receipt.verified)
print("privacy budget left this month: ε", overlap["budget_left"])
session.close()
