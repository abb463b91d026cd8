"""What a join led to, told for whoever was in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from clean_room.consequences import JobConsequences
from clean_room.jobs import Job, JobState, Query, Role
from consent.receipts import GateEvidence, UseReceipt
from privacy.errors import Misuse

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def use(kind, job="ab12"):
    evidence = GateEvidence("overlap.reach", "bank", "x/log", 1, "", "ab" * 32, 0, "", "", NOW, "email")
    return UseReceipt("r", kind, "overlap.reach", "c", job, None, "bank", evidence, "", "", NOW)


@dataclass
class Jobs:
    job: Job

    def get(self, job):
        if job != self.job.id:
            raise Misuse("unknown", code="unknown_job")
        return self.job


@pytest.fixture
def job():
    query = Query("overlap", "c", "ours", "theirs", "overlap.reach")
    at = NOW.isoformat()
    return Job("ab12", Role.ANALYST, query, "bank", "someone", JobState.SUCCEEDED, at, at)


def told(job, kind, folder):
    return [(c.thing, c.status) for c in JobConsequences(Jobs(job), folder).of_use(use(kind))]


def test_a_result_was_released_withheld_or_is_on_its_way(job, tmp_path):
    assert told(job, "overlap", tmp_path) == [("result", "released")]
    assert told(replace(job, state=JobState.FAILED), "measure", tmp_path) == [("result", "withheld")]
    assert told(replace(job, state=JobState.STARTED), "overlap", tmp_path) == [("result", "running")]
    assert told(replace(job, id="other"), "overlap", tmp_path) == [("result", "unknown")]


def test_an_alignment_stands_as_long_as_its_file_does(job, tmp_path):
    assert told(job, "align", tmp_path) == [("alignment", "dropped")]
    (tmp_path / "ab12.alignment").write_bytes(b"")
    assert told(job, "align", tmp_path) == [("alignment", "stands")]


def test_an_export_was_released_and_training_is_anothers_to_tell(job, tmp_path):
    assert told(job, "activate", tmp_path) == [("export", "released")]
    assert told(job, "training", tmp_path) == []
