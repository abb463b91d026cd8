"""The two partners' node directories: made, given their datasets, and their tables masked for analysts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import polars as pl

from comity.demo.nodes import Command, free_ports, run_together
from comity.demo.outcome import Masking, MaskSample
from comity.demo.partners import BANK, SHOP, Inputs
from comity.demo.people import luhn_digit
from comity.scaffold import make_node
from comity.system import system_random, utc_now
from privacy.keys import KeyRing
from privacy.masking import Policy, mask_table

__all__ = ["Site", "import_consents", "make_sites", "mask_samples", "mask_tables"]

_NUMBERS = re.compile(r"[0-9][0-9 +-]{9,}[0-9Xx]|[A-Za-z0-9.]+@[a-z0-9.]+")
_COMMAND_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Site:
    """A partner's node directory, and how to reach the node once it runs."""

    name: str
    directory: Path
    url: str
    public_key: str
    operator_key: str = field(repr=False)


def make_sites(folder: Path) -> dict[str, Site]:
    """Make `bank.example` and `shop.example` in `folder`, each on a loopback port that is free now."""
    sites = {}
    for name, port in zip((BANK, SHOP), free_ports(2), strict=True):
        directory = folder / f"{name}.example"
        made = make_node(
            directory, name=name, port=port, origin=f"{name}.example/log", clock=utc_now, random=system_random
        )
        datasets = files("comity.demo").joinpath("files", f"{name}.datasets.toml").read_text(encoding="utf-8")
        made.config.datasets_file.write_text(datasets, encoding="utf-8")
        operator = made.config.operator_key.read_text(encoding="utf-8").strip()
        sites[name] = Site(name, directory, made.config.public_url, made.public_key, operator)
    return sites


def mask_tables(folder: Path, sites: Mapping[str, Site], inputs: Inputs) -> list[Masking]:
    """Write `inputs/bank-masked.parquet`, … with `comity mask`, and count what the notes still tell."""
    commands = []
    for name, site in sites.items():
        policy = folder / "inputs" / f"{name}.policy.yaml"
        policy.write_text(_policy(name), encoding="utf-8")
        table, masked = folder / "inputs" / f"{name}.parquet", folder / "inputs" / f"{name}-masked.parquet"
        arguments = [
            "mask",
            str(table),
            "-o",
            str(masked),
            "-p",
            str(policy),
            "-d",
            str(site.directory),
            "--json",
        ]
        commands.append(_command(site, "mask", arguments))
    run_together(commands, timeout=_COMMAND_SECONDS)
    return [_checked(folder, name, inputs.tables[name]) for name in sites]


def import_consents(folder: Path, sites: Mapping[str, Site]) -> None:
    """Import both consent registers with `comity consent import`, side by side."""
    commands = [
        _command(
            site,
            "consent-import",
            [
                "consent",
                "import",
                str(folder / "inputs" / f"{name}-consents.csv"),
                "-d",
                str(site.directory),
                "--json",
            ],
        )
        for name, site in sites.items()
    ]
    run_together(commands, timeout=_COMMAND_SECONDS)


def _command(site: Site, what: str, arguments: list[str]) -> Command:
    return Command(arguments, stdout=site.directory / f"{what}.json", stderr=site.directory / f"{what}.log")


def _policy(name: str) -> str:
    return files("comity.demo").joinpath("files", f"{name}.policy.yaml").read_text(encoding="utf-8")


def _planted(notes: pl.Series) -> set[str]:
    """Everything in the notes that reads as a number of a person, card or phone, or an address."""
    found: set[str] = set()
    for note in notes.drop_nulls().unique():
        found.update(match for match in _NUMBERS.findall(note) if not _order_number(match))
    return found


def _order_number(text: str) -> bool:
    return text.startswith(("20250311", "4411-2093"))


def _checked(folder: Path, name: str, table: pl.DataFrame) -> Masking:
    masked = pl.read_parquet(folder / "inputs" / f"{name}-masked.parquet")
    planted = _planted(table["note"])
    left = _planted(masked["note"])
    return Masking(name, masked.height, table["note"].count(), len(planted), len(left & planted))


def mask_samples(folder: Path, sites: Mapping[str, Site], inputs: Inputs) -> list[MaskSample]:
    """An invented row a partner, masked by the partner's own policy and keys, before and after.

    The people are made for this alone: nobody in the tables is shown.
    """
    samples = []
    for name, site in sites.items():
        table = inputs.tables[name].clear()
        values: dict[str, object] = {
            "customer_no": f"{name[0].upper()}9999999",
            "name": "欧阳雪梅" if name == BANK else "Grace Palmer",
            "email": _EMAIL[name],
            "mobile": "+86 138-0013-8000",
            "id_no": _RESIDENT_ID,
            "card": _CARD,
            "note": _NOTES[name],
        }
        values |= {"LIMIT_BAL": 230_000, "AGE": 75, "PAY_AMT1": 5_240.0}
        row = {column: values.get(column, 0) for column in table.columns}
        before, after = folder / f"{name}-sample.parquet", folder / f"{name}-sample-masked.parquet"
        pl.DataFrame([row], schema=table.schema).write_parquet(before)
        try:
            mask_table(before, after, Policy.parse(_policy(name)), _ring(site))
            masked = pl.read_parquet(after).row(0, named=True)
        finally:
            for path in folder.glob(f"{name}-sample*"):
                path.unlink()
        shown = [c for c in values if c in table.columns]
        samples.append(MaskSample(name, [(c, _shown(row[c]), _shown(masked.get(c))) for c in shown]))
    return samples


# Nobody's: reserved domains, an operator's own number, the standard's sample ID, a card of zeros.
_EMAIL = {BANK: "xuemei.ouyang@example.com", SHOP: "grace.palmer@example.org"}
_RESIDENT_ID = "11010519491231002X"
_CARD = "622202000000000000" + luhn_digit("622202000000000000")
_NOTES = {
    BANK: f"客户来电，手机13800138000，身份证{_RESIDENT_ID}已核验，邮箱{_EMAIL[BANK]}。"
    "黄金会员，订单号20250311004518。",
    SHOP: f"Card {_CARD} reported lost, call back on 13800138000. Order 4411-2093-77 delayed.",
}


def _ring(site: Site) -> KeyRing:
    return KeyRing.load(site.directory / "keys" / "ring.key")


def _shown(value: object) -> str:
    if value is None:
        return "(empty)"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)
