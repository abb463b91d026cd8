"""Mask a whole table by a policy, in constant memory, into a file that appears only when it is finished."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pyarrow as pa

from privacy.errors import BadInput, MaskRefused, StorageError
from privacy.keys import KeyRing
from privacy.masking.files import TableReader, TableWriter, open_table, open_writer, table_format
from privacy.masking.manifest import Manifest, ReportCounter, manifest_path
from privacy.masking.operators import BadCell, ColumnMask
from privacy.masking.policy import Policy

__all__ = ["Progress", "mask_table"]

Progress = Callable[[int, int | None], None]
"""Called after each batch with the rows done, and the rows there are where the format tells."""


def mask_table(
    src: Path | str, dst: Path | str, policy: Policy, keyring: KeyRing, *, progress: Progress | None = None
) -> Manifest:
    """Write `src`, masked by `policy`, to `dst`, and a manifest beside it; return the manifest.

    Formats go by suffix (CSV, TSV, Parquet, Arrow IPC) and may differ. `dst` is replaced if it exists. On
    any error, and on an interrupt, nothing is written. Raises

    - `MaskRefused` (code `unknown_column`) if the table has a column that the policy does not name, or
      (code `name_finder_missing`) if the policy requires a language model that is not installed,
    - `BadInput` if the policy names a column that the table does not have (code `missing_column`), if the
      table cannot be read, or if a value has no place in a bucket,
    - `StorageError` if the disk refuses.
    """
    source, target = Path(src), Path(dst)
    kind = table_format(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise BadInput("The masked table would replace its own source.", code="same_file")
    tag = secrets.token_hex(8)
    draft = target.with_name(f".{target.name}.{tag}")
    draft_manifest = target.with_name(f".{target.name}.{tag}.manifest")
    try:
        with open_table(source) as table:
            manifest = _mask(source, table, draft, kind, policy=policy, keyring=keyring, progress=progress)
        try:
            draft_manifest.write_text(manifest.to_json(), "utf-8")
            _sync(draft_manifest)
            # The manifest first: a table never stands without one, and it names the table's digest.
            draft_manifest.replace(manifest_path(target))
            draft.replace(target)
        except OSError as error:
            raise _disk(target, error) from error
        return manifest
    finally:
        draft.unlink(missing_ok=True)
        draft_manifest.unlink(missing_ok=True)


def _mask(
    source: Path,
    table: TableReader,
    draft: Path,
    kind: str,
    *,
    policy: Policy,
    keyring: KeyRing,
    progress: Progress | None,
) -> Manifest:
    names = list(table.schema.names)
    _same_columns(source, names, policy)
    masks = {name: policy.columns[name].operator.bind(keyring) for name in names}
    counters = {
        name: ReportCounter(policy.columns[name].entity_class, policy.columns[name].operator.NAME)
        for name in names
    }
    writer: TableWriter | None = None
    rows = 0
    empty = pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in table.schema], schema=table.schema)
    try:
        # An empty batch first: it gives the output its schema even if no row follows.
        for batch in chain([empty], table.batches):
            masked = _mask_batch(source, batch, rows, masks, counters)
            try:
                if writer is None:
                    writer = open_writer(draft, kind, masked.schema)
                writer.write(masked)
            except OSError as error:
                raise _disk(draft, error) from error
            rows += batch.num_rows
            if progress is not None:
                progress(rows, table.rows)
    finally:
        if writer is not None:
            writer.close()
    try:
        _sync(draft)
        with draft.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _disk(draft, error) from error
    reports = {name: counters[name].report() for name in names}
    detectors = {name: counter.detectors for name, counter in counters.items() if counter.detectors}
    return Manifest(policy.hash, rows, digest, reports, detectors)


def _same_columns(source: Path, names: list[str], policy: Policy) -> None:
    unknown = [name for name in names if name not in policy.columns]
    if unknown:
        raise MaskRefused(
            f"{source.name}: the policy says nothing about {', '.join(unknown)}.",
            rule="every_column_named",
            code="unknown_column",
            advice="Name each column in the policy; use op: drop for what should not be in the output.",
        )
    missing = [name for name in policy.columns if name not in names]
    if missing:
        raise BadInput(
            f"{source.name}: the policy names {', '.join(missing)}, which the table does not have.",
            code="missing_column",
        )


def _mask_batch(
    source: Path,
    batch: pa.RecordBatch,
    at: int,
    masks: dict[str, ColumnMask],
    counters: dict[str, ReportCounter],
) -> pa.RecordBatch:
    columns: dict[str, pa.Array] = {}
    for name, mask in masks.items():
        try:
            masked = mask(batch.column(name))
        except BadCell as bad:
            raise BadInput(
                f"{source.name}: column {name}, row {at + bad.row + 1}: the value {bad.problem}.",
                code="bad_value",
            ) from None
        except BadInput as error:
            raise BadInput(
                f"{source.name}: column {name}: {error.detail}", code=error.code, advice=error.advice
            ) from None
        counters[name].add(masked.missing, masked.rejected, masked.found, masked.detectors)
        if masked.values is not None:
            columns[name] = masked.values
    if not columns:
        raise MaskRefused("The policy leaves no column in the output.", rule="some_column_left")
    return pa.RecordBatch.from_pydict(columns)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _disk(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path.name} could not be written: {error.strerror}.")
