from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name", ["clean_room", "clean_room.encryption", "clean_room.group", "clean_room.protocols"]
)
def test_the_example_a_reader_meets_first_runs(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted > 3
    assert outcome.failed == 0


def test_every_public_name_is_there_and_no_other() -> None:
    import clean_room

    assert all(getattr(clean_room, name) is not None for name in clean_room.__all__)
    assert sorted(clean_room._HOME) == sorted(clean_room.__all__)
    with pytest.raises(AttributeError):
        clean_room.nothing  # noqa: B018
