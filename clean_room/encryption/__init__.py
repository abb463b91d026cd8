"""Sums under encryption: BFV over packed slots (Fan and Vercauteren 2012), by TenSEAL's binding of SEAL.

One side encrypts numbers, the other multiplies them with numbers of its own and adds up; the first decrypts
the total behind a mask, and learns nothing else, be it from the slots or from the noise:

>>> import numpy as np, os
>>> from clean_room.encryption import Evaluator, Parameters, SecretKey
>>> parameters = Parameters(35_184_371_613_697)
>>> key = SecretKey(parameters)
>>> theirs = key.encrypt(np.array([10, 20, 30]))
>>> evaluator = Evaluator(parameters, key.public_key)
>>> ours = evaluator.plaintext(np.array([1, 0, -1]))
>>> total = evaluator.add_product(None, evaluator.ciphertext(theirs), ours)
>>> answer, mask = evaluator.hide(total, os.urandom)
>>> (key.slot_sum(answer) - mask) % parameters.plain_modulus - parameters.plain_modulus
-20

Calls into SEAL hold the interpreter's lock, so threads do not help and event loops wait.
"""

from __future__ import annotations

from clean_room.encryption.evaluator import Evaluator
from clean_room.encryption.parameters import SLOTS, Integers, Parameters, Residues, blocks
from clean_room.encryption.secret_key import SecretKey

__all__ = ["SLOTS", "Evaluator", "Integers", "Parameters", "Residues", "SecretKey", "blocks"]
