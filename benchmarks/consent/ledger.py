"""`make bench-consent`: the ledger's figures, each beside the barest loop that does the like, in one run.

    python benchmarks/consent/ledger.py                       everything; about ten minutes
    python benchmarks/consent/ledger.py --people 100000       a first look
    python benchmarks/consent/ledger.py --only appends gate   some of it
    python benchmarks/consent/ledger.py --json FILE           also write every figure

See benchmarks/README.md for what is and is not in a figure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from environments import HERE, peer_python
from measured import machine
from postgres import postgres

from consent import ConsentGate, Ledger, grant, metadata, withdraw
from consent.log import Staged, TransparencyLog
from consent.merkle import verify_inclusion
from consent.notes import NoteSigner, VerifierKey
from consent.rows import EntryRow, Head
from consent.sql import SqlStore
from consent.state_roots import StateRoots
from consent.tiles import root_from_edge, tile_root
from privacy.keys import KeyRing
from privacy.signing import SigningKey

BATCH = 5_000
PURPOSE, PARTNER = "overlap.reach", "bank"
Row = dict[str, Any]


def person(number: int) -> list[tuple[str, bytes]]:
    return [("email", b"%08x.%d@example.org" % (number * 2654435761 % 2**32, number))]


def grants(first: int, count: int) -> list[Any]:
    return [grant(person(n), PURPOSE, partner=PARTNER) for n in range(first, first + count)]


@contextmanager
def ledger_at(folder: Path, url: str | None = None) -> Iterator[Ledger]:
    """A new ledger, published to files as a node's is."""
    engine = sa.create_engine(url or f"sqlite:///{folder}/comity.db")
    metadata.drop_all(engine)
    metadata.create_all(engine)
    try:
        yield Ledger.open(
            engine,
            keyring=KeyRing.from_root(os.urandom(32)),
            signing_key=SigningKey.generate(),
            origin="bench.example/consent",
            directory=folder / "log",
        )
    finally:
        engine.dispose()


def row(what: str, figure: float, unit: str, *, target: str = "", floor: float | None = None) -> Row:
    ratio = None if floor is None else round(figure / floor, 3)
    return {"what": what, "figure": figure, "unit": unit, "target": target, "of_floor": ratio}


def rate(count: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] * 1e3, ordered[int(len(ordered) * 0.99)] * 1e3


# floors


def bare_sqlite(folder: Path, count: int, batch: int) -> float:
    """Insert a leaf and replace a row of state, hash the leaf; one transaction, so one fsync, a batch."""
    c = sqlite3.connect(folder / "floor.db")
    c.execute("PRAGMA journal_mode=WAL")
    c.execute("PRAGMA synchronous=FULL")
    c.execute("CREATE TABLE entries (idx INTEGER PRIMARY KEY, leaf BLOB, hash BLOB)")
    c.execute("CREATE TABLE state (subject BLOB PRIMARY KEY, at INTEGER, idx INTEGER) WITHOUT ROWID")
    people = [sha256(n.to_bytes(8, "big")).digest()[:16] for n in range(count)]

    def work() -> None:
        for start in range(0, count, batch):
            leaves, state = [], []
            for n in range(start, min(start + batch, count)):
                leaf = b'{"commit":"%s","id":"%036d","type":"consent.granted","v":1}' % (
                    sha256(people[n]).hexdigest().encode(),
                    n,
                )
                leaves.append((n, leaf, sha256(b"\x00" + leaf).digest()))
                state.append((people[n], n, n))
            c.executemany("INSERT INTO entries VALUES (?, ?, ?)", leaves)
            c.executemany("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", state)
            c.commit()

    done = rate(count, work)
    c.close()
    return done


def bare_postgres(url: str, count: int, batch: int) -> float:
    """The same with COPY and one statement for the state."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as c:
        c.execute("DROP TABLE IF EXISTS floor_entries, floor_state")
        c.execute("CREATE TABLE floor_entries (idx BIGINT PRIMARY KEY, leaf BYTEA, hash BYTEA)")
        c.execute("CREATE TABLE floor_state (subject BYTEA PRIMARY KEY, at BIGINT)")
        c.commit()

        def work() -> None:
            for start in range(0, count, batch):
                with c.cursor().copy("COPY floor_entries FROM STDIN") as copy:
                    for n in range(start, start + batch):
                        leaf = b'{"commit":"%064x","id":"%036d","type":"consent.granted","v":1}' % (n, n)
                        copy.write_row((n, leaf, sha256(b"\x00" + leaf).digest()))
                with c.cursor().copy("COPY floor_state FROM STDIN") as copy:
                    for n in range(start, start + batch):
                        copy.write_row((sha256(n.to_bytes(8, "big")).digest()[:16], n))
                c.commit()

        done = rate(count, work)
        c.execute("DROP TABLE floor_entries, floor_state")
        return done


# measurements


def appends(given: argparse.Namespace) -> Iterator[Row]:
    count = given.events
    with tempfile.TemporaryDirectory(prefix="comity-bench-") as name:
        folder = Path(name)
        floor = bare_sqlite(folder, count, BATCH)
        yield row(f"bare SQLite loop, {BATCH:,} a transaction", floor, "events/s")
        yield row("bare SQLite loop, one fsync an event", _each(folder), "events/s")
        with ledger_at(folder) as ledger:
            yield from _recorded(ledger, count, "SQLite", floor, "≥ 20,000")
    with postgres() as url:
        if url is None:
            return
        with tempfile.TemporaryDirectory(prefix="comity-bench-") as name:
            floor = bare_postgres(url, count, BATCH)
            yield row(f"bare PostgreSQL loop, {BATCH:,} a transaction", floor, "events/s")
            with ledger_at(Path(name), url) as ledger:
                yield from _recorded(ledger, count, "PostgreSQL", floor, "≥ 10,000")


def _each(folder: Path) -> float:
    (folder / "floor.db").unlink()
    return bare_sqlite(folder, 1_000, 1)


def _recorded(ledger: Ledger, count: int, database: str, floor: float, target: str) -> Iterator[Row]:
    for what, make in (("people not seen before", grant), ("people known", withdraw)):
        batches = [
            [make(person(n), PURPOSE, partner=PARTNER) for n in range(start, start + BATCH)]
            for start in range(0, count, BATCH)
        ]

        def work(batches: list[list[Any]] = batches) -> None:
            for batch in batches:
                ledger.record(batch)

        done = rate(count, work)
        yield row(f"durable appends, {database}, {what}", done, "events/s", target=target, floor=floor)


def crowd(given: argparse.Namespace) -> Iterator[Row]:
    for threads in given.threads:
        with tempfile.TemporaryDirectory(prefix="comity-bench-") as name, ledger_at(Path(name)) as ledger:
            each = max(given.singles // threads, 1)
            seconds: list[float] = []

            def client(first: int, seconds: list[float] = seconds, each: int = each) -> None:
                for n in range(first * each, (first + 1) * each):
                    began = time.perf_counter()
                    ledger.record(grants(n, 1))
                    seconds.append(time.perf_counter() - began)

            clients = [threading.Thread(target=client, args=(n,)) for n in range(threads)]
            began = time.perf_counter()
            for one in clients:
                one.start()
            for one in clients:
                one.join()
            done = threads * each / (time.perf_counter() - began)
            p50, p99 = quantiles(seconds)
            yield row(f"one event each from {threads} callers at once", done, "events/s", target="≥ 2,000")
            yield row(f"… of which a caller waits, p50 of {threads}", p50, "ms")
            yield row(f"… of which a caller waits, p99 of {threads}", p99, "ms")


def gate(given: argparse.Namespace) -> Iterator[Row]:
    people = given.people
    with tempfile.TemporaryDirectory(prefix="comity-bench-") as name, ledger_at(Path(name)) as ledger:

        def fill() -> None:
            for start in range(0, people, 2 * BATCH):
                ledger.record(grants(start, min(2 * BATCH, people - start)))

        yield row(f"filling a ledger with {people:,} people", rate(people, fill), "events/s")
        rng = random.Random(2)
        seconds = []
        for _ in range(2_000):
            identifier = person(rng.randrange(2 * people))[0][1]
            began = time.perf_counter()
            ledger.check(identifier, "email", PURPOSE, PARTNER)
            seconds.append(time.perf_counter() - began)
        p50, p99 = quantiles(seconds)
        yield row("point check, p50", p50, "ms")
        yield row("point check, p99", p99, "ms", target="< 2")

        rows = [person(n)[0][1] for n in range(people // 2, people // 2 + people)]
        rng.shuffle(rows)
        column = pa.array(rows, pa.binary())
        floor = _set_gate(rows, rows[: people // 2])
        yield row(f"bare set lookup and hash list over {people:,} rows", floor, "s")
        asked = ConsentGate(ledger)

        def ask(column: pa.Array = column) -> float:
            began = time.perf_counter()
            found = asked.filter("email", column, purpose=PURPOSE, partner=PARTNER)
            took = time.perf_counter() - began
            if found.allowed != people - people // 2:
                raise SystemExit(f"The gate let {found.allowed} through.")
            return took

        target = "≤ 1.5"
        yield row(f"gate, {people:,} rows, nothing kept", ask(), "s", target=target, floor=floor)
        yield row("gate, the same column again", min(ask(), ask()), "s", target=target, floor=floor)
        ledger.record([withdraw(person(2 * people)), grants(2 * people + 1, 1)[0]])
        yield row("gate, the same column after the log grew", ask(), "s", target=target, floor=floor)
        other = pa.array(rows[::-1], pa.binary())
        yield row("gate, another column", ask(other), "s", target=target, floor=floor)
        yield from _states(ledger, people)


def _set_gate(rows: list[bytes], allowed: list[bytes]) -> float:
    """What a gate cannot do without: a keyed hash a row, a set lookup, a salted hash, a Merkle root."""
    import hmac

    known = {hmac.digest(b"k" * 32, r, "sha256") for r in allowed}
    began = time.perf_counter()
    lookups = [hmac.digest(b"k" * 32, r, "sha256") for r in rows]
    level = sorted(sha256(b"s" * 45 + lookup).digest() for lookup in lookups if lookup in known)
    while len(level) > 1:
        pairs = iter(level)
        odd = level[len(level) & ~1 :]
        level = [sha256(b"\x01" + a + b).digest() for a, b in zip(pairs, pairs, strict=False)] + odd
    return time.perf_counter() - began


def _states(ledger: Ledger, people: int) -> Iterator[Row]:
    roots = StateRoots(ledger)
    yield row(f"state tree of {people:,} people from nothing", rate(people, roots.commit), "pairs/s")
    seconds = []
    for n in range(200):
        ledger.record([withdraw(person(n))])
        began = time.perf_counter()
        roots.commit()
        seconds.append(time.perf_counter() - began)
    yield row("state root committed after one change, p50", quantiles(seconds)[0], "ms")
    for n in range(0, 10_000, BATCH):
        ledger.record([withdraw(person(1_000 + k), PURPOSE) for k in range(n, n + BATCH)])
    yield row("state root committed after 10,000 changes", rate(10_000, roots.commit), "pairs/s")
    seconds = []
    for n in range(500):
        began = time.perf_counter()
        proof = roots.prove(person(n * 7)[0][1], "email", PURPOSE, PARTNER)
        seconds.append(time.perf_counter() - began)
    p50, p99 = quantiles(seconds)
    yield row("current-state proof (six places), p50", p50, "ms")
    yield row("current-state proof (six places), p99", p99, "ms")
    yield row("… as JSON", len(json.dumps(proof.to_dict())) / 1024, "KiB")
    began = time.perf_counter()
    for _ in range(200):
        proof.verify(ledger.key)
    yield row("… verified offline", (time.perf_counter() - began) / 200 * 1e3, "ms")


def inclusion(given: argparse.Namespace) -> Iterator[Row]:
    """Proofs out of a log of synthetic tiles: right hashes above, random ones below."""
    size = given.entries
    with tempfile.TemporaryDirectory(prefix="comity-bench-") as name, ledger_at(Path(name)) as ledger:
        root, leaf = _synthetic(ledger, size)
        log = ledger.log
        rng = random.Random(3)
        seconds = []
        with ledger.store.read() as view:
            hashes = {n: view.tile(0, n // 256)[n % 256 * 32 :][:32] for n in rng.sample(range(size), 2_000)}
        checkpoint = log.checkpoint()
        for index, hashed in hashes.items():
            began = time.perf_counter()
            (proof,) = log.prove_many([index])
            seconds.append(time.perf_counter() - began)
            verify_inclusion(index, size, hashed, proof.path, root)
            assert proof.entry == leaf and checkpoint.root == root
        p50, p99 = quantiles(seconds)
        yield row(f"inclusion proof among {size:,} entries, p50", p50, "ms", target="< 1")
        yield row(f"inclusion proof among {size:,} entries, p99", p99, "ms", target="< 1")


def _synthetic(ledger: Ledger, size: int) -> tuple[bytes, bytes]:
    leaf, edge, level, index = b"{}", [], 0, 0
    hashes = b""
    with ledger.store.write() as tx:
        tx.add_entries([EntryRow(n, leaf, 0) for n in range(1, size)])
    log: Any = ledger.log
    log.static = None
    with ledger.store.write() as tx:
        above = b"".join(os.urandom(1 << 20) for _ in range(size * 32 // (1 << 20) + 1))[: size * 32]
        while above:
            hashes, above = above, b""
            full = len(hashes) // 8192
            carried = []
            for index in range(full):
                tile = hashes[index * 8192 : (index + 1) * 8192]
                carried.append(tile_root(tile))
                tx.put_tiles([(level, index, tile)])
            edge.append(hashes[full * 8192 :])
            if edge[-1]:
                tx.put_tiles([(level, full, edge[-1])])
            above = b"".join(carried)
            level += 1
        root = root_from_edge(edge)
        tx.set_head(tx.head(), Head(size, root, 1))
    log._latest = None
    return root, leaf


def trees(given: argparse.Namespace) -> Iterator[Row]:
    """The log alone (no people, no files) against pymerkle's tree in SQLite."""
    count, proofs = given.tree, 2_000
    with tempfile.TemporaryDirectory(prefix="comity-bench-") as name:
        folder = Path(name)
        engine = sa.create_engine(f"sqlite:///{folder}/log.db")
        metadata.create_all(engine)
        store = SqlStore(engine)
        store.prepare()
        key = SigningKey.generate()
        verifier = VerifierKey("bench.example/tree", key.public.bytes32)
        log = TransparencyLog(
            store,
            NoteSigner(verifier, key.sign_raw),
            clock=lambda: datetime.datetime.now(datetime.UTC),
            random=os.urandom,
        )
        commits = [sha256(n.to_bytes(8, "big")).digest() for n in range(count)]

        class Bare:
            def __init__(self, start: int) -> None:
                self.start = start

            def stage(self, _tx: object, first: int, _now: int) -> list[Staged]:
                part = commits[self.start : self.start + BATCH]
                return [Staged("bench", c, "0" * 64, first + n) for n, c in enumerate(part)]

        def work() -> None:
            for start in range(0, count, BATCH):
                log.append(Bare(start))

        ours: dict[str, float] = {"append": count / rate(count, work)}
        rng = random.Random(1)
        places = [rng.randrange(count) for _ in range(proofs)]
        began = time.perf_counter()
        made = [log.prove(place) for place in places]
        ours["prove"] = time.perf_counter() - began
        began = time.perf_counter()
        for proof in made:
            proof.verify(verifier)
        ours["verify"] = time.perf_counter() - began
        engine.dispose()
        theirs: dict[str, float] = {}
        if not given.no_peers:
            command = [
                peer_python("pymerkle"), HERE / "peers" / "pymerkle_tree.py", "--db", folder / "peer.db",
                "--entries", str(count), "--batch", str(BATCH), "--proofs", str(proofs),
            ]  # fmt: skip
            theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            yield row("pymerkle: append to a stored tree", count / theirs["append"], "entries/s")
        floor = count / theirs["append"] if theirs else None
        yield row(
            "Comity's log: append to a stored, signed tree", count / ours["append"], "entries/s", floor=floor
        )
        for what, name_ in (("inclusion proof", "prove"), ("inclusion proof checked", "verify")):
            if theirs:
                yield row(f"pymerkle: {what}", theirs[name_] / proofs * 1e3, "ms")
            base = theirs[name_] / proofs * 1e3 if theirs else None
            yield row(f"Comity's log: {what}", ours[name_] / proofs * 1e3, "ms", floor=base)


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "appends": appends, "crowd": crowd, "gate": gate, "inclusion": inclusion, "trees": trees,
}  # fmt: skip


def show(rows: list[Row]) -> None:
    """The table."""
    head = ("what", "figure", "unit", "aimed at", "÷ floor or peer")
    lines = [
        (
            r["what"],
            f"{r['figure']:,.0f}" if r["figure"] >= 100 else f"{r['figure']:.2f}",
            r["unit"],
            r["target"],
            "" if r["of_floor"] is None else f"{r['of_floor']:.2f}",
        )
        for r in rows
    ]
    widths = [max(len(line[n]) for line in (head, *lines)) for n in range(len(head))]
    for line in (head, tuple("-" * width for width in widths), *lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--events", type=int, default=100_000, help="events of the append figures")
    parser.add_argument("--singles", type=int, default=10_000, help="single events of the crowd")
    parser.add_argument("--threads", type=int, nargs="+", default=[64, 256], help="callers at once")
    parser.add_argument("--people", type=int, default=1_000_000, help="people of the gate")
    parser.add_argument("--entries", type=int, default=10_000_000, help="entries of the synthetic log")
    parser.add_argument("--tree", type=int, default=200_000, help="entries of the bare trees")
    parser.add_argument("--no-peers", action="store_true", help="do not install or run the peer")
    parser.add_argument("--json", type=Path, help="write every figure there")
    given = parser.parse_args()

    facts = {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **machine()}
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load_before']:.1f}", flush=True)
    rows: list[Row] = []
    for name in given.only:
        for one in PARTS[name](given):
            rows.append(one)
            print(f"  {one['what']}: {one['figure']:,.2f} {one['unit']}", file=sys.stderr, flush=True)
    show(rows)
    if given.json:
        given.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
