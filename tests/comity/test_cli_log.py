"""`comity log`: the verifier it prints, the policy it follows, the evidence it lists, and its exit codes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import consent.standalone
from comity.bootstrap import open_records
from comity.cli import app
from comity.scaffold import make_node
from comity.system import system_random, utc_now
from consent.checkpoint import sign_checkpoint
from consent.cosignatures import Cosigner, CosignerKey, cosign
from consent.notes import NoteSigner, VerifierKey
from consent.split_views import FORK, SplitViews
from consent.trust_policy import TrustPolicy
from privacy.signing import SigningKey


def comity(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in args])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A node whose log one witness has cosigned, and that has seen another log fork."""
    folder = tmp_path_factory.mktemp("cli") / "shop"
    made = make_node(folder, port=18499, clock=utc_now, random=system_random)
    records = open_records(made.config, clock=utc_now, random=system_random)
    ledger, signing = records.ledger, SigningKey.generate()
    witness = CosignerKey("w.example", signing.public.bytes32)
    other = NoteSigner(VerifierKey("other.example/log", signing.public.bytes32), signing.sign_raw)
    first, second = (sign_checkpoint(3, root * 32, other).text for root in (b"\x01", b"\x02"))
    SplitViews(ledger).keep("other.example/log", FORK, first, second)
    signer = Cosigner(witness, signing.sign_raw)
    made_now = cosign(ledger.head(), signer, 1_772_000_000)
    ledger.log.add_cosignatures(ledger.head(), [made_now.signature], TrustPolicy())
    text = f"log {ledger.vkey}\nwitness w {witness.to_text()}\nquorum w\n"
    records.close()
    return folder, text, ledger.vkey


def test_the_verifier_it_prints_is_the_one_in_the_package() -> None:
    code, out, _ = comity("log", "verifier")
    source = Path(consent.standalone.__file__).with_name("verify_log.py").read_bytes()
    assert code == 0 and hashlib.sha256(out.encode()).digest() == hashlib.sha256(source).digest()
    compile(out, "verify_log.py", "exec")


def test_a_policy_is_followed_for_any_log_and_for_the_nodes_own(node: Any, tmp_path: Path) -> None:
    folder, text, vkey = node
    policy = tmp_path / "policy"
    policy.write_text(text)
    stranger = CosignerKey("x.example", SigningKey.generate().public.bytes32).to_text()
    for asked in (["--dir", folder], [folder / "log"], [folder / "log", "--key", vkey]):
        policy.write_text(text)
        assert comity("log", "verify", *asked, "--policy", policy)[0] == 0
        policy.write_text(f"witness x {stranger}\nquorum x\n")
        if len(asked) != 1:
            code, _, err = comity("log", "verify", *asked, "--policy", policy)
            assert code == 7 and "unwitnessed" in err
    # Without a key the policy must list the log; one that lists another log does not make it right.
    assert comity("log", "verify", folder / "log", "--policy", policy)[0] == 2
    other = VerifierKey("other.example", SigningKey.generate().public.bytes32).to_text()
    policy.write_text(f"log {other}\nquorum none\n")
    assert comity("log", "verify", folder / "log", "--policy", policy)[0] == 4
    for wrong in ("quorum nobody\n", "quorum none", ""):
        policy.write_text(wrong)
        assert comity("log", "verify", folder / "log", "--key", vkey, "--policy", policy)[0] == 2
    assert comity("log", "verify", folder / "log", "--key", vkey, "--policy", tmp_path / "none")[0] == 2


def test_evidence_is_listed_and_the_doctor_speaks_of_it(node: Any) -> None:
    folder, _, _ = node
    code, out, _ = comity("log", "split-views", "--dir", folder, "--json")
    assert code == 1 and '"kind": "fork"' in out and "other.example/log" in out
    code, out, _ = comity("doctor", folder)
    assert code == 1 and "caught forking: other.example/log" in out


def test_the_key_with_which_a_node_witnesses_is_shown(node: Any) -> None:
    _, out, _ = comity("log", "show", "--dir", node[0])
    (line,) = (line for line in out.splitlines() if line.startswith("witness "))
    assert CosignerKey.from_text(line.split()[1]).name.endswith("/witness")


def test_a_policy_that_cannot_be_followed_stops_the_node_at_the_start(node: Any, tmp_path: Path) -> None:
    from comity.config import parse_config
    from comity.errors import ConfigError
    from comity.witnessing import read_trust_policy
    from consent.errors import BadTrustPolicy

    text = 'name = "shop"\n[log]\ntrust_policy = "witnesses.policy"\n'
    with pytest.raises(ConfigError, match="no such file"):
        parse_config(text, tmp_path)
    (tmp_path / "witnesses.policy").write_text("quorum nobody\n")
    config = parse_config(text, tmp_path)
    with pytest.raises(BadTrustPolicy):
        read_trust_policy(config)
    (tmp_path / "witnesses.policy").write_text("quorum none\n")
    assert read_trust_policy(config) == TrustPolicy()
    assert read_trust_policy(parse_config('name = "shop"\n', tmp_path)) is None
