"""pymerkle's tree in an SQLite file: append in batches, prove, verify. Prints one line of JSON."""

import argparse
import json
import random
import time

from pymerkle import SqliteTree, verify_inclusion

parser = argparse.ArgumentParser()
parser.add_argument("--db", required=True)
parser.add_argument("--entries", type=int, required=True)
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--proofs", type=int, required=True)
given = parser.parse_args()

entries = [b'{"commit":"%064x","id":"%036d","v":1}' % (n * 2654435761, n) for n in range(given.entries)]
tree = SqliteTree(given.db)
began = time.perf_counter()
for start in range(0, given.entries, given.batch):
    tree.append_entries(entries[start : start + given.batch])
    root = tree.get_state()
append = time.perf_counter() - began
rng = random.Random(1)
places = [rng.randrange(given.entries) for _ in range(given.proofs)]
began = time.perf_counter()
proofs = [(place, tree.prove_inclusion(place + 1, given.entries)) for place in places]
prove = time.perf_counter() - began
began = time.perf_counter()
for place, proof in proofs:
    verify_inclusion(tree.get_leaf(place + 1), root, proof)
verify = time.perf_counter() - began
print(json.dumps({"append": append, "prove": prove, "verify": verify, "root": root.hex()}))
