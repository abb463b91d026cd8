from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from consent.encoding import to_micros
from consent.errors import InvalidProof
from consent.events import EventType, grant, withdraw
from consent.state_proofs import StateProof, places_of
from consent.state_roots import StateKeeper, StateRoots, check_state_tree
from consent.verify import verify_ledger
from privacy.errors import ComityError, Misuse, Tampered

ANN, BOB = [("email", b"ann@example.org")], [("email", b"bob@example.org")]


def proved(roots, person=ANN, purpose="overlap.reach"):
    return roots.prove(person[0][1], "email", purpose, "bank")


def handle_of(ledger, person=ANN):
    lookup = ledger.vault.lookup("email")(person[0][1])
    with ledger.store.read() as view:
        return view.find_subjects([lookup])[lookup]


def types(ledger):
    from consent.encoding import Leaf

    with ledger.store.read() as view:
        return [Leaf.from_bytes(row.leaf).type for row in view.entries(0, 1 << 30)]


def test_a_proof_decides_offline_as_the_ledger_does(ledger, clock):
    roots = StateRoots(ledger)
    ledger.record([grant(ANN, "overlap", partner="bank"), grant(BOB, "overlap.reach")])
    for event in (None, withdraw(ANN, "overlap.reach", partner="bank"), grant(ANN, "overlap.reach")):
        clock.move(seconds=1)
        if event is not None:
            ledger.record([event])
        document = proved(roots).to_dict()
        found = StateProof.from_dict(document).verify(ledger.key)
        assert found.since == 0 and found.checkpoint.size == found.size + 1
        answer = found.decide("overlap.reach", "bank", to_micros(clock()), ledger.policy)
        assert answer == ledger.check(ANN[0][1], "email", "overlap.reach", "bank")


def test_a_proof_of_one_question_does_not_answer_another(ledger, clock):
    ledger.record([grant(ANN, "overlap", partner="bank")])
    found = proved(StateRoots(ledger)).verify(ledger.key)
    with pytest.raises(InvalidProof):
        found.decide("overlap.reach", "other", to_micros(clock()), ledger.policy)


def test_a_proof_after_later_entries_says_how_many_there_are(ledger):
    roots = StateRoots(ledger)
    ledger.record([grant(ANN, "overlap.reach")])
    first = roots.commit()
    ledger.record([grant(BOB, "overlap.reach")])
    proof = proved(roots)
    (entry,) = ledger.log.prove_many([first.index])
    assert proof.committed.entry.index > first.index and entry.index == first.index
    older = replace(proof, committed=replace(proof.committed, entry=entry))
    with pytest.raises(Tampered):  # another entry's commitment
        older.verify(ledger.key)


def test_nothing_new_means_no_new_entry(ledger):
    roots = StateRoots(ledger)
    assert not roots.pending()
    ledger.record([grant(ANN, "overlap.reach")])
    assert roots.pending()
    first = roots.commit()
    assert not roots.pending()
    assert roots.commit() == first
    again = StateRoots(ledger)
    assert proved(again).committed.entry.index == first.index
    ledger.record_system(EventType.AUDIT, {"kind": "k"})
    assert not roots.pending() and roots.commit().index == first.index + 2


def test_the_root_is_that_of_the_set_whatever_the_history(make_node):
    from consent.state_tree import root, standing_value, state_key

    node = make_node("shop")
    ledger = node.open()
    roots = StateRoots(ledger)
    for n in range(5):
        ledger.record([grant([("email", b"%d" % i)], "overlap.reach") for i in range(n * 40, n * 40 + 60)])
        committed = roots.commit()
    salts, _ = ledger.vault.state_salts()
    with ledger.store.read() as view:
        pairs = {}
        for place, standing in view.all_standings():
            key = state_key(place.subject, place.purpose, place.partner)
            pairs[key] = standing_value(salts(key), standing)
    assert (committed.pairs, committed.root) == (len(pairs), root(pairs))


def test_an_erased_subject_vanishes_and_its_absence_can_be_proved(ledger):
    roots = StateRoots(ledger)
    ledger.record([grant(BOB, "overlap.reach")])
    only_bob = roots.commit().root
    ledger.record([grant(ANN, "overlap.reach"), grant(ANN, "overlap", partner="bank")])
    handle = handle_of(ledger)
    assert roots.commit().root != only_bob
    with ledger.store.write() as tx:
        assert tx.remove_standings([handle]) == 2
    assert roots.pending()
    after = roots.commit()
    assert after.root == only_bob and after.pairs == 1
    found = roots.prove_subject(handle, places_of("overlap.reach", "bank")).verify(ledger.key)
    assert set(found.state.values()) == {None}


def test_a_subject_recorded_again_after_removal_is_in_the_tree_again(ledger):
    roots = StateRoots(ledger)
    ledger.record([grant(ANN, "overlap.reach")])
    roots.commit()
    with ledger.store.write() as tx:
        tx.remove_standings([handle_of(ledger)])
    ledger.record([grant(ANN, "overlap.reach")])
    roots.commit()
    state = proved(roots).verify(ledger.key).state
    assert state["overlap.reach", "*"].granted_at is not None
    with ledger.store.read() as view:
        check_state_tree(ledger.vault, view)


def test_a_backlog_is_worked_off_in_parts(ledger, monkeypatch):
    monkeypatch.setattr("consent.state_roots._CHUNK", 7)
    roots = StateRoots(ledger)
    ledger.record([grant([("email", b"%d" % i)], "overlap.reach") for i in range(50)])
    assert roots.commit().pairs == 50
    with ledger.store.read() as view:
        check_state_tree(ledger.vault, view)
        assert view.state_head().through == view.head().size


def test_the_ledgers_own_check_covers_the_tree(ledger, engine):
    roots = StateRoots(ledger)
    ledger.record([grant(ANN, "overlap.reach"), grant(BOB, "overlap.reach")])
    roots.commit()
    assert verify_ledger(ledger).ok
    ledger.record([withdraw(BOB)])
    assert verify_ledger(ledger).ok  # behind, which is no contradiction
    roots.commit()
    with engine.begin() as c:
        (data,) = c.execute(sa.text("SELECT data FROM consent_state_tree WHERE path = ''")).one()
    for place in (1, 40, len(bytes(data)) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        _store(engine, bytes(changed))
        assert verify_ledger(ledger).outcome.value == "tampered"
    _store(engine, bytes(data)[:-64])
    assert verify_ledger(ledger).outcome.value == "tampered"
    _store(engine, bytes(data))
    assert verify_ledger(ledger).ok
    with engine.begin() as c:
        c.execute(sa.text("UPDATE consent_state_head SET root = :r"), {"r": bytes(32)})
    assert verify_ledger(ledger).outcome.value == "tampered"


def _store(engine, data):
    with engine.begin() as c:
        c.execute(sa.text("UPDATE consent_state_tree SET data = :d WHERE path = ''"), {"d": data})


def test_a_proof_shows_nothing_of_others(ledger):
    """Besides hashes of subtrees: one neighbour's pseudorandom key and value at most, never a handle."""
    roots = StateRoots(ledger)
    ledger.record([grant([("email", b"%d@x" % i)], "overlap.reach") for i in range(30)])
    ledger.record([grant(ANN, "overlap.reach")])
    text = str(proved(roots).to_dict())
    with ledger.store.read() as view:
        others = [place.subject for place, _ in view.all_standings() if place.subject != handle_of(ledger)]
        lookups = [lookup for handle in others for lookup in view.aliases_of(handle)]
    assert len(others) == 30
    for secret in (*others, *lookups):
        assert secret.hex() not in text


def test_every_changed_part_of_a_proof_is_noticed(ledger):
    roots = StateRoots(ledger)
    ledger.record([grant([("email", b"%d@x" % i)], "overlap.reach") for i in range(9)])
    ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    document = proved(roots).to_dict()
    StateProof.from_dict(document).verify(ledger.key)
    tried = 0
    for path, value in list(_leaves(document)):
        for other in _others(value):
            changed = _with(document, path, other)
            tried += 1
            try:
                found = StateProof.from_dict(changed).verify(ledger.key)
            except Tampered:
                continue
            # Only what a verifier need not look at may differ: which question it is, by its name.
            assert found.state.keys() != StateProof.from_dict(document).verify(ledger.key).state.keys(), path
    assert tried > 60


def _leaves(value, path=()):
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, (*path, key))
    else:
        yield path, value


def _others(value):
    if isinstance(value, str) and value:
        middle = len(value) // 2
        yield value[:middle] + ("A" if value[middle] != "A" else "B") + value[middle + 1 :]
        yield value[:-4]
    elif isinstance(value, int):
        yield value + 1
    yield [] if value is None else None


def _with(value, path, other):
    if not path:
        return other
    items = value.items() if isinstance(value, dict) else enumerate(value)
    made = {k: _with(v, path[1:], other) if k == path[0] else v for k, v in items}
    return made if isinstance(value, dict) else list(made.values())


@pytest.mark.parametrize(
    "changed",
    [{}, {"v": 1}, {"v": 1, "places": 3}, {"v": 1, "handle": "zz", "places": [], "committed": {}}],
)
def test_malformed_proofs_are_refused(changed):
    with pytest.raises(Tampered):
        StateProof.from_dict(changed)


def test_questions_that_make_no_sense_are_refused(ledger):
    roots = StateRoots(ledger)
    with pytest.raises(Misuse) as caught:
        proved(roots)
    assert caught.value.code == "unknown_subject"
    for handle, places in (
        (b"short", [("a", "b")]),
        (bytes(16), []),
        (bytes(16), [("a", str(i)) for i in range(65)]),
    ):
        with pytest.raises(Misuse):
            roots.prove_subject(handle, places)


def test_the_keeper_commits_by_itself_and_only_when_something_was_decided(ledger):
    roots = StateRoots(ledger)
    failures = []
    keeper = StateKeeper(roots, seconds=0.01, failed=failures.append)
    keeper.start()
    try:
        ledger.record([grant(ANN, "overlap.reach")])
        for _ in range(500):
            if "state.committed" in types(ledger):
                break
            _sleep()
        for _ in range(20):
            _sleep()
    finally:
        keeper.stop()
    assert types(ledger).count("state.committed") == 1 and not failures


def test_the_keeper_outlives_a_failure(ledger, monkeypatch):
    roots = StateRoots(ledger)
    ledger.record([grant(ANN, "overlap.reach")])
    failures = []
    real = roots.commit
    monkeypatch.setattr(roots, "commit", lambda: _fail() if not failures else real())
    keeper = StateKeeper(roots, seconds=0.01, failed=failures.append)
    keeper.start()
    try:
        for _ in range(500):
            if not roots.pending():
                break
            _sleep()
    finally:
        keeper.stop()
    assert len(failures) == 1 and isinstance(failures[0], ComityError) and not roots.pending()


def _fail():
    raise Misuse("not now")


def _sleep():
    import time

    time.sleep(0.01)


def test_an_expired_grant_is_proved_as_it_stands(ledger, clock):
    ledger.record([grant(ANN, "overlap.reach", expires_at=clock() + timedelta(hours=1))])
    found = proved(StateRoots(ledger)).verify(ledger.key)
    later = to_micros(clock() + timedelta(hours=2))
    assert not found.decide("overlap.reach", "bank", later, ledger.policy).allowed
