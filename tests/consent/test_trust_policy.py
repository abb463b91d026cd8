"""Trust policies: the specification's example and rules, each mistake refused with its line."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.checkpoint import sign_checkpoint
from consent.cosignatures import Cosigner, CosignerKey, add_signatures, cosign
from consent.errors import BadTrustPolicy, InvalidNote
from consent.notes import NoteSigner, VerifierKey
from consent.trust_policy import TrustPolicy
from privacy.signing import SigningKey


def signing(seed: int) -> SigningKey:
    return SigningKey.from_seed(bytes([seed]) * 32)


LOG = VerifierKey("log.example/a", signing(1).public.bytes32)
LOG_VKEY = LOG.to_text()
WITNESSES = {
    f"{group}{i}": CosignerKey(f"{group}{i}.example", signing(10 * which + i).public.bytes32)
    for which, group in enumerate("XY", 1)
    for i in (1, 2, 3)
}
VKEYS = {name: key.to_text() for name, key in WITNESSES.items()}

# The example of the specification, with keys.
EXAMPLE = f"""log {LOG_VKEY}

witness X1 {VKEYS["X1"]}
witness X2 {VKEYS["X2"]}
witness X3 {VKEYS["X3"]}
group X-witnesses 2 X1 X2 X3

witness Y1 {VKEYS["Y1"]}
witness Y2 {VKEYS["Y2"]}
witness Y3 {VKEYS["Y3"]}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def test_the_example_means_two_of_x_and_one_of_y():
    policy = TrustPolicy.parse(EXAMPLE)
    assert policy.log_keys("log.example/a") == (LOG,) and policy.log_keys("log.example/b") == ()
    assert policy.keys == tuple(WITNESSES.values())
    for count in range(7):
        for names in itertools.combinations(WITNESSES, count):
            expected = sum(n[0] == "X" for n in names) >= 2 and any(n[0] == "Y" for n in names)
            assert policy.satisfied_by({WITNESSES[n] for n in names}) == expected


def test_a_quorum_may_be_one_witness_or_none():
    one = TrustPolicy.parse(f"witness w {VKEYS['X1']} https://w.example/\nquorum w\n")
    assert one.satisfied_by({WITNESSES["X1"]}) and not one.satisfied_by({WITNESSES["X2"]})
    assert one.witnesses[0].url == "https://w.example/"
    assert TrustPolicy.parse("quorum none\n").satisfied_by(set())
    assert TrustPolicy.any_of({}).satisfied_by(set())
    some = TrustPolicy.any_of({"a": WITNESSES["X1"], "b": WITNESSES["X2"]})
    assert not some.satisfied_by(set()) and some.satisfied_by({WITNESSES["X2"]})


def test_blanks_tabs_comments_and_octets_are_as_specified():
    text = (
        f"  # comment \xff\n\t\n \twitness\t \xff\xfe {VKEYS['X1']}\t\n"
        f"witness K {VKEYS['X2']}\nwitness \xe2\x84\xaa {VKEYS['X3']}\nquorum \xff\xfe \n"
    ).encode("latin-1")
    policy = TrustPolicy.parse(text)
    assert policy.satisfied_by({WITNESSES["X1"]}) and not policy.satisfied_by({WITNESSES["X2"]})
    assert len({witness.name for witness in policy.witnesses}) == 3


X1, X2, X3 = (f"witness {name} {VKEYS[name]}\n" for name in ("X1", "X2", "X3"))
WRONG = {
    "no quorum": X1,
    "two quorums": X1 + "quorum X1\nquorum X1\n",
    "unknown quorum": "quorum X1\n",
    "quorum before its witness": "quorum X1\n" + X1,
    "quorum of two": X1 + X2 + "quorum X1 X2\n",
    "unknown keyword": "trust X1\nquorum none\n",
    "keywords have a case": X1 + "Quorum X1\n",
    "a name twice": X1 + X2.replace("X2 ", "X1 ", 1) + "quorum X1\n",
    "a group of a witness's name": X1 + "group X1 any X1\nquorum X1\n",
    "the name none": X1.replace("X1 ", "none ", 1) + "quorum none\n",
    "none in a group": X1 + "group g any none\nquorum g\n",
    "a group of itself": X1 + "group g any g\nquorum g\n",
    "a group of what comes later": X1 + "group g any X2\n" + X2 + "quorum g\n",
    "a member twice": X1 + "group g 2 X1 X1\nquorum g\n",
    "a member of two groups": X1 + X2 + "group g any X1\ngroup h any X1 X2\nquorum h\n",
    "an empty group": X1 + "group g any\nquorum X1\n",
    "none of": X1 + "group g 0 X1\nquorum g\n",
    "more than all": X1 + "group g 2 X1\nquorum g\n",
    "less than none": X1 + "group g -1 X1\nquorum g\n",
    "a threshold with a zero": X1 + "group g 01 X1\nquorum g\n",
    "a threshold in words": X1 + "group g one X1\nquorum g\n",
    "a threshold of another script": X1 + "group g ١ X1\nquorum g\n",
    "a witness key twice": X1 + X1.replace("X1 ", "Z ", 1) + "quorum X1\n",
    "a witness key under two names": X1
    + f"witness Z {CosignerKey('z.example', WITNESSES['X1'].public).to_text()}\nquorum X1\n",
    "a log key twice": f"log {LOG_VKEY}\nlog {LOG_VKEY}\nquorum none\n",
    "a log key under two names": f"log {LOG_VKEY}\n"
    f"log {VerifierKey('b', LOG.public).to_text()}\nquorum none\n",
    "a witness's key for a log": f"log {VKEYS['X1']}\nquorum none\n",
    "a log's key for a witness": f"witness w {LOG_VKEY}\nquorum w\n",
    "no key": "witness w\nquorum w\n",
    "half a key": X1[:-8] + "\nquorum X1\n",
    "too many words": X1[:-1] + " https://w.example more\nquorum X1\n",
    "a carriage return": X1 + "quorum X1\r\n",
    "a null": X1 + "quorum X1\x00\n",
    "a delete": X1 + "# \x7f\nquorum X1\n",
    "another space": X1 + "quorum\u00a0X1\n",
    "cut off": X1 + "quorum X1",
    "nothing": "",
    "surrogates": "\ud800\n",
    "too large": "# " + "x" * (1 << 20) + "\nquorum none\n",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_each_mistake_is_refused(text):
    with pytest.raises(BadTrustPolicy) as caught:
        TrustPolicy.parse(text)
    assert "example" not in str(caught.value)


def test_a_mistake_is_told_with_its_line():
    with pytest.raises(BadTrustPolicy, match=r"Line 4 "):
        TrustPolicy.parse(f"# one\n\n{X1}group g 2 X1\nquorum g\n")


def test_every_prefix_of_a_policy_is_refused():
    for cut in range(len(EXAMPLE)):
        with pytest.raises(BadTrustPolicy):
            TrustPolicy.parse(EXAMPLE[:cut])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_never_crash(data):
    for text in (data, EXAMPLE.encode() + data, b"quorum none\n" + data):
        try:
            TrustPolicy.parse(text)
        except BadTrustPolicy:
            continue


def test_as_many_logs_witnesses_and_groups_as_recommended_are_read():
    lines = [
        f"log {VerifierKey(f'l{i}.example', signing(100 + i).public.bytes32).to_text()}" for i in range(40)
    ]
    for i in range(40):
        lines.append(f"witness w{i} {CosignerKey(f'w{i}', signing(150 + i).public.bytes32).to_text()}")
        lines.append(f"group g{i} all w{i}" + (f" g{i - 1}" if i else ""))
    policy = TrustPolicy.parse("\n".join([*lines, "quorum g39"]) + "\n")
    assert policy.satisfied_by(set(policy.keys)) and not policy.satisfied_by(set(policy.keys[1:]))


def test_a_checkpoint_is_opened_for_listed_logs_only():
    signer = NoteSigner(LOG, signing(1).sign_raw)
    head = sign_checkpoint(3, b"\x01" * 32, signer)
    policy = TrustPolicy.parse(EXAMPLE)
    assert policy.open(head.text, LOG)[1] is False
    names = {"X1": 11, "X3": 13, "Y2": 22}
    made = [cosign(head, Cosigner(WITNESSES[n], signing(s).sign_raw), 5).signature for n, s in names.items()]
    opened, enough = policy.open(add_signatures(head.text, made), LOG)
    assert enough and len(opened.cosignatures) == 3
    other = VerifierKey("other.example", signing(1).public.bytes32)
    with pytest.raises(InvalidNote) as caught:
        policy.open(sign_checkpoint(3, b"\x01" * 32, NoteSigner(other, signing(1).sign_raw)).text, other)
    assert caught.value.code == "unknown_signer"
