"""The side without the key: products of the other's ciphertexts and own plaintexts, added up and hidden."""

from __future__ import annotations

from typing import Any

import tenseal.sealapi as seal

from clean_room.encryption.parameters import SLOTS, Integers, Parameters, Residues
from clean_room.encryption.serialisation import forms, save, switch_down
from clean_room.group.points import Buffer, Random

__all__ = ["Evaluator"]


class Evaluator:
    """Works under a partner's public key. PeerViolation if it is not one of these parameters.

    Ciphertexts, plaintexts and running sums stay in SEAL's NTT form, where a product is pointwise.
    """

    def __init__(self, parameters: Parameters, public_key: Buffer) -> None:
        self.parameters = parameters
        self._encryptor = seal.Encryptor(
            parameters.context, forms(parameters).key.load(parameters, public_key)
        )
        self._evaluator = seal.Evaluator(parameters.context)

    def __repr__(self) -> str:
        return "Evaluator(…)"

    def plaintext(self, values: Integers | Residues) -> Any | None:
        """Up to 8192 own integers, one a slot; None if all are 0 mod t, as such a product would be no
        encryption (transparent)."""
        residues = self.parameters.residues(values)
        return self._plaintext(residues) if residues.any() else None

    def ciphertext(self, data: Buffer) -> Any:
        """Read one block of the partner's; PeerViolation if it is not a fresh ciphertext."""
        ciphertext = forms(self.parameters).fresh.load(self.parameters, data)
        self._evaluator.transform_to_ntt_inplace(ciphertext)
        return ciphertext

    def add_product(self, total: Any | None, ciphertext: Any, plaintext: Any) -> Any:
        """`total` (None is nothing yet) plus ciphertext · plaintext, slot by slot. Changes `total`."""
        product = seal.Ciphertext()
        self._evaluator.multiply_plain(ciphertext, plaintext, product)
        if total is None:
            return product
        self._evaluator.add_inplace(total, product)
        return total

    def hide(self, total: Any | None, random: Random) -> tuple[bytes, int]:
        """`total` flooded, masked and switched down to the answer's modulus; and Σr mod t of the mask.

        What decrypts is uniform mod t in every slot (r). The noise that decrypts along with it would tell
        the holder of the key the plaintexts taken, and SEAL does not flood (smudge) it. Enc(0)·p₁·p₂ with
        p₁, p₂ uniform is an encryption of 0 whose noise is larger, by the size of one more plaintext product,
        than that of a sum of B products: 2⁵² / √B times for t of 45 bits, 2⁵⁵ / √B for 48.
        """
        hidden = self._flood(random)
        if total is not None:
            self._evaluator.add_inplace(hidden, total)
        self._evaluator.transform_from_ntt_inplace(hidden)
        r = self.parameters.uniform(SLOTS, random)
        self._evaluator.add_plain_inplace(hidden, self.parameters.encode(r))
        switch_down(self._evaluator, hidden)
        return save(hidden), self.parameters.total(r)

    def _flood(self, random: Random) -> Any:
        flood = seal.Ciphertext()
        self._encryptor.encrypt_zero(flood)
        self._evaluator.transform_to_ntt_inplace(flood)
        for _ in range(2):
            p = self._plaintext(self.parameters.uniform(SLOTS, random))
            self._evaluator.multiply_plain_inplace(flood, p)
        return flood

    def _plaintext(self, residues: Residues) -> Any:
        plain = self.parameters.encode(residues)
        self._evaluator.transform_to_ntt_inplace(plain, self.parameters.context.first_parms_id())
        return plain
