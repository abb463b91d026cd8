"""The side that holds the key: it encrypts its own numbers, and decrypts answers that are masked."""

from __future__ import annotations

from typing import Any

import tenseal.sealapi as seal

from clean_room.encryption.parameters import SLOTS, Integers, Parameters, Residues
from clean_room.encryption.serialisation import forms, load_secret, save
from clean_room.errors import Misuse, PeerViolation
from clean_room.group.points import Buffer

__all__ = ["SecretKey"]

_LEAST_BUDGET = 2
"""Bits of noise budget an answer must have left. An honest one has 4 (t of 48 bits) to 7 (45): rounding to
one prime leaves noise of 21 standard deviation where 2⁹ would be too much. One of another key has 0."""


class SecretKey:
    """A BFV key pair, fresh unless `secret` is what `secret` gave before. `public_key` is 524,401 bytes.

    SEAL draws its own randomness (BLAKE2xb, seeded by the system), so nothing here is reproducible by seed:
    a run that is taken up again needs the key itself. A public key of the same secret is another each time.
    """

    def __init__(self, parameters: Parameters, *, secret: Buffer | None = None) -> None:
        context = parameters.context
        if secret is None:
            generator = seal.KeyGenerator(context)
        else:
            generator = seal.KeyGenerator(context, load_secret(parameters, secret))
        public = seal.PublicKey()
        generator.create_public_key(public)
        self._secret = generator.secret_key()
        self.parameters = parameters
        self._encryptor = seal.Encryptor(context, self._secret)
        self._decryptor = seal.Decryptor(context, self._secret)
        self.public_key: bytes = save(public)

    def secret(self) -> bytes:
        """The secret key, to be kept sealed by whoever asks; it never travels."""
        return save(self._secret)

    def __repr__(self) -> str:
        return "SecretKey(…)"

    def encrypt(self, values: Integers) -> bytes:
        """Up to 8192 integers of magnitude below t/2, one a slot; the other slots hold 0.

        With the secret key: less noise than with the public one, and one polynomial of the two is told by
        its seed. Misuse if the values do not fit.
        """
        if len(values) > SLOTS:
            raise Misuse("A ciphertext holds 8192 rows.")
        half = self.parameters.plain_modulus // 2
        if len(values) and not (-half <= values.min() and values.max() <= half):
            raise Misuse("A value is beyond half the plaintext modulus.")
        return save(self._encryptor.encrypt_symmetric(self.parameters.encode(values)))

    def slots(self, answer: Buffer) -> Residues:
        """The 8192 slots of an answer. PeerViolation if it is not of this key, or its noise is spent."""
        ciphertext = forms(self.parameters).answer.load(self.parameters, answer)
        if self._budget(ciphertext) < _LEAST_BUDGET:
            raise PeerViolation("A masked sum cannot be decrypted: it is of another key, or too noisy.")
        plain = seal.Plaintext()
        self._decryptor.decrypt(ciphertext, plain)
        return self.parameters.decode(plain)

    def slot_sum(self, answer: Buffer) -> int:
        """Sum of all slots mod t. PeerViolation as for `slots`."""
        return self.parameters.total(self.slots(answer))

    def _budget(self, ciphertext: Any) -> int:
        return int(self._decryptor.invariant_noise_budget(ciphertext))
