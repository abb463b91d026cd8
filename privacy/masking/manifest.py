"""What was done to a table: the receipt that lies beside a masked file. It holds counts, never values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from privacy.entities import EntityKind, ModelKind
from privacy.errors import BadInput

__all__ = ["ColumnReport", "Manifest", "manifest_path"]

_FORMAT = "comity-mask-1"


@dataclass(frozen=True, slots=True)
class ColumnReport:
    """One column: class and operator; rows without a value, rejected by reason, found by kind."""

    entity_class: str | None
    op: str
    missing: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    found: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A masked file's receipt: by which policy, how many rows, and the SHA-256 (hex) of the file.

    `detectors` says for each column of free text what looked for personal data in it: ``patterns``, and the
    language models with their versions.
    """

    policy_hash: str
    rows: int
    output_sha256: str
    columns: Mapping[str, ColumnReport]
    detectors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """JSON values, with the format's name."""
        return {"format": _FORMAT, **asdict(self)}

    def to_json(self) -> str:
        """Indented JSON text ending in a newline."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, path: Path | str) -> Manifest:
        """Read a manifest file. Raises `BadInput` if it is none."""
        try:
            document = json.loads(Path(path).read_text("utf-8"))
            if document.pop("format") != _FORMAT:
                raise ValueError("format")
            columns = {name: ColumnReport(**report) for name, report in document.pop("columns").items()}
            detectors = {name: tuple(ran) for name, ran in document.pop("detectors", {}).items()}
            return cls(columns=columns, detectors=detectors, **document)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadInput(f"{path} is not a masking manifest.", code="bad_manifest") from None


def manifest_path(output: Path) -> Path:
    """Where the manifest of a masked file lies: beside it, with ``.manifest.json`` added to the name."""
    return output.with_name(output.name + ".manifest.json")


class ReportCounter:
    """Adds up one column's batches into its report."""

    def __init__(self, entity_class: str | None, op: str) -> None:
        self._entity_class = entity_class
        self._op = op
        self._missing = 0
        self._rejected: Counter[str] = Counter()
        self._found: Counter[str] = Counter()
        self.detectors: tuple[str, ...] = ()

    def add(
        self,
        missing: int,
        rejected: Mapping[str, int],
        found: Mapping[EntityKind | ModelKind, int],
        detectors: tuple[str, ...],
    ) -> None:
        """Count one batch; `detectors` are the same in each."""
        self.detectors = detectors
        self._missing += missing
        self._rejected.update(rejected)
        self._found.update({str(kind): n for kind, n in found.items()})

    def report(self) -> ColumnReport:
        """The sum so far."""
        return ColumnReport(
            self._entity_class,
            self._op,
            self._missing,
            dict(sorted(self._rejected.items())),
            dict(sorted(self._found.items())),
        )
