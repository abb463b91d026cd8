"""One party of SecretFlow's ECDH PSI, run by the interpreter of its own environment.

Says READY on a line when linked to the other party, starts when a line comes in, and answers one line of
JSON: the size of the intersection.
"""

from __future__ import annotations

import argparse
import json
import sys

from spu import libspu, psi


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--ports", type=int, nargs=2, required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--curve", required=True)
    given = parser.parse_args()

    description = libspu.link.Desc()
    description.recv_timeout_ms = 30 * 60 * 1000
    for rank, port in enumerate(given.ports):
        description.add_party(f"party{rank}", f"127.0.0.1:{port}")
    link = libspu.link.create_brpc(description, given.rank)
    print("READY", flush=True)
    sys.stdin.readline()

    report = psi.psi_execute(
        psi.PsiExecuteConfig(
            protocol_conf=psi.PsiProtocolConfig(
                protocol=psi.PsiProtocol.PROTOCOL_ECDH,
                receiver_rank=0,
                broadcast_result=False,
                ecdh_params=psi.EcdhParams(curve=psi.parse_curve_type(given.curve)),
            ),
            input_params=psi.InputParams(path=given.input, selected_keys=["email"], keys_unique=True),
            output_params=psi.OutputParams(path=given.output, disable_alignment=True),
        ),
        link,
    )
    print(json.dumps({"value": report.intersection_count}), flush=True)
    link.stop_link()


if __name__ == "__main__":
    main()
