"""What a demonstration found: the numbers machines read, and the particulars that only the report shows."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "Cell",
    "Exchange",
    "LogFinding",
    "MaskSample",
    "Masking",
    "Measured",
    "Model",
    "OptOuts",
    "Outcome",
    "Overlap",
    "Particulars",
    "ReceiptFinding",
    "Stage",
    "write_atomically",
]

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Overlap:
    """People in common, as released (noise included), with a 95 % interval; and again after the opt-outs."""

    value: int
    ci95: Interval
    epsilon: float
    after_optout: int
    after_ci95: Interval


@dataclass(frozen=True, slots=True)
class Cell:
    """One age band × limit band. `value` and `ci95` are None where the cell was withheld."""

    age: str
    limit: str
    value: int | None
    ci95: Interval | None
    suppressed: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """Mean of one contributor column over the people in common; unit of the column."""

    column: str
    mean: float
    ci95: Interval


@dataclass(frozen=True, slots=True)
class Model:
    """Areas under the ROC curve on held-out people; `people` is how many the joint model was built on."""

    auc_alone: float
    auc_joint: float
    auc_joint_after_optout: float
    people: int
    people_after_optout: int


@dataclass(frozen=True, slots=True)
class OptOuts:
    """Withdrawals at the shop. `latencies_ms`: recorded there → enforced at the bank, one entry a person."""

    people: int
    latencies_ms: Sequence[float]
    proofs: int
    receipts_checked: int
    non_inclusion_proved: bool

    @property
    def enforced_p99_ms(self) -> float:
        """The 99th percentile (nearest rank) of the latencies, 0 when there are none."""
        ordered = sorted(self.latencies_ms)
        return ordered[max(0, -(-len(ordered) * 99 // 100) - 1)] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class LogFinding:
    """A transparency log verified from its files and its public key alone."""

    partner: str
    dir: str
    vkey: str
    size: int
    verified: bool


@dataclass(frozen=True, slots=True)
class ReceiptFinding:
    """A use receipt both partners hold."""

    kind: str
    partners: Sequence[str]
    verified: bool
    purpose: str = ""
    at: str = ""
    after_optout: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the story and the wall-clock seconds it took."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """Something that crossed the wire (or did not): what it was, and how many bytes each way."""

    what: str
    bank_sent: int | None
    shop_sent: int | None
    bank_learns: str
    shop_learns: str


@dataclass(frozen=True, slots=True)
class MaskSample:
    """An invented row before and after masking: (column, before, after)."""

    partner: str
    cells: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Masking:
    """What masking did to one partner's table."""

    partner: str
    rows: int
    notes: int
    planted: int
    left: int


@dataclass(frozen=True, slots=True)
class Particulars:
    """What the report shows beside the outcome."""

    bank: str
    shop: str
    people_each: int
    people_shared: int
    rows: Mapping[str, int]
    eligible: Mapping[str, int]
    delta: float
    minimum_cell: int
    seed: int
    source: str
    made_at: str
    stages: Sequence[Stage] = ()
    exchanges: Sequence[Exchange] = ()
    samples: Sequence[MaskSample] = ()
    masking: Sequence[Masking] = ()
    consents: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything `comity demo --json` writes, and the particulars for the page."""

    seconds: float
    overlap: Overlap
    cells: Sequence[Cell]
    measure: Measured
    model: Model
    optout: OptOuts
    logs: Sequence[LogFinding]
    receipts: Sequence[ReceiptFinding]
    engine: str
    particulars: Particulars

    @property
    def sound(self) -> bool:
        """Whether every check of the demonstration held."""
        return (
            self.optout.non_inclusion_proved
            and all(log.verified for log in self.logs)
            and all(receipt.verified for receipt in self.receipts)
            and all(m.left == 0 for m in self.particulars.masking)
        )

    def document(self) -> dict[str, Any]:
        """The JSON document; the keys are a published interface."""
        o, m = self.overlap, self.model
        return {
            "seconds": round(self.seconds, 1),
            "overlap": {
                "value": o.value, "ci95": list(o.ci95), "epsilon": o.epsilon, "after_optout": o.after_optout,
            },
            "cells": [
                {
                    "age": c.age, "limit": c.limit, "value": c.value,
                    "ci95": None if c.ci95 is None else list(c.ci95), "suppressed": c.suppressed,
                }
                for c in self.cells
            ],
            "measure": {
                "column": self.measure.column, "mean": self.measure.mean, "ci95": list(self.measure.ci95),
            },
            "model": {
                "auc_alone": m.auc_alone, "auc_joint": m.auc_joint,
                "auc_joint_after_optout": m.auc_joint_after_optout, "people": m.people,
            },
            "optout": {
                "people": self.optout.people,
                "enforced_p99_ms": round(self.optout.enforced_p99_ms, 1),
                "non_inclusion_proved": self.optout.non_inclusion_proved,
            },
            "logs": [
                {"partner": g.partner, "dir": g.dir, "vkey": g.vkey, "size": g.size, "verified": g.verified}
                for g in self.logs
            ],
            "receipts": [
                {"kind": r.kind, "partners": list(r.partners), "verified": r.verified} for r in self.receipts
            ],
            "engine": self.engine,
        }  # fmt: skip

    def write_json(self, path: Path) -> None:
        """Write the document to `path`, whole or not at all."""
        write_atomically(path, json.dumps(self.document(), ensure_ascii=False, indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text so that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        part.chmod(0o644)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
