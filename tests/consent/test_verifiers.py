"""Both verifiers attacked alike: the library's and the one-file program must agree on every damaged log.

One log is made, with partial and full tiles, cosigned by two of three witnesses, and grown once after that.
Each attack damages a copy; what either verifier says of it is stated here.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import consent.standalone
from consent.checkpoint import Checkpoint, sign_checkpoint
from consent.cosignatures import Cosigner, CosignerKey, add_signatures, cosign
from consent.encoding import Leaf, are_leaves, is_leaf, times_of, uuid7
from consent.merkle import leaf_hash, root_of
from consent.notes import NoteSigner, VerifierKey, sign_note
from consent.tiles import bundle_path, decode_bundle, encode_bundle, tile_path, tiles_of
from consent.trust_policy import TrustPolicy
from consent.verify import Outcome, directory_reader, verify_log
from privacy.signing import SigningKey

SOURCE = Path(consent.standalone.__file__).with_name("verify_log.py")
SIZE, COSIGNED_SIZE = 515, 300
START = 1_772_000_000_000_000


def signing(seed: int) -> SigningKey:
    return SigningKey.from_seed(bytes([seed]) * 32)


LOG = NoteSigner(VerifierKey("shop.example/log", signing(1).public.bytes32), signing(1).sign_raw)
WITNESSES = [
    Cosigner(CosignerKey(f"w{i}.example", signing(10 + i).public.bytes32), signing(10 + i).sign_raw)
    for i in range(3)
]
POLICY = "".join(
    [f"log {LOG.key.to_text()}\n"]
    + [f"witness w{i} {w.key.to_text()}\n" for i, w in enumerate(WITNESSES)]
    + ["group two 2 w0 w1 w2\nquorum two\n"]
)


def leaf(i: int, salt: bytes = b"", **changes: object) -> bytes:
    random = sha256(salt + i.to_bytes(8, "big")).digest()[:10]
    parts = {
        "id": uuid7(START + i, random),
        "type": "consent.granted",
        "recorded_at": START + i * 1000,
        "policy_hash": "0" * 64,
        "commit": random.rjust(32, b"c"),
    }
    return Leaf(**{**parts, **changes}).to_bytes()  # type: ignore[arg-type]


def head(leaves: list[bytes], signer: NoteSigner = LOG) -> Checkpoint:
    return sign_checkpoint(len(leaves), root_of([leaf_hash(one) for one in leaves]), signer)


def publish(folder: Path, leaves: list[bytes], checkpoint: str | None = None) -> None:
    """A whole log of these entries, true to itself whatever they are."""

    def put(path: str, data: bytes) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)

    hashes = [leaf_hash(one) for one in leaves]
    for tile in tiles_of(len(leaves)):
        span = 256**tile.level
        first = tile.index * 256
        data = [root_of(hashes[(first + i) * span : (first + i + 1) * span]) for i in range(tile.width)]
        put(tile_path(tile), b"".join(data))
        if tile.level == 0:
            put(bundle_path(tile.index, tile.width), encode_bundle(leaves[first : first + tile.width]))
    put("checkpoint", (checkpoint or head(leaves).text).encode())


LEAVES = [leaf(i) for i in range(SIZE)]
EARLIER = head(LEAVES[:COSIGNED_SIZE])


def cosigned(checkpoint: Checkpoint, *which: int) -> str:
    made = [cosign(checkpoint, WITNESSES[i], 1_772_000_000 + i).signature for i in which]
    return add_signatures(checkpoint.text, made)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    publish(folder, LEAVES)
    (folder / "checkpoint.cosigned").write_text(cosigned(EARLIER, 0, 2))
    return folder


@pytest.fixture
def log(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "log"))


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("one_file_verifier", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def check(program, capsys, tmp_path):
    """Ask both verifiers; they must say the same, word for word."""

    def both(
        folder: Path,
        key: VerifierKey = LOG.key,
        *,
        policy: str = "",
        known: Checkpoint | None = None,
        hours: float | None = None,
    ) -> Outcome:
        arguments = [str(folder), "--key", key.to_text(), "--json"]
        since = None
        if policy:
            (tmp_path / "policy").write_text(policy)
            arguments += ["--policy", str(tmp_path / "policy")]
        if known is not None:
            (tmp_path / "known").write_text(known.text)
            arguments += ["--known", str(tmp_path / "known")]
        if hours is not None:
            arguments += ["--max-age", str(hours)]
            since = datetime.now(UTC) - timedelta(hours=hours)
        trusted = TrustPolicy.parse(policy) if policy else None
        report = verify_log(directory_reader(folder), key, known=known, not_older_than=since, policy=trusted)
        code = program.main(arguments)
        said = json.loads(capsys.readouterr().out)
        assert said["outcome"] == report.outcome.value, (said, report)
        assert code == report.outcome.exit_code
        if report.ok:
            assert said["size"] == report.size and said.get("witnessed") == report.witnessed
            assert said["detail"] == report.detail
        return report.outcome

    return both


def test_the_good_log_holds_in_every_way_of_asking(log, check):
    assert check(log) is Outcome.OK
    assert check(log, policy=POLICY) is Outcome.OK
    assert check(log, policy="quorum none\n") is Outcome.OK
    for size in (0, 1, 255, 256, 257, 300, 512, 514, 515):
        assert check(log, known=head(LEAVES[:size])) is Outcome.OK
    assert check(log, hours=1e6) is Outcome.OK
    assert check(log, hours=0) is Outcome.STALE


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 300, 511, 512, 513])
def test_logs_of_every_shape_hold(size, tmp_path, check):
    publish(tmp_path / "log", LEAVES[:size])
    assert check(tmp_path / "log") is Outcome.OK


def paths() -> list[str]:
    tiles = [tile_path(tile) for tile in tiles_of(SIZE)]
    bundles = [bundle_path(tile.index, tile.width) for tile in tiles_of(SIZE) if tile.level == 0]
    return [*tiles, *bundles, "checkpoint", "checkpoint.cosigned"]


def test_the_list_of_files_is_whole(log):
    assert sorted(paths()) == sorted(str(p.relative_to(log)) for p in log.rglob("*") if p.is_file())


@pytest.mark.parametrize("path", paths())
def test_no_file_can_be_changed_cut_lengthened_emptied_or_removed(path, log, check):
    file = log / path
    data = file.read_bytes()
    for at in sorted({0, 1, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1}):
        for bit in (0, 7):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            file.write_bytes(bytes(changed))
            found = check(log, policy=POLICY)
            allowed = {Outcome.TAMPERED}
            if path.startswith("checkpoint"):
                # A changed name or key id is a signature by nobody known.
                allowed |= {Outcome.WRONG_KEY, Outcome.UNWITNESSED}
            assert found in allowed, (at, bit)
    for changed in (data[:-1], data[: len(data) // 2], data + b"\n", data + data, b"", b"\x00" * len(data)):
        file.write_bytes(changed)
        assert check(log, policy=POLICY) is Outcome.TAMPERED, len(changed)
    file.write_bytes(b"x" * (256 * 65537 + 1))
    assert check(log) is Outcome.TAMPERED
    file.unlink()
    gone = Outcome.UNWITNESSED if path == "checkpoint.cosigned" else Outcome.INCOMPLETE
    assert check(log, policy=POLICY) is gone
    file.mkdir()
    assert check(log, policy=POLICY) is gone
    file.rmdir()
    file.write_bytes(data)
    assert check(log, policy=POLICY) is Outcome.OK


def test_files_that_changed_places_are_noticed(log, check):
    for one, other in (("tile/0/000", "tile/0/001"), ("tile/entries/000", "tile/entries/001")):
        first, second = (log / one).read_bytes(), (log / other).read_bytes()
        (log / one).write_bytes(second)
        assert check(log) is Outcome.TAMPERED
        (log / other).write_bytes(first)
        assert check(log) is Outcome.TAMPERED
        (log / one).write_bytes(first)
        (log / other).write_bytes(second)
    assert check(log) is Outcome.OK


def test_a_partial_tile_may_be_replaced_by_the_full_one_that_followed(log, check):
    longer = [*LEAVES, *(leaf(i) for i in range(SIZE, 768))]
    publish(log, longer, head(LEAVES).text)
    for partial in log.glob("tile/*/*.p"):
        if (partial.with_name(partial.name[:-2])).exists():
            shutil.rmtree(partial)
    assert check(log) is Outcome.OK


def test_a_log_of_another_key_origin_or_signer_is_told_apart(log, check):
    assert check(log, VerifierKey(LOG.key.name, signing(9).public.bytes32)) is Outcome.WRONG_KEY
    assert check(log, VerifierKey("bank.example/log", LOG.key.public)) is Outcome.WRONG_KEY
    assert check(log, policy=POLICY.replace(LOG.key.to_text(), VerifierKey(
        "x.example", signing(9).public.bytes32).to_text())) is Outcome.WRONG_KEY  # fmt: skip
    # The right key under this log's text, but what it signed says that it is another log.
    body = head(LEAVES).body.replace("shop.example", "bank.example")
    (log / "checkpoint").write_text(sign_note(body, [LOG]))
    assert check(log) is Outcome.TAMPERED


WRONG_ENTRIES = {
    "not JSON": lambda: b"hello",
    "empty": lambda: b"",
    "other JSON": lambda: b'{"anything":"else"}',
    "a space more": lambda: leaf(7).replace(b'","v"', b'", "v"'),
    "another version": lambda: leaf(7).replace(b'"v":1', b'"v":2'),
    "upper-case hex": lambda: leaf(7, commit=b"\xab" * 32).replace(b"abab", b"ABAB"),
    "a field more": lambda: leaf(7).replace(b'"v":1', b'"v":1,"w":1'),
    "a name in the clear": lambda: leaf(7, type="ann"[:3]).replace(b'"ann"', b'"ann@example.org"'),
    "too long": lambda: leaf(7, type="a" * 900),
    "another line": lambda: leaf(7) + b"\n",
    "a month that is not": lambda: leaf(7).replace(b"-02-25T", b"-99-25T"),
    "older than the one before": lambda: leaf(7, recorded_at=START + 5000),
    "newer than the one after": lambda: leaf(7, recorded_at=START + 8001),
}


@pytest.mark.parametrize("wrong", WRONG_ENTRIES.values(), ids=WRONG_ENTRIES.keys())
@pytest.mark.parametrize("size", [8, 300])
def test_a_log_true_to_itself_and_signed_but_of_wrong_entries_is_refused(wrong, size, tmp_path, check):
    leaves = [*LEAVES[:7], wrong(), *LEAVES[8:size]]
    if size == 8 and leaves[7] == leaf(7, recorded_at=START + 8001):
        leaves.append(LEAVES[8])
    publish(tmp_path / "log", leaves)
    assert check(tmp_path / "log") is Outcome.TAMPERED


def test_a_consistent_rewrite_without_the_key_is_refused(log, check):
    forged = [*LEAVES[:5], leaf(5, salt=b"forged"), *LEAVES[6:]]
    publish(log, forged, head(LEAVES).text)
    assert check(log) is Outcome.TAMPERED
    stranger = NoteSigner(VerifierKey(LOG.key.name, signing(9).public.bytes32), signing(9).sign_raw)
    publish(log, forged, head(forged, stranger).text)
    assert check(log) is Outcome.WRONG_KEY
    # With the key, only a witness or somebody who remembers can tell.
    publish(log, forged)
    assert check(log, known=head(LEAVES[:6])) is Outcome.TAMPERED
    assert check(log, policy=POLICY) is Outcome.TAMPERED
    (log / "checkpoint.cosigned").unlink()
    assert check(log, policy=POLICY) is Outcome.UNWITNESSED
    assert check(log) is Outcome.OK


def test_a_rolled_back_log_is_stale_to_who_remembers_more(log, check):
    publish(log, LEAVES[:299])
    assert check(log, known=head(LEAVES[:300])) is Outcome.STALE
    assert check(log, policy=POLICY) is Outcome.STALE  # its own cosigned checkpoint is larger
    (log / "checkpoint.cosigned").unlink()
    assert check(log, known=head(LEAVES[:299])) is Outcome.OK
    assert check(log, policy=POLICY) is Outcome.UNWITNESSED


def test_a_checkpoint_that_claims_more_than_there_is_is_incomplete_or_tampered(log, check):
    for size in (516, 1000, (1 << 63) - 1):
        (log / "checkpoint").write_text(sign_checkpoint(size, b"\x01" * 32, LOG).text)
        assert check(log) is Outcome.INCOMPLETE
    (log / "checkpoint").write_text(sign_checkpoint(SIZE, b"\x01" * 32, LOG).text)
    assert check(log) is Outcome.TAMPERED
    (log / "checkpoint").write_text(sign_checkpoint(0, b"\x01" * 32, LOG).text)
    (log / "checkpoint.cosigned").unlink()
    assert check(log) is Outcome.TAMPERED


@pytest.mark.parametrize(
    "body",
    [
        "{o}\n515\n",
        "{o}\n0515\n{r}\n",
        "{o}\n-515\n{r}\n",
        "{o}\n515\n{r}=\n",
        "{o}\n515\nAAAA\n",
        "{o}\n9223372036854775808\n{r}\n",
        "{o}\n515\n{r}\n\nlate\n",
        "{o}\n٥١٥\n{r}\n",
    ],
)
def test_a_signed_note_that_is_no_checkpoint_is_refused(body, log, check):
    root = head(LEAVES).body.split("\n")[2]
    (log / "checkpoint").write_text(sign_note(body.format(o=LOG.key.name, r=root), [LOG]))
    assert check(log) is Outcome.TAMPERED


def test_extension_lines_count_only_when_signed(log, check):
    plain = head(LEAVES)
    (log / "checkpoint").write_text(plain.text.replace("\n\n", "\nextension\n\n", 1))
    assert check(log) is Outcome.TAMPERED
    (log / "checkpoint").write_text(sign_note(plain.body + "extension\n", [LOG]))
    assert check(log) is Outcome.OK
    # A cosignature of the plain checkpoint does not cover one with an extension.
    lines = cosigned(plain, 0, 1)[len(plain.text) :]
    (log / "checkpoint").write_text(sign_note(plain.body + "extension\n", [LOG]) + lines)
    assert check(log, policy=POLICY) is Outcome.TAMPERED


def test_signatures_are_each_verified_and_witnesses_counted_once(log, check):
    (log / "checkpoint.cosigned").unlink()
    plain = head(LEAVES)
    one, two = (cosign(plain, WITNESSES[i], 1_772_000_000).to_line() for i in (0, 1))
    again = cosign(plain, WITNESSES[0], 1_772_000_009).to_line()
    elsewhere = cosign(EARLIER, WITNESSES[1], 1_772_000_000).to_line()
    own = plain.text[len(plain.body) + 1 :]
    stranger = sign_note(
        plain.body, [NoteSigner(VerifierKey("x", signing(8).public.bytes32), signing(8).sign_raw)]
    )
    cases = {
        "": Outcome.UNWITNESSED,
        one: Outcome.UNWITNESSED,
        one + one + again: Outcome.UNWITNESSED,
        one + two: Outcome.OK,
        own + one + two: Outcome.OK,
        stranger.split("\n\n")[1] * 3 + one + two: Outcome.OK,
        one + elsewhere: Outcome.TAMPERED,
        one + two + elsewhere: Outcome.TAMPERED,
        one + two + EARLIER.text[len(EARLIER.body) + 1 :]: Outcome.TAMPERED,
        one + two + "\n": Outcome.TAMPERED,
        one + two + "— w2.example AAAA\n": Outcome.TAMPERED,
        (one + two) * 60: Outcome.TAMPERED,  # more lines than a note may have
    }
    for lines, expected in cases.items():
        (log / "checkpoint").write_text(plain.text + lines)
        assert check(log, policy=POLICY) is expected, lines
    (log / "checkpoint").write_text(plain.text + "x" * 300_000)
    assert check(log) is Outcome.TAMPERED


def test_a_cosigned_checkpoint_of_another_log_or_history_is_refused(log, check):
    other = NoteSigner(VerifierKey("bank.example/log", signing(2).public.bytes32), signing(2).sign_raw)
    (log / "checkpoint.cosigned").write_text(cosigned(head(LEAVES[:300], other), 0, 1))
    assert check(log, policy=POLICY) is Outcome.TAMPERED
    fork = [leaf(i, salt=b"fork") for i in range(300)]
    (log / "checkpoint.cosigned").write_text(cosigned(head(fork), 0, 1))
    assert check(log, policy=POLICY) is Outcome.TAMPERED
    assert check(log) is Outcome.TAMPERED


def test_what_is_not_cosigned_yet_does_not_make_a_log_fresh(tmp_path, check):
    now = int(datetime.now(UTC).timestamp() * 1_000_000)
    leaves = [*LEAVES[:300], leaf(300, recorded_at=now)]
    publish(tmp_path / "log", leaves)
    (tmp_path / "log" / "checkpoint.cosigned").write_text(cosigned(EARLIER, 0, 1))
    assert check(tmp_path / "log", hours=1) is Outcome.OK
    assert check(tmp_path / "log", hours=1, policy=POLICY) is Outcome.STALE


def test_a_folder_that_is_no_log_is_incomplete(tmp_path, check):
    (tmp_path / "empty").mkdir()
    assert check(tmp_path / "empty") is Outcome.INCOMPLETE


# the program alone


def test_the_program_runs_alone_with_cryptography_and_nothing_else(good, tmp_path):
    copy = tmp_path / "verify_log.py"
    shutil.copy(SOURCE, copy)
    script = (
        "import runpy, sys\nsys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "from importlib.metadata import packages_distributions as d\n"
        "roots = {n.partition('.')[0] for n in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(r for r in roots if r in d()))\nsys.exit(code)\n"
    )
    command = [sys.executable, "-I", "-c", script, str(copy), str(good), "--key", LOG.key.to_text()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    used = set(eval(done.stdout.splitlines()[-1]))  # noqa: S307
    # The last comes with the interpreter's environment, before any program begins.
    assert used <= {"cryptography", "cffi", "_cffi_backend", "pycparser", "_distutils_hack"}
    assert "cryptography" in used


@pytest.mark.parametrize(
    "arguments",
    [
        ["{log}"],
        ["{log}", "--key", "nonsense+00000000+AAAA"],
        ["{log}", "--key", "no-such-file"],
        ["{log}/nowhere", "--key", "{key}"],
        ["{log}", "--key", "{key}", "--policy", "no-such-file"],
        ["{log}", "--key", "{key}", "--policy", "{log}/checkpoint"],
        ["{log}", "--key", "{key}", "--known", "no-such-file"],
        ["{log}", "--key", "{key}", "--max-age", "old"],
    ],
)
def test_the_program_ends_with_2_when_it_is_asked_wrongly(arguments, good, program, capsys):
    with pytest.raises(SystemExit) as ended:
        program.main([a.format(log=good, key=LOG.key.to_text()) for a in arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_the_program_reads_the_same_policies(program):
    from consent.errors import BadTrustPolicy

    def agrees(text: str) -> None:
        try:
            TrustPolicy.parse(text)
        except BadTrustPolicy:
            with pytest.raises(ValueError, match="policy"):
                program.Policy(text.encode("utf-8", "surrogateescape"))
        else:
            program.Policy(text.encode("utf-8", "surrogateescape"))

    lines = POLICY.splitlines(keepends=True)
    for i in range(len(lines)):
        agrees("".join(lines[:i] + lines[i + 1 :]))
        agrees("".join([*lines[: i + 1], *lines[i:]]))
        agrees("".join(lines).replace(" ", "\t", i))
    more = [
        "quorum none\n",
        "group g any two\n",
        "group g any none\n",
        "log x\n",
        "\x7f\n",
        "#\n",
        "a",
        "x\n",
    ]
    more += ["group h 0 w0\n", "group two any two\n", "group none any two\n", "group g 2 two\n"]
    for line in more:
        agrees(line + POLICY)
        agrees(POLICY + line)


# a whole bundle at once


@settings(max_examples=200)
@given(st.data())
def test_many_leaves_at_once_are_judged_as_one_by_one(data):
    entries = [*LEAVES[: data.draw(st.integers(1, 5))]]
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(entries) - 1))
        raw = bytearray(entries[at])
        kind = data.draw(st.sampled_from(["change", "cut", "add", "replace"]))
        place = data.draw(st.integers(0, max(len(raw) - 1, 0)))
        if kind == "change" and raw:
            raw[place] = data.draw(st.sampled_from(b'0af"{}.:-Z_v1g\x00\xff'))
        elif kind == "cut":
            del raw[place:]
        elif kind == "add":
            raw[place:place] = data.draw(st.binary(max_size=3))
        else:
            raw[:] = data.draw(st.binary(max_size=300))
        entries[at] = bytes(raw)
    assert are_leaves(entries) == all(map(is_leaf, entries))


def test_times_are_read_where_leaves_have_them():
    assert [t.decode() for t in times_of(LEAVES[:2])] == [
        json.loads(one)["recorded_at"] for one in LEAVES[:2]
    ]


def test_long_logs_are_hashed_in_processes_with_the_same_result(tmp_path, monkeypatch):
    from consent import rebuild

    monkeypatch.setattr(rebuild, "_WORTH_WORKERS", 100)
    publish(tmp_path, LEAVES)
    alone = verify_log(directory_reader(tmp_path), LOG.key, known=head(LEAVES[:300]))
    shared = verify_log(directory_reader(tmp_path), LOG.key, known=head(LEAVES[:300]), workers=2)
    assert alone.ok and shared == alone
    bundle = tmp_path / "tile/entries/001"
    entries = decode_bundle(bundle.read_bytes(), 256)
    bundle.write_bytes(encode_bundle([*entries[:-1], b"x" * len(entries[-1])]))
    assert verify_log(directory_reader(tmp_path), LOG.key, workers=2).outcome is Outcome.TAMPERED
    bundle.unlink()
    assert verify_log(directory_reader(tmp_path), LOG.key, workers=2).outcome is Outcome.INCOMPLETE
