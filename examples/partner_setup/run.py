"""Two partners, each with a PostgreSQL of its own: from nothing to the first answer.

    python examples/partner_setup/run.py postgresql://postgres@127.0.0.1/postgres

The server is one on which two databases may be made (and are removed again); two servers do as well. Each
partner's customers lie in a table there and are read through ADBC, where they are; the partner's node keeps
its own tables in the same database. Needs the extras comity[postgres,adbc].
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from two_nodes import Row, comity, command, import_consents, people, serving

from comity.demo.nodes import free_ports

# What this partner's node may read, and what others may ask about.
DATASETS = """
[datasets.people]
keys = { email = "email" }
allowed = ["email", "age"]
retention = { column = "seen_at", days = 730 }
dimensions = { age_band = { sql = "CASE WHEN age < 40 THEN 'under 40' ELSE '40 and over' END", values = [
    "under 40", "40 and over"] } }

[datasets.people.source]
kind = "adbc"
driver = "postgresql"
query = "SELECT id, email, age, seen_at FROM crm.people"
order_by = ["id"]
options = { uri = "file:keys/crm.uri" }
"""
TERMS = """
[terms]
purposes = ["overlap.reach"]
epsilon_per_query = 1.0
"""


@contextmanager
def database(server: sa.URL, partner: str, known: list[Row]) -> Iterator[sa.URL]:
    """A database with a table of customers in it; removed on leaving."""
    maintenance = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    name = f"{partner}_{uuid.uuid4().hex[:8]}"
    with maintenance.connect() as c:
        c.execute(sa.text(f"CREATE DATABASE {name}"))
    try:
        url = server.set(database=name)
        engine = sa.create_engine(url)
        with engine.begin() as c:
            c.execute(sa.text("CREATE SCHEMA crm"))
            c.execute(sa.text(
                "CREATE TABLE crm.people (id serial PRIMARY KEY, email text, age int, seen_at timestamptz)"
            ))  # fmt: skip
            c.execute(
                sa.text("INSERT INTO crm.people (email, age, seen_at) VALUES (:email, :age, now())"),
                [{"email": email, "age": age} for email, age, *_ in known],
            )
            c.execute(sa.text(
                "INSERT INTO crm.people (email, age, seen_at)"
                " SELECT 'long.gone' || i || '@example.com', 30, now() - interval '3 years'"
                " FROM generate_series(1, 500) i"
            ))  # fmt: skip
        engine.dispose()
        yield url
    finally:
        with maintenance.connect() as c:
            c.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
        maintenance.dispose()


def set_up(directory: Path, partner: str, url: sa.URL, port: int, known: list[Row]) -> dict[str, str]:
    """A partner's node on its database. Its address stands in a file only the node's user may read."""
    address = url.render_as_string(hide_password=False)
    card = comity("init", directory, "--name", directory.name, "--port", str(port), "--database", address)
    reader = directory / "keys" / "crm.uri"
    reader.write_text(
        url.set(drivername="postgresql").render_as_string(hide_password=False), encoding="utf-8"
    )
    reader.chmod(0o600)
    (directory / "datasets.toml").write_text(DATASETS, encoding="utf-8")
    import_consents(directory, partner, [email for email, *_ in known])
    return card


def main() -> None:
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("COMITY_EXAMPLE_POSTGRES", "")
    if not given:
        raise SystemExit(__doc__)
    server = sa.make_url(given).set(drivername="postgresql+psycopg")
    ours, theirs = people(0), people(1_000)
    with (
        tempfile.TemporaryDirectory(prefix="comity-example-") as folder,
        database(server, "bank", ours) as bank_database,
        database(server, "shop", theirs) as shop_database,
    ):
        place, ports = Path(folder), free_ports(2)
        bank = set_up(place / "bank", "shop", bank_database, ports[0], ours)
        shop = set_up(place / "shop", "bank", shop_database, ports[1], theirs)
        with serving(place, {"bank": bank, "shop": shop}):
            # They learnt each other's URL and key over a channel they trust. One invites, the other accepts.
            terms, invitation = place / "collaboration.toml", place / "invitation.json"
            terms.write_text(TERMS, encoding="utf-8")
            command(
                "collab", "invite", "shop", "--dir", place / "bank", "--terms", terms, "-o", invitation,
                "--partner-url", shop["url"], "--partner-key", shop["public_key"],
            )  # fmt: skip
            comity(
                "collab", "accept", invitation, "--dir", place / "shop", "--yes",
                "--inviter-key", bank["public_key"],
            )  # fmt: skip
            print("agreed")
            answer = comity(
                "overlap", "run", "--dir", place / "bank", "--dataset", "people",
                "--partner-dataset", "people", "--by", "age_band",
            )  # fmt: skip
        result, counts = answer["result"], answer["input"]
        print(f"{result['value']} people in common, 95 % interval {result['ci95']}; truly 2000")
        print("read from PostgreSQL:", json.dumps(counts))
        assert counts["expired"] == 500, "customers not seen for two years are in no use"


if __name__ == "__main__":
    main()
