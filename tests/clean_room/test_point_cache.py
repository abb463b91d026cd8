from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from clean_room.cached_pool import CachedPool, CachingPool
from clean_room.errors import BadInput, Misuse
from clean_room.group import BlindingPool, new_scalar
from clean_room.point_cache import PointCache
from consent.erasure import Erasure
from privacy.keys import KeyRing

POOL = BlindingPool(workers=0)


class Hasher:
    """The real hash, which counts whom it was asked about."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def __call__(self, people: pa.BinaryArray) -> bytes:
        self.asked += people.to_pylist()
        return POOL.hash(people)


class Days:
    def __init__(self) -> None:
        self.now = 20_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def keyring(tmp_path: Path) -> KeyRing:
    return KeyRing.create(tmp_path / "ring")


@pytest.fixture
def days() -> Days:
    return Days()


@pytest.fixture
def opened(tmp_path: Path, keyring: KeyRing, days: Days) -> Callable[..., PointCache]:
    def cache(most: int = 10_000) -> PointCache:
        return PointCache(tmp_path / "points", keyring, today=days, random=os.urandom, most=most)

    return cache


def people(*numbers: int) -> pa.BinaryArray:
    return pa.array([f"person.{n}@example.org".encode() for n in numbers], pa.binary())


def test_nobody_is_hashed_twice_and_points_are_those_of_the_hash(opened: Callable[..., PointCache]) -> None:
    first, again = Hasher(), Hasher()
    everybody = people(*range(40))
    assert opened().set_of("crm", "email", "comity-1").points(everybody, first) == POOL.hash(everybody)
    # Another process, later, another order, three new people.
    mixed = people(*range(42, 10, -1))
    assert opened().set_of("crm", "email", "comity-1").points(mixed, again) == POOL.hash(mixed)
    assert len(first.asked) == 40
    assert sorted(again.asked) == sorted(people(40, 41, 42).to_pylist())


def test_sets_of_other_lineages_kinds_and_profiles_are_apart(opened: Callable[..., PointCache]) -> None:
    cache = opened()
    cache.set_of("crm", "email", "comity-1").points(people(1), Hasher())
    for other in (("web", "email", "comity-1"), ("crm", "phone", "comity-1"), ("crm", "email", "google-1")):
        hasher = Hasher()
        cache.set_of(*other).points(people(1), hasher)
        assert len(hasher.asked) == 1


def test_files_tell_nothing_without_the_key_ring(opened: Callable[..., PointCache], tmp_path: Path) -> None:
    opened().set_of("the crm", "email", "comity-1").points(people(*range(5)), Hasher())
    points = POOL.hash(people(*range(5)))
    for path in (tmp_path / "points").iterdir():
        content = path.read_bytes()
        assert b"person" not in content
        assert not any(points[i : i + 16] in content for i in range(0, len(points), 32))
        assert "crm" not in path.name
        assert path.stat().st_mode & 0o077 == 0


def test_who_is_erased_is_gone_at_once_and_not_kept_again_by_a_run_under_way(
    opened: Callable[..., PointCache],
) -> None:
    cache = opened()
    points = cache.set_of("crm", "email", "comity-1")
    other = cache.set_of("web", "email", "meta-1")
    for one in (points, other):
        one.points(people(1, 2), Hasher())
    cache.forget("email", [b"person.1@example.org", b"a.stranger@example.org"])
    cache.forget("phone", [b"person.2@example.org"])
    running = Hasher()
    points.points(people(1, 2), running)
    points.points(people(1, 2), running)
    assert running.asked == [b"person.1@example.org"] * 2
    # Under another profile a person may be spelled otherwise: the set is made anew.
    hasher = Hasher()
    other.points(people(1, 2), hasher)
    assert len(hasher.asked) == 2


def test_who_was_not_asked_about_for_a_month_is_dropped(
    opened: Callable[..., PointCache], days: Days
) -> None:
    points = opened().set_of("crm", "email", "comity-1")
    points.points(people(*range(64)), Hasher())
    days.now += 20
    points.points(people(*range(32)), Hasher())
    days.now += 15
    hasher = Hasher()
    points.points(people(*range(32)), hasher)
    assert hasher.asked == []
    points.points(people(*range(64)), hasher)
    assert sorted(hasher.asked) == sorted(people(*range(32, 64)).to_pylist())


def test_the_set_unused_for_longest_makes_room_and_what_never_fits_is_not_kept(
    opened: Callable[..., PointCache], tmp_path: Path
) -> None:
    cache = opened(most=100)
    for hours, lineage in enumerate(("old", "new")):
        before = set((tmp_path / "points").glob("*"))
        cache.set_of(lineage, "email", "comity-1").points(people(*range(30)), Hasher())
        for path in set((tmp_path / "points").glob("*")) - before:
            os.utime(path, (20_000 * 86_400 + 3600 * hours,) * 2)
    cache.set_of("big", "email", "comity-1").points(people(*range(30)), Hasher())
    names = {path.name.partition(".")[0] for path in (tmp_path / "points").iterdir()}
    assert len(names) == 2
    hasher = Hasher()
    cache.set_of("new", "email", "comity-1").points(people(0), hasher)
    assert hasher.asked == []
    hasher = Hasher()
    for _ in range(2):
        cache.set_of("huge", "email", "comity-1").points(people(*range(101)), hasher)
    assert len(hasher.asked) == 202


def test_a_file_that_was_changed_is_made_anew(opened: Callable[..., PointCache], tmp_path: Path) -> None:
    points = opened().set_of("crm", "email", "comity-1")
    points.points(people(*range(50)), Hasher())
    for path in (tmp_path / "points").glob("*.[0-7].sealed"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    hasher = Hasher()
    assert points.points(people(*range(50)), hasher) == POOL.hash(people(*range(50)))
    assert 0 < len(hasher.asked) < 50
    assert points.points(people(*range(50)), hasher) == POOL.hash(people(*range(50)))


def test_everything_can_be_removed(opened: Callable[..., PointCache], tmp_path: Path) -> None:
    cache = opened()
    cache.set_of("crm", "email", "comity-1").points(people(1, 2), Hasher())
    cache.clear()
    assert list((tmp_path / "points").iterdir()) == []


def test_threads_that_keep_at_once_lose_nothing(opened: Callable[..., PointCache]) -> None:
    cache = opened()

    def work(start: int) -> None:
        cache.set_of("crm", "email", "comity-1").points(people(*range(start, start + 20)), POOL.hash)

    threads = [threading.Thread(target=work, args=(20 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hasher = Hasher()
    cache.set_of("crm", "email", "comity-1").points(people(*range(80)), hasher)
    assert hasher.asked == []


def test_a_pool_with_a_cache_gives_what_one_without_gives_and_keeps_no_padding(
    opened: Callable[..., PointCache],
) -> None:
    cache, scalar = opened(), new_scalar(os.urandom)
    cells = (people(*range(10)), people(*range(10, 15)))
    padding = pa.array([os.urandom(32) for _ in range(5)], pa.binary())
    column = pa.concat_arrays([cells[0], padding, cells[1]])
    for _ in range(2):
        pool = CachedPool(POOL, cache.set_of("crm", "email", "comity-1"), cells)
        assert pool.hash_and_blind(column, scalar) == POOL.hash_and_blind(column, scalar)
        assert pool.hash_and_blind(pa.chunked_array([column]), scalar, dst=b"other") == POOL.hash_and_blind(
            column, scalar, dst=b"other"
        )
        assert pool.blind(scalar, POOL.hash(column)) == POOL.hash_and_blind(column, scalar)
    hasher = Hasher()
    cache.set_of("crm", "email", "comity-1").points(column, hasher)
    assert sorted(hasher.asked) == sorted(padding.to_pylist())


def test_nodes_keep_points_of_who_may_be_used_and_drop_who_is_erased(
    make_pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if every list were large enough to be worth it.
    monkeypatch.setattr(CachingPool, "worth_it", lambda self, people: True)
    pair = make_pair()
    first = pair.bank.run(pair.query()).result["value"]
    kept = pair.bank.directory / "artefacts" / "points"
    before = sum(path.stat().st_size for path in kept.glob("*.sealed"))
    assert before > 280 * 50
    assert pair.bank.run(pair.query(segment="adults_40")).result["value"] < first
    assert sum(path.stat().st_size for path in kept.glob("*.sealed")) == before
    erasure = Erasure(pair.bank.ledger)
    erasure.forgetters.append(pair.bank.service.forget)
    erasure.erase(pair.identifiers(100))
    assert before - sum(path.stat().st_size for path in kept.glob("*.sealed")) == 50


def test_a_pool_with_a_cache_refuses_what_the_other_refuses(opened: Callable[..., PointCache]) -> None:
    pool = CachedPool(POOL, opened().set_of("crm", "email", "comity-1"), (people(1),))
    with pytest.raises(BadInput):
        pool.hash_and_blind(pa.array([b"a", None], pa.binary()), new_scalar(os.urandom))
    with pytest.raises(Misuse):
        pool.close()
