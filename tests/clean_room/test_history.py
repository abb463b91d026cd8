"""The record of this month's questions, on both databases."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

import clean_room.history
from clean_room.history import DifferencingRisk, History, Prepared, Question, Seen, question_digest
from clean_room.jobs import Query, Role
from clean_room.storage import metadata
from privacy.errors import Refused
from privacy.keys import KeyRing


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2026, 3, 14, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at


def given(*cells: range, values: Any = None) -> Any:
    """What `History` reads of a `QueryInput`."""
    return SimpleNamespace(
        people=tuple(pa.array([b"person.%d@example.org" % i for i in cell], pa.binary()) for cell in cells),
        rows=tuple(np.arange(cell.start, cell.stop) for cell in cells),
        values=values,
    )


class Records:
    def __init__(self, engine: sa.Engine, folder: Path, ring: KeyRing | None = None) -> None:
        metadata.create_all(engine)
        self.engine, self.folder, self.clock = engine, folder, Clock()
        self.ring = ring or KeyRing.from_root(bytes(32))
        self.history = History(engine, folder, self.ring, self.clock)

    def prepared(self, job: str, *cells: range, role: Role = Role.ANALYST, **more: Any) -> Prepared:
        fields: dict[str, Any] = {
            "job": job, "role": role, "lineage": "customers", "partner": "shop", "digest": "a" * 64,
            "minimum": 10,
        }  # fmt: skip
        question = Question(**(fields | {k: v for k, v in more.items() if k in fields}))
        return self.history.prepare(
            question, given(*cells, values=more.get("values")), kind=more.get("kind", "email")
        )

    def ask(self, job: str, *cells: range, repeats: str | None = None, **more: Any) -> Seen | None:
        return self.history.admit(self.prepared(job, *cells, **more), repeats=repeats)


@pytest.fixture
def records(engine: sa.Engine, tmp_path: Path) -> Records:
    return Records(engine, tmp_path / "kept")


def test_the_same_question_with_the_same_people_was_asked_before(records: Records) -> None:
    assert records.ask("1", range(100)) is None
    assert records.ask("2", range(100)) == Seen("1", settled=False)
    records.history.settle("1")
    assert records.ask("3", range(100)) == Seen("1", settled=True)
    assert records.ask("4", range(100), digest="b" * 64) is None
    assert records.ask("5", range(50, 150)) is None


def test_the_contributor_believes_only_what_it_finds_itself(records: Records) -> None:
    more: dict[str, Any] = {"role": Role.CONTRIBUTOR}
    assert records.ask("1", range(100), **more) is None
    assert records.ask("2", range(100), repeats="1", **more) is None, "not answered yet"
    records.history.settle("1")
    assert records.ask("3", range(100), **more) is None, "the partner names no job"
    assert records.ask("4", range(100), repeats="f", **more) is None, "no such job"
    assert records.ask("5", range(100), repeats="1", digest="b" * 64, **more) is None, "another question"
    assert records.ask("6", range(40, 160), repeats="1", **more) is None, "other people"
    assert records.ask("7", range(100), repeats="1", partner="other", **more) is None, "another partner"
    assert records.ask("8", range(100), repeats="1", lineage="others", **more) is None, "another dataset"
    assert records.ask("9", range(100), repeats="1", **more) == Seen("1", settled=True)


def test_a_question_about_all_but_one_is_refused_and_leaves_nothing(records: Records) -> None:
    records.ask("1", range(100))
    with pytest.raises(DifferencingRisk) as refused:
        records.ask("2", range(99))
    assert refused.value.code == "differencing_risk"
    assert "job 1 " in refused.value.advice
    said = json.dumps([str(refused.value), refused.value.advice]).replace("job 1 ", "")
    assert not any(digit in said for digit in "0123456789"), "it must not say in how many they differ"
    assert records.history.open_jobs() == ["1"]
    assert len(list(records.folder.iterdir())) == 1
    records.history.forget("1")
    assert records.ask("2", range(99)) is None, "what came to nothing is not compared with"


def test_a_person_who_left_between_two_equal_questions_is_not_told_by_them(records: Records) -> None:
    records.ask("1", range(100), role=Role.CONTRIBUTOR)
    records.history.settle("1")
    with pytest.raises(DifferencingRisk):
        records.ask("2", range(1, 100), role=Role.CONTRIBUTOR, repeats="1")


def test_a_value_changed_for_one_person_is_too_close(records: Records) -> None:
    spend = np.arange(100.0)
    records.ask("1", range(100), values=(spend,))
    changed = spend.copy()
    changed[3] = 999.0
    with pytest.raises(DifferencingRisk):
        records.ask("2", range(100), values=(changed,))


def test_other_places_are_not_compared(records: Records) -> None:
    records.ask("1", range(100))
    assert records.ask("2", range(99), partner="bookshop") is None
    assert records.ask("3", range(98), lineage="prospects") is None
    assert records.ask("4", range(97), role=Role.CONTRIBUTOR) is None


def test_the_next_month_begins_anew_and_the_last_one_is_removed(records: Records) -> None:
    records.ask("1", range(100))
    records.history.settle("1")
    assert records.history.sweep() == 0
    records.clock.at += timedelta(days=31)
    assert records.ask("2", range(99)) is None
    assert records.history.sweep() == 1
    assert [path.stem for path in records.folder.iterdir()] == ["2"]


def test_equal_inputs_are_kept_once_and_as_long_as_one_needs_them(records: Records) -> None:
    records.ask("1", range(100))
    records.ask("2", range(100), digest="b" * 64)
    assert len(list(records.folder.iterdir())) == 1
    records.history.forget("1")
    with pytest.raises(DifferencingRisk):
        records.ask("3", range(99))
    records.history.forget("2")
    assert not list(records.folder.iterdir())


def test_an_answered_question_is_not_forgotten(records: Records) -> None:
    records.ask("1", range(100))
    records.history.settle("1")
    records.history.forget("1")
    assert records.ask("2", range(100)) == Seen("1", settled=True)


def test_a_job_that_goes_on_after_a_crash_is_let_in_again(records: Records) -> None:
    records.ask("1", range(100))
    again = Records(records.engine, records.folder, records.ring)
    assert again.history.open_jobs() == ["1"]
    assert again.ask("1", range(100)) is None
    assert again.history.open_jobs() == ["1"]


def test_a_lost_file_errs_on_the_safe_side(records: Records) -> None:
    records.ask("1", range(100))
    for path in records.folder.iterdir():
        path.unlink()
    with pytest.raises(DifferencingRisk):
        records.ask("2", range(101))


def test_of_two_that_are_too_close_and_asked_at_once_one_is_let_in(records: Records) -> None:
    for attempt in range(5):
        ready = [
            records.prepared(f"{attempt}{i}", range(1000 * attempt, 1000 * attempt + 100 + i))
            for i in range(6)
        ]
        start, outcomes = threading.Barrier(len(ready)), []

        def admit(one: Prepared, start: Any = start, outcomes: list[str] = outcomes) -> None:
            start.wait()
            try:
                records.history.admit(one)
                outcomes.append("in")
            except DifferencingRisk:
                outcomes.append("refused")

        threads = [threading.Thread(target=admit, args=(one,)) for one in ready]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["in", *["refused"] * 5]


def test_there_is_an_end_to_how_many_are_kept(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean_room.history, "MOST", 3)
    for i in range(3):
        records.ask(str(i), range(1000 * i, 1000 * i + 100))
    with pytest.raises(Refused) as refused:
        records.ask("9", range(9000, 9100))
    assert refused.value.code == "too_many_questions"
    assert records.ask("8", range(100), digest="c" * 64) is None, (
        "an input that is kept already costs nothing"
    )


def test_a_new_ring_root_in_mid_month_still_compares(engine: sa.Engine, tmp_path: Path) -> None:
    ring = KeyRing.create(tmp_path / "ring")
    before = Records(engine, tmp_path / "kept", ring)
    before.ask("1", range(100))
    after = Records(engine, tmp_path / "kept", ring.rotate(tmp_path / "ring"))
    with pytest.raises(DifferencingRisk):
        after.ask("2", range(99))
    assert after.ask("3", range(100)) == Seen("1", settled=False)


def test_no_identifier_is_readable_in_what_is_kept(records: Records) -> None:
    records.ask("1", range(100))
    for path in records.folder.iterdir():
        assert b"example.org" not in path.read_bytes() and b"people" not in path.read_bytes()
    with records.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT * FROM clean_room_questions")).all()
    assert "example.org" not in repr(rows)


def test_the_digest_of_a_question_is_of_all_of_it_and_of_the_agreement() -> None:
    base: dict[str, Any] = {
        "kind": "overlap", "collaboration": "c", "dataset": "d", "partner_dataset": "p",
        "purpose": "overlap.reach",
    }  # fmt: skip
    variants = [
        {},
        {"epsilon": 0.5},
        {"segment": "s"},
        {"dimensions": ("x",)},
        {"purpose": "overlap.measure"},
    ]
    digests = {question_digest(Query(**(base | v)), h) for v in variants for h in ("1", "2")}
    assert len(digests) == 10
    assert question_digest(Query(**base), "1") in digests
