"""A consent ledger by itself: grants, a gate over a column, an opt-out, and a log anybody can check.

python examples/consent_ledger/run.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import sqlalchemy as sa

from consent.events import grant, withdraw
from consent.gate import ConsentGate
from consent.ledger import Ledger
from consent.notes import VerifierKey
from consent.tables import metadata
from consent.verify import directory_reader, verify_log
from privacy.identifiers import canonical_column
from privacy.keys import KeyRing
from privacy.signing import SigningKey

PURPOSE, PARTNER = "overlap.reach", "shop"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        KeyRing.create(place / "ring.key")
        engine = sa.create_engine(f"sqlite:///{place / 'ledger.db'}")
        metadata.create_all(engine)
        ledger = Ledger.open(
            engine, keyring=KeyRing.load(place / "ring.key"), signing_key=SigningKey.generate(),
            origin="bank.example/log", directory=place / "log",
        )  # fmt: skip
        written = pa.array(["Li.Lei+news@Gmail.com", "han@example.com", None, "nobody@example.com"])
        column = canonical_column("email", written).values
        people = [email for email in column.to_pylist()[:2] if email is not None]
        ledger.record([grant([("email", email)], PURPOSE, partner=PARTNER) for email in people])
        gate = ConsentGate(ledger)
        before = gate.filter("email", column, purpose=PURPOSE, partner=PARTNER)
        ledger.record([withdraw([("email", people[0])], partner=PARTNER)])
        after = gate.filter("email", column, purpose=PURPOSE, partner=PARTNER)
        print("before the opt-out:", before.mask.tolist(), "after:", after.mask.tolist())
        assert before.mask.tolist() == [True, True, False, False]
        assert after.mask.tolist() == [False, True, False, False]
        report = verify_log(directory_reader(place / "log"), VerifierKey.from_text(ledger.vkey))
        print(f"log {report.origin}: {report.outcome.value}, {report.detail}")
        assert report.ok
        engine.dispose()


if __name__ == "__main__":
    main()
