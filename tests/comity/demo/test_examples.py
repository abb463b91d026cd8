"""Every example runs by itself, as its reader would run it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(folder: str, place: Path, *arguments: str, **environment: str) -> str:
    """What an example prints, run in `place`."""
    before = sorted(EXAMPLES.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-B", EXAMPLES / folder / "run.py", *arguments],
        capture_output=True, text=True, timeout=220, check=False, cwd=place,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.strip()
    assert sorted(EXAMPLES.rglob("*")) == before
    return done.stdout


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two nodes that the examples which only ask something share."""
    spec = importlib.util.spec_from_file_location("two_nodes", EXAMPLES / "two_nodes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["two_nodes"] = module
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    with module.two_nodes() as found:
        place = tmp_path_factory.mktemp("standing") / "nodes.json"
        module.write_place(found, place)
        yield str(place)


@pytest.mark.parametrize("folder", ["mask_a_table", "consent_ledger"])
def test_an_example_runs_anywhere_and_leaves_nothing(folder: str, tmp_path: Path) -> None:
    run(folder, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_question_is_asked_through_the_client(standing: str, tmp_path: Path) -> None:
    printed = run("overlap_api", tmp_path, COMITY_TWO_NODES=standing)
    assert "truly 2000" in printed
    assert list(tmp_path.iterdir()) == []


def test_an_application_asks_by_plain_http(standing: str, tmp_path: Path) -> None:
    printed = run("overlap_over_http", tmp_path, COMITY_TWO_NODES=standing)
    assert "people in common" in printed
    assert "application/problem+json" in printed
    assert list(tmp_path.iterdir()) == []


def test_the_notebook_prints_tables_and_draws_error_bars(standing: str, tmp_path: Path) -> None:
    printed = run("analyst_notebook", tmp_path, COMITY_TWO_NODES=standing)
    assert "People in both lists" in printed
    assert "lift per customer" in printed
    assert "verified: True" in printed
    (picture,) = tmp_path.iterdir()
    drawn = ElementTree.fromstring(picture.read_text(encoding="utf-8"))  # noqa: S314 made by the example
    name = "{http://www.w3.org/2000/svg}"
    bars, whiskers = drawn.findall(f"{name}g/{name}rect"), drawn.findall(f"{name}g/{name}path")
    assert len(bars) == len(whiskers) == 4
    assert all(float(bar.attrib["height"]) > 0 for bar in bars)


def test_two_partners_on_databases_of_their_own_get_their_first_answer(
    postgres_url: str, tmp_path: Path
) -> None:
    printed = run("partner_setup", tmp_path, postgres_url)
    assert "truly 2000" in printed
    assert '"expired": 500' in printed
    assert list(tmp_path.iterdir()) == []
