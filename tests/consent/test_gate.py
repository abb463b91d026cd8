from __future__ import annotations

import base64
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consent.errors import UnknownPurpose
from consent.events import grant, refuse, withdraw
from consent.gate import ConsentGate
from consent.subjects import KeyedHash
from privacy.errors import BadInput


def column(*names):
    return pa.array([None if n is None else n.encode() for n in names], pa.binary())


def through(gate, *names, purpose="overlap.reach", partner="bank"):
    return gate.filter("email", column(*names), purpose=purpose, partner=partner).mask.tolist()


def test_only_the_granted_pass_and_nulls_never_do(ledger):
    ledger.record(
        [grant([("email", b"a")], "overlap.reach", partner="bank"), refuse([("email", b"b")], "overlap")]
    )
    gate = ConsentGate(ledger)
    assert through(gate, "a", "b", "c", None, "a") == [True, False, False, False, True]
    assert through(gate, "a", partner="other") == [False]
    assert through(gate, "a", purpose="overlap.measure") == [False]
    assert through(gate) == []


def test_the_next_question_after_a_withdrawal_sees_it(ledger):
    ledger.record([grant([("email", b"a")], "overlap.reach")])
    gate = ConsentGate(ledger)
    assert through(gate, "a") == [True]
    ledger.withdraw([("email", b"a")])
    assert through(gate, "a") == [False]


def test_expiry_is_noticed_without_an_event(ledger, clock):
    ledger.record([grant([("email", b"a")], "overlap.reach", expires_at=clock() + timedelta(seconds=10))])
    gate = ConsentGate(ledger)
    assert through(gate, "a") == [True]
    clock.move(seconds=10)
    assert through(gate, "a") == [False]


def test_the_evidence_names_the_head_and_the_set(ledger):
    ledger.record([grant([("email", b"%d" % i)], "overlap.reach") for i in range(5)])
    result = ConsentGate(ledger).filter(
        "email", column("1", "2", "1", "9"), purpose="overlap.reach", partner="bank"
    )
    evidence, head = result.evidence, ledger.head()
    assert (evidence.log_size, evidence.log_origin) == (head.size, head.origin)
    assert base64.b64decode(evidence.log_root) == head.root
    assert evidence.count == len(result.members) == 2 and result.allowed == 3
    assert base64.b64decode(evidence.set_root) == result.members.root
    assert evidence.policy_hash == ledger.policy.hash
    again = ConsentGate(ledger).filter("email", column("1", "2"), purpose="overlap.reach", partner="bank")
    assert again.evidence.set_root != evidence.set_root  # a fresh salt: two uses cannot be joined


def test_unknown_purposes_and_other_columns_are_refused(ledger):
    gate = ConsentGate(ledger)
    with pytest.raises(UnknownPurpose):
        through(gate, "a", purpose="overlap.sms")
    for wrong in (pa.array(["text"]), pa.array([1, 2])):
        with pytest.raises(BadInput):
            gate.filter("email", wrong, purpose="overlap.reach", partner="bank")


def test_a_chunked_or_large_column_is_the_same_column(ledger):
    ledger.record([grant([("email", b"a")], "overlap.reach")])
    gate = ConsentGate(ledger)
    for made in (
        pa.chunked_array([column("a"), column(None, "b")]),
        column("a", None, "b").cast(pa.large_binary()),
    ):
        mask = gate.filter("email", made, purpose="overlap.reach", partner="bank").mask
        assert mask.tolist() == [True, False, False] and mask.dtype == np.bool_


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=100), st.sampled_from(["email", "phone"]))
def test_the_fast_keyed_hash_is_hmac(message, key, kind):
    import hmac

    expected = hmac.digest(key, kind.encode() + b"\x00" + message, "sha256")
    assert KeyedHash(key, kind)(message) == expected
    assert KeyedHash(key, kind).column([message, None]) == [expected, None]


STEPS = st.lists(
    st.tuples(
        st.sampled_from([grant, grant, refuse, withdraw]),
        st.integers(0, 4),
        st.sampled_from(["overlap", "overlap.reach", "model"]),
        st.sampled_from(["bank", "other", "*"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(STEPS, st.integers(0, 1 << 60))
def test_the_bulk_answer_is_the_single_answer(make_node, steps, run):
    ledger = _shared(make_node)
    ledger.record([make([("email", b"%d-%d" % (run, who))], p, partner=q) for make, who, p, q in steps])
    names = [b"%d-%d" % (run, who) for who in range(6)]
    for purpose in ("overlap.reach", "model.credit"):
        mask = ConsentGate(ledger).filter("email", pa.array(names), purpose=purpose, partner="bank").mask
        assert mask.tolist() == [ledger.check(n, "email", purpose, "bank").allowed for n in names]


_LEDGERS: dict[int, object] = {}


def _shared(make_node):
    if id(make_node) not in _LEDGERS:
        _LEDGERS[id(make_node)] = make_node("gate").open()
    return _LEDGERS[id(make_node)]
