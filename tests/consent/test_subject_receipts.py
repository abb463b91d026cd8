"""Receipts people keep: signed, proved, checked with other people's tools, and refused when touched."""

from __future__ import annotations

import base64
import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.encoding import canonical_json
from consent.errors import InvalidProof
from consent.events import grant, refuse, withdraw
from consent.jws import key_set, public_jwk, sign_document, verify_document
from consent.notes import VerifierKey
from consent.receipt_files import check_file
from consent.subject_receipts import (
    RECEIPT_KIND,
    STATEMENT_KIND,
    SubjectReceipts,
    read_bundle,
    verify_receipt,
    verify_receipts,
    verify_statement,
)
from privacy.errors import BadInput, ComityError, Misuse, Tampered
from privacy.signing import PublicKey, SigningKey

ANN = [("email", b"ann@example.org"), ("phone", b"+8613800138000")]
BOB = [("email", b"bob@example.org")]


@pytest.fixture
def given_out(make_node):
    """(ledger, receipts, Ann's bundle as it would be read from a file)."""
    shop = make_node("shop")
    ledger = shop.open()
    ledger.record([grant(ANN, "overlap.reach", partner="bank"), grant(BOB, "overlap.reach")])
    ledger.record([refuse(ANN, "model.credit", partner="bank")])
    ledger.withdraw(ANN)
    receipts = SubjectReceipts(ledger, shop.key)
    bundle = receipts.bundle(receipts.subjects(ANN)[0])
    return ledger, receipts, json.loads(json.dumps(bundle))


def test_a_bundle_shows_every_decision_and_nothing_of_the_identifiers(given_out):
    ledger, _, bundle = given_out
    report = verify_receipts(bundle, [ledger.key])
    assert [(r.type.value, r.purpose, r.partner) for r in report.receipts] == [
        ("consent.granted", "overlap.reach", "bank"),
        ("consent.refused", "model.credit", "bank"),
        ("consent.withdrawn", "*", "*"),
    ]
    assert [r.record["events"][0]["event_state"] for r in report.receipts] == [
        "given",
        "refused",
        "withdrawn",
    ]
    assert len({r.subject for r in report.receipts}) == 1 and report.size == ledger.head().size
    opened = json.dumps(bundle) + "".join(str(r.record) + str(r.opened.payload) for r in report.receipts)
    assert not any(word in opened for word in ("ann@", "example.org", "13800138000"))


def test_the_same_bundle_is_made_and_checked_on_every_database(ledger, node):
    ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    receipts = SubjectReceipts(ledger, node.key)
    (subject,) = receipts.subjects(ANN)
    report = verify_receipts(json.loads(json.dumps(receipts.bundle(subject))), [ledger.key])
    assert len(report.receipts) == 1
    lookups = {kind: (ledger.vault.lookup(kind)(form),) for kind, form in ANN}
    assert report.statement.pseudonyms == lookups and report.statement.subjects == {subject.hex()}


def test_jwcrypto_verifies_the_signature_under_the_published_key(given_out):
    from jwcrypto import jwk, jws

    _, receipts, bundle = given_out
    (published,) = receipts.keys["keys"]
    key = jwk.JWK.from_json(json.dumps(published))
    assert key.thumbprint() == published["kid"]
    for receipt in bundle["receipts"]:
        token = jws.JWS()
        token.deserialize(receipt["jws"])
        assert json.loads(token.objects["protected"])["kid"] == published["kid"]
        token.verify(key)
        record = json.loads(token.payload)["record"]
        assert record["schema_version"] == "ISO/IEC TS 27560:2023"
    other = jwk.JWK.from_json(json.dumps(public_jwk(SigningKey.generate().public)))
    with pytest.raises(jws.InvalidJWSSignature):
        token.verify(other)


def test_what_jwcrypto_signs_verifies_here(given_out):
    from jwcrypto import jwk, jws

    seed = bytes(range(32))
    public = SigningKey.from_seed(seed).public
    private = {**public_jwk(public), "d": base64.urlsafe_b64encode(seed).rstrip(b"=").decode()}
    token = jws.JWS(b'{"a":1}')
    token.add_signature(jwk.JWK(**private), alg="EdDSA", protected='{"alg":"EdDSA","typ":"x"}')
    assert verify_document(token.serialize(compact=True), public, "x") == {"a": 1}


def test_the_example_of_rfc_8037_verifies():
    # RFC 8037, appendix A.1, A.3 and A.4: key, thumbprint, signature over "Example of Ed25519 signing".
    key = SigningKey.from_seed(base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="))
    assert public_jwk(key.public)["x"] == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert public_jwk(key.public)["kid"] == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    signed = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    assert base64.urlsafe_b64encode(key.sign_raw(signed)).rstrip(b"=").decode() == (
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )


def _forge(header: dict[str, object], payload: bytes, key: SigningKey) -> str:
    b64 = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()  # noqa: E731
    signed = f"{b64(json.dumps(header).encode())}.{b64(payload)}"
    return f"{signed}.{b64(key.sign_raw(signed.encode()))}"


def test_only_eddsa_of_the_right_kind_in_its_one_spelling_is_accepted():
    key = SigningKey.generate()
    good = sign_document(key, "k", {"a": 1})
    assert verify_document(good, key.public, "k") == {"a": 1}
    head, body, tail = good.split(".")
    other = SigningKey.generate()
    hmac_key = base64.urlsafe_b64encode(key.public.bytes32).rstrip(b"=").decode()
    bad = [
        None, 1, b"x", "", ".", "..", "...", good + ".", good[:-1], good + "=", f" {good}", good + "\n",
        f"{head}.{body}.", f"{head}..{tail}", f"{tail}.{body}.{head}",
        _forge({"alg": "none", "typ": "k"}, b'{"a":1}', key),
        _forge({"alg": "HS256", "typ": "k"}, b'{"a":1}', key),
        _forge({"alg": "Ed25519", "typ": "k"}, b'{"a":1}', key),
        _forge({"alg": "EdDSA", "typ": "k", "crit": ["b64"], "b64": False}, b'{"a":1}', key),
        _forge({"alg": "EdDSA", "typ": "other"}, b'{"a":1}', key),
        _forge({"alg": "EdDSA"}, b'{"a":1}', key),
        _forge({"alg": "EdDSA", "typ": "k", "jwk": {"kty": "oct", "k": hmac_key}}, b'{"a":1}', other),
        _forge({"alg": "EdDSA", "typ": "k"}, b'{"a":1,"a":2}', key),
        _forge({"alg": "EdDSA", "typ": "k"}, b"[1]", key),
        _forge({"alg": "EdDSA", "typ": "k"}, b"\xff", key),
        sign_document(other, "k", {"a": 1}),
        "A" * (3 << 20),
    ]  # fmt: skip
    for token in bad:
        with pytest.raises(Tampered):
            verify_document(token, key.public, "k")


def test_a_document_of_another_kind_is_no_receipt(given_out):
    ledger, _, bundle = given_out
    with pytest.raises(Tampered):
        verify_statement(bundle["receipts"][0]["jws"], ledger.key)
    with pytest.raises(Tampered):
        verify_receipt({**bundle["receipts"][0], "jws": bundle["pseudonyms"]}, [ledger.key])


def test_every_word_of_a_bundle_counts(given_out):
    ledger, _, bundle = given_out
    keys = [ledger.key]

    def changed(change):
        other = copy.deepcopy(bundle)
        change(other)
        return other

    swapped = changed(lambda b: b["receipts"].reverse())
    crossed = changed(lambda b: b["receipts"][0].update(jws=b["receipts"][1]["jws"]))
    twice = changed(lambda b: b["receipts"].append(b["receipts"][-1]))
    foreign = changed(lambda b: b.update(jwks=key_set(SigningKey.generate().public)))
    renamed = changed(lambda b: b.update(format="comity/subject-receipts@v2"))
    rekeyed = changed(lambda b: b.update(verifier_key=b["verifier_key"].replace("shop", "bank")))
    bare = changed(lambda b: b.update(receipts=[{"jws": b["receipts"][0]["jws"]}]))
    many = changed(lambda b: b.update(receipts=b["receipts"] * 5000))
    for wrong in (swapped, crossed, twice, foreign, renamed, rekeyed, bare, many):
        with pytest.raises(Tampered):
            verify_receipts(wrong, keys)
    with pytest.raises(Tampered):
        verify_receipts(bundle, [VerifierKey(ledger.origin, SigningKey.generate().public.bytes32)])


def test_a_signed_record_that_says_more_than_the_log_is_refused(make_node):
    # The operator signs: the receipt's words must still be those that the log has committed to.
    shop = make_node("shop")
    ledger = shop.open()
    ledger.record([withdraw(ANN, "overlap.reach", partner="bank")])
    receipts = SubjectReceipts(ledger, shop.key)
    (receipt,) = receipts.bundle(receipts.subjects(ANN)[0])["receipts"]
    said = verify_document(receipt["jws"], shop.key.public, RECEIPT_KIND)
    said["record"]["events"][0]["event_state"] = "given"
    with pytest.raises(Tampered, match="not what the log entry says"):
        verify_receipt({**receipt, "jws": sign_document(shop.key, RECEIPT_KIND, said)}, [ledger.key])


def test_receipts_of_two_people_are_no_bundle(given_out):
    ledger, receipts, bundle = given_out
    bobs = receipts.bundle(receipts.subjects(BOB)[0])
    mixed = {**bundle, "receipts": [bundle["receipts"][0], bobs["receipts"][0]]}
    for statement in (bundle["pseudonyms"], bobs["pseudonyms"], None):
        with pytest.raises(Tampered, match="one person"):
            verify_receipts({**mixed, "pseudonyms": statement}, [ledger.key])


def test_a_receipt_of_use_is_no_decision_of_a_person(given_out):
    ledger, receipts, _ = given_out
    with ledger.store.read() as view:
        from consent.history import open_entry

        leaf, opening = open_entry(view, ledger.vault, 0)  # the policy
    with pytest.raises(Tampered):
        receipts.of_entries([(0, leaf, opening)])


def test_a_stranger_has_no_receipts(given_out):
    _, receipts, _ = given_out
    assert receipts.subjects([("email", b"nobody@example.org")]) == []
    with pytest.raises(Misuse) as refused:
        receipts.bundle(b"\x00" * 16)
    assert refused.value.code == "unknown_subject"


def test_receipts_are_signed_with_the_key_of_their_log(given_out):
    ledger, _, _ = given_out
    with pytest.raises(Misuse):
        SubjectReceipts(ledger, SigningKey.generate())


@settings(max_examples=150)
@given(data=st.data())
def test_no_changed_character_of_a_receipt_goes_unnoticed(data):
    key, receipt = _fixed()
    name = data.draw(st.sampled_from(["jws", "proof"]))
    place = data.draw(st.integers(0, len(receipt[name]) - 1))
    letter = data.draw(st.sampled_from("Aa0+/=-_. \n\x00é"))
    text = receipt[name][:place] + letter + receipt[name][place + 1 :]
    if text == receipt[name]:
        return
    with pytest.raises(Tampered):
        verify_receipt({**receipt, name: text}, [key])


_FIXED = []


def _fixed():
    """One receipt, made once for all examples."""
    if not _FIXED:
        import sqlalchemy as sa

        from consent.ledger import Ledger
        from consent.sql import metadata
        from privacy.keys import KeyRing

        engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
        metadata.create_all(engine)
        key = SigningKey.from_seed(b"\x09" * 32)
        ledger = Ledger.open(
            engine,
            keyring=KeyRing.from_root(b"\x01" * 32),
            signing_key=key,
            origin="x.example/log",
            directory=None,
        )
        ledger.record([grant(ANN, "overlap.reach"), grant(BOB, "overlap.reach")])
        receipts = SubjectReceipts(ledger, key)
        _FIXED.append((ledger.key, receipts.bundle(receipts.subjects(ANN)[0])["receipts"][0]))
        engine.dispose()
    return _FIXED[0]


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["format", "receipts", "jws", "proof", "pseudonyms", "jwks", "verifier_key", "uses", "earlier",
             "grants", "opt_out", "x"]
        ),
        inner | st.sampled_from(["comity/subject-receipts@v1", "comity/absence-bundle@v1"]),
        max_size=8,
    ),
    max_leaves=20,
).filter(lambda value: isinstance(value, dict | str)))  # fmt: skip
def test_no_shape_of_file_makes_the_check_fail_otherwise_than_by_refusing(value):
    key = VerifierKey("x.example/log", SigningKey.from_seed(b"\x01" * 32).public.bytes32)
    with pytest.raises((Tampered, BadInput)):
        check_file(value, [key])


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":1,"a":2}', b"[" * 100_000])
def test_what_is_not_a_json_object_is_not_a_bundle(data):
    with pytest.raises(BadInput):
        read_bundle(data)


def test_a_single_proof_file_opens_its_entry(given_out):
    ledger, _, bundle = given_out
    checked = check_file(bundle["receipts"][1]["proof"], [ledger.key])
    assert checked.kind == "proof" and checked.entries[0]["record"]["events"][0]["event_state"] == "refused"
    with pytest.raises(InvalidProof):
        check_file(bundle["receipts"][1]["proof"].replace("index", "lndex", 1), [ledger.key])


def test_a_statement_is_of_this_log_and_of_this_form(given_out):
    ledger, receipts, bundle = given_out
    key = PublicKey(ledger.key.public)
    said = verify_document(bundle["pseudonyms"], key, STATEMENT_KIND)
    signer = receipts._key
    for change in (
        {"origin": "bank.example/consent"}, {"pseudonyms": []}, {"pseudonyms": {"email": "x"}}, {"size": -1},
        {"pseudonyms": {"email": ["AA=="]}}, {"pseudonyms": {"email": [1]}}, {"subjects": "x"},
        {"size": True},
    ):  # fmt: skip
        with pytest.raises(Tampered):
            verify_statement(sign_document(signer, STATEMENT_KIND, {**said, **change}), ledger.key)
    assert canonical_json(said)


def test_errors_about_receipts_hold_no_value(given_out):
    ledger, _, bundle = given_out
    bundle["receipts"][0]["proof"] = bundle["receipts"][0]["proof"].replace("index", "SECRETVALUE")
    with pytest.raises(ComityError) as refused:
        verify_receipts(bundle, [ledger.key])
    assert "SECRETVALUE" not in str(refused.value)


def test_receipts_reach_back_to_whoever_was_merged_into_the_person(make_node):
    from consent.merging import Merging

    shop = make_node("shop")
    ledger = shop.open()
    ledger.record(
        [grant(ANN[:1], "overlap.reach", partner="bank"), withdraw(ANN[1:], "model", partner="bank")]
    )
    Merging(ledger).merge(ANN[:1], ANN[1:])
    receipts = SubjectReceipts(ledger, shop.key)
    (subject,) = receipts.subjects(ANN)
    report = verify_receipts(json.loads(json.dumps(receipts.bundle(subject))), [ledger.key])
    assert {r.index for r in report.receipts} >= {1, 2}
    assert len({r.subject for r in report.receipts}) == 2  # the handles of both stand in the log
    assert set(report.statement.pseudonyms) == {"email", "phone"}


def test_an_erased_person_has_neither_receipts_nor_links(make_node):
    from consent.erasure import Erasure
    from consent.people import People
    from consent.preference_links import LinkEnded

    shop = make_node("shop")
    ledger = shop.open()
    ledger.record([grant(ANN, "overlap.reach", partner="bank"), grant(BOB, "overlap.reach")])
    people = People.of(ledger, shop.key, owner="Shop", base_url="https://shop.example")
    link, bobs = people.links.create(ANN), people.links.create(BOB)
    Erasure(ledger).erase(ANN[:1])
    assert people.receipts.subjects(ANN) == [] and len(people.links.links()) == 1
    with pytest.raises(LinkEnded):
        people.links.open(link.url.rsplit("/", 1)[1])
    people.links.open(bobs.url.rsplit("/", 1)[1])
