"""The package's own example runs, and its public names are there."""

from __future__ import annotations

import doctest

import pytest

import comity


def test_the_example_in_the_docstring_runs() -> None:
    assert doctest.testmod(comity).failed == 0


def test_every_public_name_is_there() -> None:
    for name in comity.__all__:
        assert getattr(comity, name) is not None
    with pytest.raises(AttributeError):
        comity.nothing  # noqa: B018
