"""JSON Web Signatures over the node's documents, and the public key as a JSON Web Key.

Compact serialisation (RFC 7515), Ed25519 under the algorithm name `EdDSA` (RFC 8037), key ids by
thumbprint (RFC 7638). One algorithm is written and one is read: a header that asks for another is refused,
and every document says by its `typ` what kind it is.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

from consent.encoding import canonical_json, parse_json
from privacy.errors import ComityError, Tampered
from privacy.signing import PublicKey, SigningKey

__all__ = ["key_set", "public_jwk", "sign_document", "verify_document"]

ALGORITHM = "EdDSA"
MAX_DOCUMENT = 1 << 20  # bytes of payload


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _key(public: PublicKey) -> OKPKey:
    return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": _base64url(public.bytes32)})


def public_jwk(public: PublicKey) -> dict[str, str]:
    """The key as a JWK (RFC 8037 §2), with its thumbprint as `kid`."""
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": _base64url(public.bytes32),
        "kid": _key(public).thumbprint(),
        "alg": ALGORITHM,
        "use": "sig",
    }


def key_set(*keys: PublicKey) -> dict[str, list[dict[str, str]]]:
    """A JWK set (RFC 7517 §5)."""
    return {"keys": [public_jwk(key) for key in keys]}


def sign_document(key: SigningKey, kind: str, document: object) -> str:
    """`document` (JSON) signed in compact form; `kind` becomes the `typ` of the header."""
    # Put together here because the private key never leaves SigningKey: RFC 7515 §5.1 is these two lines.
    # The input starts with "eyJ" and has no line break, so it is neither a note nor a signature base.
    header = canonical_json({"alg": ALGORITHM, "kid": _key(key.public).thumbprint(), "typ": kind})
    signed = f"{_base64url(header)}.{_base64url(canonical_json(document))}"
    return f"{signed}.{_base64url(key.sign_raw(signed.encode()))}"


class _OnlyEdDSA(JWSRegistry):
    max_payload_length = MAX_DOCUMENT

    def get_alg(self, name: str) -> Any:
        if name != ALGORITHM:
            raise UnsupportedAlgorithmError(name)
        # Not the inherited look-up, which warns that RFC 9864 would rather have the name "Ed25519".
        return self.algorithms[name]


def verify_document(token: object, public: PublicKey, kind: str) -> dict[str, Any]:
    """The JSON object that `token` signs, if by this key and of this kind. Raises Tampered."""
    wrong = Tampered("A signed document does not hold under the key given.", code="bad_signature")
    if not isinstance(token, str) or len(token) > 2 * MAX_DOCUMENT or not _canonical(token):
        raise wrong
    try:
        found = jws.deserialize_compact(token, _key(public), registry=_OnlyEdDSA())
    except (JoseError, ValueError, TypeError, KeyError, binascii.Error, RecursionError):
        raise wrong from None
    if found.headers().get("typ") != kind:
        raise Tampered("A signed document is of another kind.", code="bad_signature")
    try:
        document = parse_json(bytes(found.payload or b""), limit=MAX_DOCUMENT)
    except ComityError:
        document = None
    if not isinstance(document, dict):
        raise Tampered("A signed document is not a JSON object.", code="bad_signature")
    return document


def _canonical(token: str) -> bool:
    """Whether the three parts are base64url in their one spelling, and the header is a plain JSON object."""
    parts = token.split(".")
    try:
        raw = [base64.b64decode(p + "=" * (-len(p) % 4), altchars=b"-_", validate=True) for p in parts]
        header = json.loads(raw[0])
    except (ValueError, binascii.Error, RecursionError):
        return False
    return len(parts) == 3 and all(map(_same, raw, parts)) and isinstance(header, dict)


def _same(raw: bytes, part: str) -> bool:
    return _base64url(raw) == part
