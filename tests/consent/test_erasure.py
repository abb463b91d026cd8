"""Erasing a person: nothing of them is left, nothing old brings them back, partners are told all the same."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import sqlalchemy as sa

from consent import tables
from consent.erasure import Erasure, Hold
from consent.events import Event, EventType, Identifier, grant, withdraw
from consent.gate import ConsentGate
from consent.imports import import_table
from consent.journal import ErasureJournal
from consent.notes import VerifierKey
from consent.preference_links import LinkEnded, PreferenceLinks
from consent.shredding import index_ranges
from consent.state import Reason
from consent.suppression import Suppressed
from consent.verify import directory_reader, verify_ledger, verify_log
from privacy.errors import BadInput, Misuse, Refused, Tampered
from privacy.signing import SigningKey

ADA = [("email", b"ada@example.org"), ("phone", b"+8613800138000")]
BEN = [("email", b"ben@example.org")]


def bank_key():
    return VerifierKey("bank.example/consent", SigningKey.from_seed(b"\x05" * 32).public.bytes32).to_text()


def handles_of(ledger, person):
    lookups = [ledger.vault.lookup(kind)(canonical) for kind, canonical in person]
    with ledger.store.read() as view:
        return lookups, list(set(view.find_subjects(lookups).values()))


def everything_stored(engine):
    """Every value of every column of every table, as bytes."""
    with engine.connect() as c:
        for table in tables.metadata.sorted_tables:
            for row in c.execute(sa.select(table)):
                for name, value in row._mapping.items():
                    if isinstance(value, (bytes, memoryview)):
                        yield f"{table.name}.{name}", bytes(value)
                    elif isinstance(value, str):
                        yield f"{table.name}.{name}", value.encode()


def traces(needles):
    """Each needle as it may stand in a text or a binary column."""
    return [form for n in needles for form in (n, n.hex().encode())]


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def erasure(ledger, node):
    return Erasure(ledger, journal=ErasureJournal(node.folder / "data" / "erasures", node.ring))


def test_nothing_of_the_person_is_left_in_any_column_or_file(node, ledger, erasure, tmp_path):
    ledger.join_partner("bank", bank_key())
    ledger.record([grant([("email", b"p%d@example.org" % i)], "overlap.reach") for i in range(300)])
    ledger.record([grant(ADA, "overlap.reach"), grant(ADA, "overlap.measure", partner="bank")])
    ledger.record([withdraw(ADA[:1], "overlap.reach"), grant(BEN, "overlap.reach")])
    links = PreferenceLinks(ledger, base_url="https://shop.example")
    token = links.create(ADA).url.rsplit("/", 1)[1]
    lookups, handles = handles_of(ledger, ADA)
    needles = traces([*lookups, *handles, *(canonical for _, canonical in ADA)])
    assert any(n in value for _, value in everything_stored(node.engine) for n in needles)

    done = erasure.erase(ADA, basis="gdpr.17")

    assert done.state == "completed"
    assert done.entries == 4  # three decisions and the withdrawal that was told to partners
    found = [place for place, value in everything_stored(node.engine) if any(n in value for n in needles)]
    assert found == []
    with pytest.raises(LinkEnded):
        links.open(token)
    assert erasure.scrub(compact=True)
    left = [p for p in files_below(tmp_path) if any(n in p.read_bytes() for n in needles)]
    assert left == []
    assert verify_ledger(ledger).ok
    assert verify_log(directory_reader(node.folder / "log"), ledger.key).ok


def test_the_answers_after_an_erasure_say_so(ledger, erasure):
    ledger.record([grant(ADA, "overlap.reach"), grant(BEN, "overlap.reach")])
    index = ledger.history(*reversed(ADA[0]))[0]["index"]

    done = erasure.erase(ADA[1:])

    for kind, canonical in ADA:
        decision = ledger.check(canonical, kind, "overlap.reach", "bank")
        assert not decision.allowed
        assert decision.reason is Reason.ERASED
        assert decision.index == done.completed_index
        assert ledger.history(canonical, kind) == []
        assert ledger.standings(canonical, kind) == {}
    ledger.prove(index).verify(ledger.key)
    from consent.history import open_entry

    with ledger.store.read() as view, pytest.raises(Misuse) as caught:
        open_entry(view, ledger.vault, index)
    assert caught.value.code == "erased"
    import pyarrow as pa

    column = pa.array([ADA[0][1], BEN[0][1]], pa.binary())
    assert ConsentGate(ledger).filter(
        "email", column, purpose="overlap.reach", partner="bank"
    ).mask.tolist() == [
        False,
        True,
    ]


def test_a_record_that_went_missing_without_an_erasure_is_tampering(node, ledger, erasure):
    ledger.record([grant(ADA, "overlap.reach"), grant(BEN, "overlap.reach")])
    erasure.erase(ADA)
    assert verify_ledger(ledger).ok
    _, (ben,) = handles_of(ledger, BEN)
    with node.engine.begin() as c:
        c.execute(sa.delete(tables.side).where(tables.side.c.subject == ben))
        c.execute(sa.delete(tables.state).where(tables.state.c.subject == ben))
    report = verify_ledger(ledger)
    assert report.outcome == "tampered"
    assert "no sealed payload" in report.detail


def test_a_record_that_is_there_again_after_its_erasure_is_tampering(node, ledger, erasure):
    ledger.record([grant(ADA, "overlap.reach")])
    with node.engine.connect() as c:
        kept = {
            t: c.execute(sa.select(t)).all()
            for t in (tables.side, tables.subjects, tables.aliases, tables.state)
        }
    erasure.erase(ADA)
    with node.engine.begin() as c:
        for table, rows in kept.items():
            keys = [column.name for column in table.primary_key]
            there = {tuple(getattr(row, k) for k in keys) for row in c.execute(sa.select(table))}
            for row in rows:
                if tuple(getattr(row, k) for k in keys) not in there:
                    c.execute(sa.insert(table).values(**row._mapping))
    report = verify_ledger(ledger)
    assert report.outcome == "tampered"
    assert "there again" in report.detail


def test_an_old_import_does_not_bring_the_person_back(ledger, erasure, tmp_path):
    rows = (
        "email,decision,purpose,at\n"
        "ada@example.org,grant,overlap.reach,2026-01-05\n"
        "ben@example.org,grant,overlap.reach,\n"
    )
    path = tmp_path / "consents.csv"
    path.write_text(rows, "utf-8")
    import_table(ledger, path)
    erasure.erase(ADA[:1])

    report = import_table(ledger, path, on_error="skip")

    assert (report.recorded, report.rejected) == (1, 1)
    assert [(e.row, e.code) for e in report.errors] == [(1, "suppressed")]
    assert handles_of(ledger, ADA)[1] == []
    path.write_text("email,decision,purpose\nada@example.org,refuse,overlap.reach\n", "utf-8")
    assert import_table(ledger, path).recorded == 0
    assert handles_of(ledger, ADA)[1] == []
    with pytest.raises(BadInput):
        import_table(ledger, path, on_error="abort")


def test_only_a_newer_grant_of_their_own_lifts_the_suppression(ledger, erasure, clock):
    before = clock() - timedelta(days=30)
    ledger.record([grant(ADA, "overlap.reach", effective_at=before)])
    erasure.erase(ADA)
    clock.move(days=1)
    own = grant(ADA[:1], "overlap.reach")
    for event, imported in (
        (grant(ADA, "overlap.reach", effective_at=before), False),
        (grant(ADA, "overlap.reach", actor="controller"), False),
        (Event(EventType.RENEWED, (Identifier(*ADA[0]),), "overlap.reach"), False),
        (own, True),
    ):
        with pytest.raises(Suppressed):
            ledger.record([event], imported=imported)
    assert handles_of(ledger, ADA)[1] == []

    ledger.record([own])

    assert ledger.check(ADA[0][1], "email", "overlap.reach", "bank").allowed
    assert ledger.check(ADA[1][1], "phone", "overlap.reach", "bank").reason is Reason.ERASED
    assert verify_ledger(ledger).ok


def test_suppressions_end(ledger, clock):
    erasure = Erasure(ledger, suppress_for=timedelta(days=10))
    erasure.erase(ADA)
    clock.move(days=11)
    assert ledger.check(ADA[0][1], "email", "overlap.reach", "bank").reason is Reason.NO_RECORD
    erasure.run_due()
    with ledger.store.read() as view:
        assert not view.any_suppression()


def test_erasing_twice_records_nothing_more(ledger, erasure):
    ledger.record([grant(ADA, "overlap.reach")])
    first = erasure.erase(ADA)
    size = ledger.head().size
    again = erasure.erase(ADA)
    assert again.already
    assert again.request == first.request
    assert ledger.head().size == size


def test_a_stranger_is_suppressed_all_the_same(ledger, erasure):
    done = erasure.erase(BEN)
    assert done.state == "completed"
    with pytest.raises(Suppressed):
        ledger.record([grant(BEN, "overlap.reach")], imported=True)
    assert verify_ledger(ledger).ok


def test_a_hold_postpones_the_deletion_but_not_the_opt_out(ledger, erasure, clock):
    ledger.record([grant(ADA, "overlap.reach")])
    held = erasure.erase(ADA, basis="gdpr.17", hold=Hold("tax_law", clock() + timedelta(days=90)))
    assert held.state == "held"
    assert ledger.check(ADA[0][1], "email", "overlap.reach", "bank").reason is Reason.RESTRICTED
    assert len(ledger.history(ADA[0][1], "email")) == 2
    assert erasure.erase(ADA).already
    with pytest.raises(Suppressed):
        ledger.record([grant(ADA, "overlap.reach")], imported=True)
    assert erasure.run_due() == []
    assert verify_ledger(ledger).ok
    clock.move(days=91)
    (done,) = erasure.run_due()
    assert done.state == "completed"
    assert done.request == held.request
    assert handles_of(ledger, ADA)[1] == []
    assert verify_ledger(ledger).ok


def test_a_hold_without_an_end_waits_for_its_release(ledger, erasure, clock):
    ledger.record([grant(ADA, "overlap.reach")])
    held = erasure.erase(ADA, hold=Hold("litigation"))
    clock.move(days=10_000)
    assert erasure.run_due() == []
    assert erasure.release(held.request).state == "completed"
    for request, code in ((held.request, "already_completed"), ("f" * 32, "unknown_request")):
        with pytest.raises(Misuse) as caught:
            erasure.release(request)
        assert caught.value.code == code
    assert ledger.check(ADA[0][1], "email", "overlap.reach", "bank").reason is Reason.ERASED


def test_nobody_is_erased_by_an_identifier_that_is_somebody_elses(ledger, erasure):
    ledger.record([grant(BEN, "overlap.reach"), grant(ADA, "overlap.reach")])
    before = ledger.head().size
    for ask in (erasure.erase, erasure.preview):
        with pytest.raises(Refused) as caught:
            ask([BEN[0], ADA[1]])
        assert caught.value.code == "several_people"
    assert ledger.head().size == before
    assert erasure.erase([BEN[0], *ADA]).entries == 4


def test_a_preview_changes_nothing(ledger, erasure):
    ledger.join_partner("bank", bank_key())
    ledger.record([grant(ADA, "overlap.reach")])
    size = ledger.head().size
    seen = erasure.preview(ADA[:1])
    assert (seen.known, seen.subjects, seen.identifiers, seen.entries, seen.partners) == (
        True,
        1,
        2,
        1,
        ("bank",),
    )
    assert ledger.head().size == size
    assert ledger.check(ADA[0][1], "email", "overlap.reach", "bank").allowed


def test_the_record_of_an_erasure_names_nobody(ledger, erasure):
    ledger.record([grant(ADA, "overlap.reach")])
    lookups, handles = handles_of(ledger, ADA)
    erasure.erase(ADA, basis="gdpr.17")
    from consent.history import openings_of

    with ledger.store.read() as view:
        said = b"".join(
            o.payload for row in view.sides(0, 1 << 40) for o in openings_of(view, ledger.vault, row)
        )
    assert b'"type"' not in said
    for needle in traces([*lookups, *handles, *(c for _, c in ADA)]):
        assert needle not in said
    completed = [json.loads(p) for p in said.replace(b"}{", b"}\n{").splitlines() if b'"entries"' in p]
    assert completed[-1]["basis"] == "gdpr.17"
    assert completed[-1]["subjects"] == 1


def test_a_fault_before_the_commit_leaves_the_person_whole(node, monkeypatch):
    ledger = node.open()
    ledger.record([grant(ADA, "overlap.reach")])
    erasure = Erasure(ledger)

    class Broken(RuntimeError):
        pass

    def broken(*_):
        raise Broken

    monkeypatch.setattr("consent.sql.entries.EntriesChanges.add_entries", broken)
    with pytest.raises(Broken):
        erasure.erase(ADA)
    monkeypatch.undo()
    assert ledger.check(ADA[0][1], "email", "overlap.reach", "bank").allowed
    assert verify_ledger(ledger).ok
    assert erasure.erase(ADA).entries == 2


@pytest.mark.parametrize("basis", ["", "Ada Lovelace", "x" * 65, "basis\n"])
def test_a_basis_is_a_word_and_no_place_for_a_name(ledger, basis):
    with pytest.raises(BadInput):
        Erasure(ledger).erase(ADA, basis=basis)
    with pytest.raises(BadInput):
        Hold(basis)


def test_nobody_is_erased_by_nothing_or_by_a_partners_pseudonym(ledger):
    for named in ([], [("pseudonym", b"bank\x00email\x00" + b"\x01" * 32)]):
        with pytest.raises(BadInput):
            Erasure(ledger).erase(named)


def test_ranges_are_the_shortest_list_of_pairs():
    assert index_ranges([]) == []
    assert index_ranges([5, 1, 2, 3, 9]) == [[1, 3], [5, 5], [9, 9]]


def test_the_journal_says_who_was_erased_to_the_ring_only(ledger, node):
    path = node.folder / "journal"
    erasure = Erasure(ledger, journal=ErasureJournal(path, node.ring))
    erasure.erase(ADA)
    erasure.erase(BEN)
    entries = ErasureJournal(path, node.ring).entries()
    hashed = ledger.vault.suppression("email", 1)
    assert [
        hashed(p[0][1]) in {lookup for lookup, _ in e.lookups}
        for e, p in zip(entries, (ADA, BEN), strict=True)
    ] == [
        True,
        True,
    ]
    assert hashed(ADA[0][1]) not in path.read_bytes()
    with path.open("ab") as file:
        file.write(b"half a li")
    assert len(ErasureJournal(path, node.ring).entries()) == 2
    erasure.erase([("email", b"cyd@example.org")])
    assert len(ErasureJournal(path, node.ring).entries()) == 3
    path.write_bytes(b"AAAA\n" + path.read_bytes())
    with pytest.raises(Tampered):
        ErasureJournal(path, node.ring).entries()


# partners


def test_an_opt_out_queued_before_the_erasure_still_reaches_the_partner(pair):
    for ledger in (pair.shop, pair.bank):
        ledger.record([grant(ADA, "overlap.reach")])
    pair.shop.record([withdraw(ADA, "overlap.reach")])
    Erasure(pair.shop).erase(ADA)
    with pair.shop.store.read() as view:
        assert all(row.pseudonyms for row in view.outbox("bank", 0, 10))
    for kind, canonical in ADA:
        assert pair.bank.check(canonical, kind, "overlap.reach", "shop").allowed
    assert pair.wire.read() == 2
    for kind, canonical in ADA:
        assert (
            pair.bank.check(canonical, kind, "overlap.reach", "shop").reason is Reason.RESTRICTED_BY_PARTNER
        )
    with pair.shop.store.read() as view:
        assert not any(row.pseudonyms for row in view.outbox("bank", 0, 10))
    assert verify_ledger(pair.shop).ok
    assert verify_ledger(pair.bank).ok


def test_a_stranger_who_asks_to_be_erased_is_denied_at_the_partner_too(pair):
    pair.bank.record([grant(BEN, "overlap.reach")])
    Erasure(pair.shop).erase(BEN)
    pair.wire.read()
    assert not pair.bank.check(*reversed(BEN[0]), "overlap.reach", "shop").allowed


def test_who_agrees_again_after_an_erasure_is_known_anew(pair, clock):
    for ledger in (pair.shop, pair.bank):
        ledger.record([grant(ADA, "overlap.reach")])
    Erasure(pair.shop).erase(ADA)
    pair.wire.read()
    clock.move(days=1)
    pair.shop.record([grant(ADA, "overlap.reach")])
    assert pair.shop.check(ADA[0][1], "email", "overlap.reach", "bank").allowed
    history = pair.shop.history(ADA[0][1], "email")
    assert [h["type"] for h in history] == ["consent.granted"]
    assert verify_ledger(pair.shop).ok


def test_a_new_partner_is_told_nothing_of_the_erased(pair, make_node):
    pair.shop.record([withdraw(ADA)])
    Erasure(pair.shop).erase(ADA)
    third = make_node("mill").open()
    pair.shop.join_partner("mill", third.vkey)
    with pair.shop.store.read() as view:
        assert view.outbox("mill", 0, 10) == []
