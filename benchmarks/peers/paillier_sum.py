"""Sum a column under Paillier, one ciphertext a row: encrypt, add up half of them, decrypt."""

from __future__ import annotations

import argparse
import json
import random
import time

from phe import paillier

parser = argparse.ArgumentParser()
parser.add_argument("--rows", type=int, required=True)
parser.add_argument("--bits", type=int, required=True)
given = parser.parse_args()
public, private = paillier.generate_paillier_keypair(n_length=given.bits)
values = [random.Random(row).randrange(100_000) for row in range(given.rows)]
began = time.perf_counter()
encrypted = [public.raw_encrypt(value) for value in values]
encrypt = time.perf_counter() - began
began = time.perf_counter()
total = 1
for ciphertext in encrypted[::2]:
    total = total * ciphertext % public.nsquare
add = time.perf_counter() - began
if private.raw_decrypt(total) != sum(values[::2]):
    raise SystemExit("The sum is wrong.")
size = (public.nsquare.bit_length() + 7) // 8
print(json.dumps({"rows": given.rows, "encrypt": encrypt, "add": add, "ciphertext": size}))
