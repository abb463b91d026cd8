"""What the documents show is what happens: every snippet is run, in order, in an empty folder a document.

- A document that speaks of `two-nodes` finds the two nodes of a small demonstration there.
- A ```python block runs as a script of its own; its exit status counts.
- A ```console block holds commands behind `$ `, heredoc lines behind `> `, and output. The commands of one
  block run in one bash; output lines shown must appear in what was printed, in that order, `…` standing for
  anything. Processes a document starts in the background end with the document.
- A block under `<!-- shown, not run: why -->` is left alone, and the reason is part of the document.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.started import Starter

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
_FENCE = re.compile(
    r"(?P<skip>^ *<!-- shown, not run: [^\n]+ -->\n+)?"
    r"^(?P<indent> *)```(?P<language>python|console)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Snippet:
    language: str
    body: str
    line: int


def snippets(text: str) -> Iterator[Snippet]:
    """The runnable blocks of a document, in order."""
    for match in _FENCE.finditer(text):
        if match["skip"] is None:
            line = text.count("\n", 0, match.start()) + 1
            yield Snippet(match["language"], textwrap.dedent(match["body"]), line)


def commands_and_output(body: str) -> tuple[str, list[str]]:
    """Split a console block into a bash script and the output lines it promises."""
    script: list[str] = []
    promised: list[str] = []
    for line in body.splitlines():
        if line.startswith(("$ ", "> ")) or line == ">":
            script.append(line[2:])
        elif line.strip():
            promised.append(line)
    return "\n".join(script) + "\n", promised


def _promise_kept(promised: list[str], printed: str) -> str | None:
    """None when every promised line appears in order, else the first one that does not."""
    at = 0
    for line in promised:
        pattern = ".*?".join(re.escape(part.strip()) for part in line.split("…"))
        found = re.compile(pattern).search(printed, at)
        if found is None:
            return line
        at = found.end()
    return None


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGTERM)
    except ProcessLookupError:
        return


@pytest.mark.parametrize("document", DOCUMENTS, ids=[document.name for document in DOCUMENTS])
def test_every_snippet_of_the_document_runs(
    document: Path, tmp_path: Path, request: pytest.FixtureRequest, starter: Starter
) -> None:
    text = document.read_text(encoding="utf-8")
    if "two-nodes/" in text:
        kept = request.getfixturevalue("demonstration").place / "kept"
        shutil.copytree(kept, tmp_path / "two-nodes")
    environment = os.environ | {
        "PATH": os.pathsep.join(
            (str(starter.on_path()), str(Path(sys.executable).parent), os.environ["PATH"])
        ),
        "HOME": str(tmp_path),
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }
    groups: list[int] = []
    try:
        for snippet in snippets(text):
            script, promised = (
                (snippet.body, []) if snippet.language == "python" else commands_and_output(snippet.body)
            )
            argv = ["comity", "-"] if snippet.language == "python" else ["bash", "-euo", "pipefail", "-s"]
            # One file each: a process left in the background goes on writing to its own.
            output = tmp_path / f".output-{snippet.line}"
            with output.open("w+b") as sink:
                process = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=sink, stderr=subprocess.STDOUT,
                    cwd=tmp_path, env=environment, start_new_session=True,
                )  # fmt: skip
                groups.append(process.pid)
                assert process.stdin is not None
                process.stdin.write(script.encode())
                process.stdin.close()
                status = process.wait(timeout=180)
            printed = output.read_text(encoding="utf-8", errors="replace")
            where = f"{document.name}:{snippet.line}"
            assert status == 0, f"{where} ended with {status}:\n{printed}"
            missing = _promise_kept(promised, printed)
            assert missing is None, f"{where} promises {missing!r}, printed:\n{printed}"
    finally:
        for group in groups:
            _end_group(group)


def _shown(name: str) -> list[str]:
    """The commands and code of a README, without what a translator translates: comments, texts, data."""
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = []
    for match in _FENCE.finditer(text):
        for line in match["body"].splitlines():
            ascii_only = re.sub(r'#.*|f".*"|[^\x00-\x7f]+', "", line).rstrip()
            if match["language"] == "python" or line.startswith(("$ ", ">   ")):
                lines.append(ascii_only)
    return lines


def test_both_readmes_show_the_same_commands_and_code() -> None:
    assert _shown("README.zh-CN.md") == _shown("README.md")


def test_a_promise_not_kept_is_noticed() -> None:
    assert _promise_kept(["a …", "c"], "a b\nc\n") is None
    assert _promise_kept(["c", "a …"], "a b\nc\n") == "a …"


def test_a_console_block_splits_into_commands_and_promises() -> None:
    script, promised = commands_and_output("$ cat > x <<'E'\n> one\n> E\n$ cat x\none\n")
    assert script == "cat > x <<'E'\none\nE\ncat x\n"
    assert promised == ["one"]
