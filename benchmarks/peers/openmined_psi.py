"""OpenMined's PSI, both parties in one process: the size of the intersection, nothing revealed but that."""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import private_set_intersection.python as psi

parser = argparse.ArgumentParser()
parser.add_argument("--client", type=Path, required=True)
parser.add_argument("--server", type=Path, required=True)
given = parser.parse_args()


def people(path: Path) -> list[str]:
    """The addresses of a CSV with one column."""
    with path.open(newline="") as file:
        return [row[0] for row in csv.reader(file)][1:]


wanted, held = people(given.client), people(given.server)
began = time.perf_counter()
client, server = psi.client.CreateWithNewKey(False), psi.server.CreateWithNewKey(False)
# A raw list, not a Bloom filter or a Golomb set: those find some who are not there.
setup = server.CreateSetupMessage(0.0, len(wanted), held, psi.DataStructure.RAW)
setup_bytes = setup.SerializeToString()
request = client.CreateRequest(wanted)
request_bytes = request.SerializeToString()
response = server.ProcessRequest(request)
response_bytes = response.SerializeToString()
size = client.GetIntersectionSize(setup, response)
seconds = time.perf_counter() - began
sent = len(setup_bytes) + len(request_bytes) + len(response_bytes)
print(json.dumps({"value": size, "seconds": seconds, "sent": sent}))
