"""The room as a whole: its examples run, its names are there, and it imports quickly."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys

import pytest

import privacy
import privacy.detect
import privacy.masking


@pytest.mark.parametrize("module", [privacy, privacy.detect, privacy.masking])
def test_the_examples_in_the_docstrings_run(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted >= 5 and result.failed == 0


@pytest.mark.parametrize(
    "module", ["privacy", "privacy.detect", "privacy.detect.recognizers", "privacy.masking"]
)
def test_public_names_exist(module: str) -> None:
    room = importlib.import_module(module)
    assert room.__all__ == sorted(room.__all__, key=lambda n: (n[0].islower(), not n.isupper(), n))
    for name in room.__all__:
        assert getattr(room, name) is not None
    with pytest.raises(AttributeError):
        _ = room.no_such_name


def test_slow_libraries_are_imported_only_when_used() -> None:
    code = "import sys, privacy, privacy.detect, privacy.masking\n"
    code += "print({'presidio_analyzer', 'opendp'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
