"""Two organisations cut out of one table: who they know, what they hold, and who agreed to what.

The bank holds label, demographics and credit limit; the shop holds repayment status and amounts. Each knows
`people` persons, three quarters of them also known to the other. Identifiers are written differently on the
two sides, some are missing or invalid, and a few people are listed twice. Deterministic from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from comity.demo.data import BANK_FEATURES, LABEL, SHOP_FEATURES
from comity.demo.notes import write_notes
from comity.demo.people import People, invent, written_email, written_mobile
from privacy.errors import Misuse

__all__ = ["BANK", "LARGEST", "PURPOSES", "SHOP", "SMALLEST", "Inputs", "cut", "shared_people"]

BANK = "bank"
SHOP = "shop"
PURPOSES = ("overlap.reach", "overlap.measure", "overlap.align", "model.credit")
SMALLEST, LARGEST = 1_900, 400_000

_COLUMNS = {BANK: (*BANK_FEATURES, LABEL), SHOP: SHOP_FEATURES}
NOTE_SHARE = 0.25
MISSING, INVALID, TWICE = 0.008, 0.004, 0.003
REFUSES_ALL, NEVER_ASKED, REFUSES_ONE = 0.02, 0.01, 0.01
_NOT_AN_EMAIL = ("无", "n/a", "unknown", "@qq.com", "none@", "未提供")
_NOT_A_MOBILE = ("无", "n/a", "123", "1380000", "未登记", "000-000")

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the two partners start from.

    `tables` maps a partner's name to its table: customer_no, name, email, mobile, (bank) id_no, (shop) card,
    note, then the columns of the data. `consents` maps it to its register: email, mobile, purpose, partner,
    decision (granted | refused), at, and the terms: notice, language, jurisdiction, consent_type,
    recipients. `optouts` are the shop's customers who will withdraw later: email,
    mobile, as plain as the person would type them.
    """

    tables: Mapping[str, pl.DataFrame] = field(repr=False)
    consents: Mapping[str, pl.DataFrame] = field(repr=False)
    optouts: pl.DataFrame = field(repr=False)

    def write(self, folder: Path) -> None:
        """Write `bank.parquet`, `bank-consents.csv`, … and `optouts.csv` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for partner, table in self.tables.items():
            table.write_parquet(folder / f"{partner}.parquet")
            self.consents[partner].write_csv(folder / f"{partner}-consents.csv")
        self.optouts.write_csv(folder / "optouts.csv")


def shared_people(people: int) -> int:
    """How many of `people` persons on each side are known to both sides."""
    return people * 3 // 4


def cut(credit: pl.DataFrame, *, people: int, seed: int, optouts: int = 200) -> Inputs:
    """Cut the credit data (see `comity.demo.data`) into the two partners' inputs.

    Where more persons are asked for than the data has rows, rows are used again for further persons.
    Raises Misuse when `people` is outside SMALLEST..LARGEST.
    """
    if not SMALLEST <= people <= LARGEST:
        raise Misuse(
            f"--people must be between {SMALLEST:,} and {LARGEST:,}.",
            advice="Smaller inputs would fall below the minimum input that the collaboration agrees on.",
        )
    random = np.random.default_rng([seed, 2])
    shared = shared_people(people)
    total = 2 * people - shared
    order = random.permutation(credit.height)
    person = np.arange(total)
    source = order[person % credit.height]
    number = source + credit.height * (person // credit.height)
    rows = credit[source]
    who = invent(number, rows["AGE"].to_numpy(), rows["SEX"].to_numpy(), seed=seed)
    mine = {
        BANK: np.concatenate([person[:shared], person[shared:people]]),
        SHOP: np.concatenate([person[:shared], person[people:]]),
    }
    tables: dict[str, pl.DataFrame] = {}
    consents: dict[str, pl.DataFrame] = {}
    willing = np.ones(total, dtype=bool)
    for partner, other in ((BANK, SHOP), (SHOP, BANK)):
        tables[partner], usable = _table(rows, who, mine[partner], partner, random)
        consents[partner], agreed = _register(who, mine[partner], other, random)
        reachable = np.zeros(total, dtype=bool)
        reachable[mine[partner]] = usable & agreed
        willing &= reachable
    leavers = random.permutation(person[:shared][willing[:shared]])[:optouts]
    return Inputs(tables, consents, _contacts(who, leavers))


def _contacts(who: People, rows: Rows) -> pl.DataFrame:
    return pl.DataFrame({"email": [who.email[i] for i in rows], "mobile": [who.mobile[i] for i in rows]})


def _table(
    rows: pl.DataFrame, who: People, mine: Rows, partner: str, random: np.random.Generator
) -> tuple[pl.DataFrame, npt.NDArray[np.bool_]]:
    """The partner's table, shuffled, and for each entry of `mine` whether both identifiers can be used."""
    count = mine.size
    gaps = {kind: random.random(count) for kind in ("email", "mobile")}
    twice = np.flatnonzero(random.random(count) < TWICE)
    place = random.permutation(np.concatenate([np.arange(count), twice]))
    style = random.integers(0, 8, size=(place.size, 2)).tolist()
    odd = random.integers(0, len(_NOT_AN_EMAIL), size=place.size).tolist()
    person = mine[place]
    emails: list[str | None] = []
    mobiles: list[str | None] = []
    for i, (p, k) in enumerate(zip(person.tolist(), place.tolist(), strict=True)):
        emails.append(
            None if gaps["email"][k] < MISSING
            else _NOT_AN_EMAIL[odd[i]] if gaps["email"][k] < MISSING + INVALID
            else written_email(who.email[p], style[i][0])
        )  # fmt: skip
        mobiles.append(
            None if gaps["mobile"][k] < MISSING
            else _NOT_A_MOBILE[odd[i]] if gaps["mobile"][k] < MISSING + INVALID
            else written_mobile(who.mobile[p], style[i][1])
        )  # fmt: skip
    head: dict[str, list[str] | list[str | None]] = {
        "customer_no": [f"{partner[0].upper()}{i:07d}" for i in range(1, place.size + 1)],
        "name": [who.name[p] for p in person],
        "email": emails,
        "mobile": mobiles,
    }
    if partner == BANK:
        head["id_no"] = [who.resident_id[p] for p in person]
    else:
        head["card"] = [who.card[p] for p in person]
    head["note"] = write_notes(who, person, random, share=NOTE_SHARE)
    table = pl.DataFrame(head, schema_overrides={"note": pl.String, "email": pl.String, "mobile": pl.String})
    usable = (gaps["email"] >= MISSING + INVALID) & (gaps["mobile"] >= MISSING + INVALID)
    return table.hstack(rows[person].select(_COLUMNS[partner])), usable


def _register(
    who: People, mine: Rows, other: str, random: np.random.Generator
) -> tuple[pl.DataFrame, npt.NDArray[np.bool_]]:
    """The partner's consent register, and for each entry of `mine` whether everything was granted."""
    count = mine.size
    mood = random.random(count)
    asked = mood >= NEVER_ASKED
    refuses_all = asked & (mood < NEVER_ASKED + REFUSES_ALL)
    day = random.integers(0, 365, size=count)
    start = np.datetime64("2025-01-01")
    at = np.char.add(np.datetime_as_string(start + day.astype("timedelta64[D]")), "T09:00:00Z")
    base = _contacts(who, mine)
    parts = []
    agreed = asked & ~refuses_all
    for purpose in PURPOSES:
        refused = refuses_all | (random.random(count) < REFUSES_ONE)
        agreed &= ~refused
        part = base.with_columns(
            purpose=pl.lit(purpose), partner=pl.lit(other),
            decision=pl.Series(np.where(refused, "refused", "granted")), at=pl.Series(at.tolist()),
            notice=pl.lit("general"), language=pl.lit("zh"), jurisdiction=pl.lit("CN"),
            consent_type=pl.lit("separate"), recipients=pl.lit(other),
        )  # fmt: skip
        parts.append(part.filter(pl.Series(asked)))
    register = pl.concat(parts)
    return register[random.permutation(register.height)], agreed
