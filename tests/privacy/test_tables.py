from __future__ import annotations

import gc
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from privacy.errors import BadInput, ComityError, MaskRefused, StorageError
from privacy.keys import KeyRing
from privacy.masking import Manifest, Policy, manifest_path, mask_table
from privacy.masking.files import open_table

RING = KeyRing.from_root(bytes(range(32)))
KEEP = Policy.parse("version: 1\ncolumns: {a: {op: keep}, b: {op: keep}}")
POLICY = Policy.parse("""
version: 1
keys: {customer: local:customer}
columns:
  id: {op: drop}
  name: {class: person, op: mask}
  mobile: {class: cn_mobile, op: token, key: customer}
  email: {class: email, op: token, key: customer}
  id_no: {class: cn_resident_id, op: redact}
  age: {op: bucket, width: 10}
  note: {op: text, default: token, key: customer}
""")


def people(n: int) -> pa.Table:
    rng = random.Random(7)
    mobiles = [f"138{rng.randrange(10**8):08d}" for _ in range(n)]
    emails = [f"user.{rng.randrange(10**9)}@example{i % 7}.com" for i in range(n)]
    return pa.table(
        {
            "id": pa.array([f"C{rng.randrange(10**9):09d}" for _ in range(n)]),
            "name": pa.array([rng.choice(["张伟", "欧阳娜娜", "李静", "王芳芳"]) for _ in range(n)]),
            "mobile": pa.array(
                [m if i % 3 else f"+86 {m[:3]}-{m[3:7]}-{m[7:]}" for i, m in enumerate(mobiles)]
            ),
            "email": pa.array([e if i % 2 else e.upper() for i, e in enumerate(emails)]),
            "id_no": pa.array(["11010519491231002X"] * n),
            "age": pa.array([rng.randint(18, 80) for _ in range(n)]),
            "note": pa.array(
                [
                    f"客户电话{m}，邮箱{e}谢谢" if i % 2 else "没有"
                    for i, (m, e) in enumerate(zip(mobiles, emails, strict=True))
                ]
            ),
        }
    )


def write(table: pa.Table, path: Path) -> Path:
    match path.suffix:
        case ".parquet":
            pq.write_table(table, path)
        case ".arrow":
            with pa.ipc.new_file(str(path), table.schema) as out:
                out.write_table(table)
        case _:
            pacsv.write_csv(table, path, pacsv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ","))
    return path


def read(path: Path) -> pa.Table:
    with open_table(path) as table:
        return pa.Table.from_batches(list(table.batches), table.schema)


def entries(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


@pytest.mark.parametrize("target", [".csv", ".tsv", ".parquet", ".arrow"])
@pytest.mark.parametrize("source", [".csv", ".tsv", ".parquet", ".arrow"])
def test_every_format_to_every_format(tmp_path: Path, source: str, target: str) -> None:
    src, dst = write(people(50), tmp_path / f"in{source}"), tmp_path / f"out{target}"
    manifest = mask_table(src, dst, POLICY, RING)
    masked = read(dst)
    assert masked.column_names == ["name", "mobile", "email", "id_no", "age", "note"]
    assert masked.num_rows == manifest.rows == 50
    assert set(masked["name"].to_pylist()) <= {"张**", "欧阳**", "李**", "王**"}
    assert entries(tmp_path) == {src.name, dst.name, f"{dst.name}.manifest.json"}
    reference = tmp_path / "reference.parquet"
    mask_table(write(people(50), tmp_path / "again.parquet"), reference, POLICY, RING)
    assert masked.to_pylist() == read(reference).to_pylist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow"])
def test_no_original_identifier_is_left_in_output_or_manifest(tmp_path: Path, suffix: str) -> None:
    table = people(400)
    dst = tmp_path / f"out{suffix}"
    mask_table(write(table, tmp_path / "in.parquet"), dst, POLICY, RING)
    written = "\n".join(repr(row) for row in read(dst).to_pylist()) + manifest_path(dst).read_text()
    raw = (dst.read_bytes() + manifest_path(dst).read_bytes()).lower()
    for column in ("id", "mobile", "email", "id_no"):
        for value in table[column].to_pylist():
            compact = value.removeprefix("+86 ").replace("-", "") if column == "mobile" else value
            for form in {value, compact, value.lower()}:
                assert form not in written and form.encode() not in raw
    for name in set(table["name"].to_pylist()):
        assert name not in written


def test_column_and_text_tokens_join(tmp_path: Path) -> None:
    table = people(200)
    dst = tmp_path / "out.parquet"
    mask_table(write(table, tmp_path / "in.parquet"), dst, POLICY, RING)
    for row in read(dst).to_pylist()[1::2]:
        assert row["note"] == f"客户电话{row['mobile']}，邮箱{row['email']}谢谢"


def test_the_manifest_tells_what_was_done(tmp_path: Path) -> None:
    src = tmp_path / "in.csv"
    src.write_text("a,b\n13800138000,打13800138000\nn/a,\n,没有\n", "utf-8")
    policy = Policy.parse(
        "version: 1\nkeys: {k: local:k}\ncolumns: {a: {class: cn_mobile, op: token, key: k}, b: {op: text}}"
    )
    dst = tmp_path / "out.csv"
    manifest = mask_table(src, dst, policy, RING)
    document = json.loads(manifest_path(dst).read_text())
    assert document["columns"] == {
        "a": {"entity_class": "cn_mobile", "op": "token",
        "missing": 1, "rejected": {"not_a_number": 1}, "found": {}},
        "b": {"entity_class": None, "op": "text", "missing": 1, "rejected": {}, "found": {"CN_MOBILE": 1}},
    }  # fmt: skip
    assert document["rows"] == 3 and document["policy_hash"] == policy.hash
    assert document["output_sha256"] == hashlib.sha256(dst.read_bytes()).hexdigest()
    assert Manifest.load(manifest_path(dst)) == manifest
    with pytest.raises(BadInput):
        Manifest.load(dst)


def test_masking_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    src = write(people(100), tmp_path / "in.parquet")
    for suffix in (".csv", ".parquet"):
        a, b = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        assert mask_table(src, a, POLICY, RING) == mask_table(src, b, POLICY, RING)
        assert a.read_bytes() == b.read_bytes()


def test_csv_is_text_and_keeps_what_text_is(tmp_path: Path) -> None:
    src = tmp_path / "in.csv"
    src.write_text('\ufeffa,b\r\n007,"x,""y""\nz"\r\nNA,1e5\r\n"",null\r\n\r\n', "utf-8")
    dst = tmp_path / "out.csv"
    mask_table(src, dst, KEEP, RING)
    assert dst.read_text() == 'a,b\n007,"x,""y""\nz"\nNA,1e5\n,null\n'
    assert read(dst).to_pylist() == [
        {"a": "007", "b": 'x,"y"\nz'},
        {"a": "NA", "b": "1e5"},
        {"a": None, "b": "null"},
    ]


def test_a_single_column_keeps_its_empty_rows(tmp_path: Path) -> None:
    src, dst = tmp_path / "in.csv", tmp_path / "out.parquet"
    src.write_text("a\nx\n\ny\n")
    assert mask_table(src, dst, Policy.parse("version: 1\ncolumns: {a: {op: keep}}"), RING).rows == 3
    assert read(dst)["a"].to_pylist() == ["x", None, "y"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow"])
def test_a_table_without_rows_stays_one(tmp_path: Path, suffix: str) -> None:
    src = write(people(0), tmp_path / f"in{suffix}")
    for target in (".csv", ".parquet", ".arrow"):
        dst = tmp_path / f"out{target}"
        assert mask_table(src, dst, POLICY, RING).rows == 0
        assert read(dst).column_names == ["name", "mobile", "email", "id_no", "age", "note"]


def test_progress_ends_at_the_last_row(tmp_path: Path) -> None:
    src = write(people(100), tmp_path / "in.parquet")
    seen: list[tuple[int, int | None]] = []
    mask_table(
        src, tmp_path / "out.csv", POLICY, RING, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (100, 100)


def test_schema_metadata_of_the_source_does_not_pass(tmp_path: Path) -> None:
    table = pa.table({"a": ["x"], "b": ["y"]}).replace_schema_metadata({"owner": "zhang@example.com"})
    dst = tmp_path / "out.parquet"
    mask_table(write(table, tmp_path / "in.parquet"), dst, KEEP, RING)
    assert b"zhang@example.com" not in dst.read_bytes()


# ------------------------------------------------------------------------------ what is refused


def csv_of(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "in.csv"
        path.write_bytes(content)
        return path

    return make


def parquet_of(table: pa.Table, cut: int | None = None, suffix: str = ".parquet") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write(table, folder / f"in{suffix}")
        path.write_bytes(path.read_bytes()[:cut])
        return path

    return make


AB = pa.table({"a": ["x"] * 1000, "b": ["y"] * 1000})
BAD: list[tuple[str, Callable[[Path], Path], str]] = [
    ("empty file", csv_of(b""), "empty_file"),
    ("ragged: too many", csv_of(b"a,b\n1,2\nsecret,2,3\n"), "ragged_table"),
    ("ragged: too few", csv_of(b"a,b\n1,2\nsecret\n"), "ragged_table"),
    ("Latin-1", csv_of(b"a,b\nsecret\xe9,2\n"), "not_utf8"),
    ("Latin-1 header", csv_of(b"a,b\xe9\n1,2\n"), "not_utf8"),
    ("GBK", csv_of("a,b\n张三,2\n".encode("gbk")), "not_utf8"),
    ("UTF-16", csv_of("a,b\n1,2\n".encode("utf-16")), "not_utf8"),
    ("late bad byte", csv_of(b"a,b\n" + b"1,2\n" * 400_000 + b"\xff,2\n"), "not_utf8"),
    ("ten-megabyte cell", csv_of(b"a,b\n1," + b"x" * 10_000_000 + b"\n"), "cell_too_long"),
    ("two-megabyte cell", csv_of(b"a,b\n1,2\n1," + b"x" * 2_000_000 + b"\n"), "cell_too_long"),
    ("unclosed quote", csv_of(b'a,b\n1,"2\n' + b"3,4\n" * 2_000_000), "cell_too_long"),
    ("duplicate header", csv_of(b"a,b,a\n1,2,3\n"), "duplicate_column"),
    ("unnamed column", csv_of(b"a,,b\n1,2,3\n"), "unnamed_column"),
    ("blank header", csv_of(b"\n\n\n"), "unnamed_column"),
    ("missing column", csv_of(b"a\n1\n"), "missing_column"),
    ("truncated Parquet", parquet_of(AB, -20), "unreadable_table"),
    ("beheaded Parquet", parquet_of(AB, 100), "unreadable_table"),
    ("truncated Arrow", parquet_of(AB, 300, ".arrow"), "unreadable_table"),
    ("huge Parquet cell", parquet_of(pa.table({"a": ["x" * 10_000_000], "b": ["y"]})), "cell_too_long"),
    ("other suffix", lambda folder: folder / "in.xlsx", "bad_input"),
    ("no file", lambda folder: folder / "in.csv", "no_such_file"),
    ("folder", lambda folder: (folder / "in.csv").mkdir() or folder / "in.csv", "no_such_file"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "code"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_tables_are_refused_and_nothing_is_written(
    tmp_path: Path, make: Callable[[Path], Path], code: str
) -> None:
    src = make(tmp_path)
    before = entries(tmp_path)
    for target in ("out.csv", "out.parquet"):
        with pytest.raises(BadInput) as error:
            mask_table(src, tmp_path / target, KEEP, RING)
        assert error.value.code == code
        assert "secret" not in str(error.value)
        assert entries(tmp_path) == before


def test_parquet_with_its_middle_destroyed(tmp_path: Path) -> None:
    path = write(pa.table({"a": [str(i) for i in range(5000)], "b": ["y"] * 5000}), tmp_path / "in.parquet")
    content = bytearray(path.read_bytes())
    content[100:1500] = bytes(1400)
    path.write_bytes(content)
    with pytest.raises(BadInput):
        mask_table(path, tmp_path / "out.csv", KEEP, RING)
    assert entries(tmp_path) == {"in.parquet"}


def test_an_unknown_column_fails_closed(tmp_path: Path) -> None:
    src = csv_of(b"a,b,surprise\n1,2,3\n")(tmp_path)
    with pytest.raises(MaskRefused) as refusal:
        mask_table(src, tmp_path / "out.csv", KEEP, RING)
    assert refusal.value.code == "unknown_column" and "surprise" in str(refusal.value)
    assert entries(tmp_path) == {"in.csv"}


def test_a_policy_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    src = csv_of(b"a\n1\n")(tmp_path)
    with pytest.raises(MaskRefused):
        mask_table(src, tmp_path / "out.csv", Policy.parse("version: 1\ncolumns: {a: {op: drop}}"), RING)
    assert entries(tmp_path) == {"in.csv"}


@pytest.mark.parametrize(
    ("values", "row"),
    [([1.0, float("nan")], 2), ([float("inf")], 1), ([1.0] * 70_000 + [float("-inf")], 70_001)],
)
def test_nan_and_infinity_in_a_bucket_name_their_row(tmp_path: Path, values: list[float], row: int) -> None:
    src = write(pa.table({"a": values}), tmp_path / "in.parquet")
    policy = Policy.parse("version: 1\ncolumns: {a: {op: bucket, width: 5}}")
    with pytest.raises(BadInput) as error:
        mask_table(src, tmp_path / "out.csv", policy, RING)
    assert f"column a, row {row}:" in str(error.value) and error.value.code == "bad_value"
    assert entries(tmp_path) == {"in.parquet"}


def test_a_failure_leaves_the_former_output_alone(tmp_path: Path) -> None:
    dst = tmp_path / "out.csv"
    mask_table(csv_of(b"a,b\n1,2\n")(tmp_path), dst, KEEP, RING)
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.name != "in.csv"}
    with pytest.raises(BadInput):
        mask_table(csv_of(b"a,b\n1\n")(tmp_path), dst, KEEP, RING)
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.name != "in.csv"} == before
    mask_table(csv_of(b"a,b\n3,4\n")(tmp_path), dst, KEEP, RING)
    assert dst.read_text() == "a,b\n3,4\n"


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    src = csv_of(b"a,b\n1,2\n")(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        mask_table(src, tmp_path / "out.csv", KEEP, RING, progress=interrupt)
    assert entries(tmp_path) == {"in.csv"}


def test_source_and_target_are_two_files(tmp_path: Path) -> None:
    src = csv_of(b"a,b\n1,2\n")(tmp_path)
    link = tmp_path / "link.csv"
    link.symlink_to(src)
    for dst in (src, link):
        with pytest.raises(BadInput) as error:
            mask_table(src, dst, KEEP, RING)
        assert error.value.code == "same_file"
    assert src.read_bytes() == b"a,b\n1,2\n"


def test_a_target_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    src = csv_of(b"a,b\n1,2\n")(tmp_path)
    for target in ("out.csv", "out.parquet", "out.arrow"):
        with pytest.raises(StorageError):
            mask_table(src, tmp_path / "no" / target, KEEP, RING)


def test_lists_do_not_fit_into_csv(tmp_path: Path) -> None:
    src = write(pa.table({"a": [[1]], "b": ["x"]}), tmp_path / "in.parquet")
    with pytest.raises(ComityError) as error:
        mask_table(src, tmp_path / "out.csv", KEEP, RING)
    assert error.value.code == "not_in_csv" and entries(tmp_path) == {"in.parquet"}
    mask_table(src, tmp_path / "out.parquet", KEEP, RING)


def test_nul_bytes_and_odd_characters_pass_through(tmp_path: Path) -> None:
    src = csv_of("a,b\nx\x00y,\u202e𝟙\n".encode())(tmp_path)
    mask_table(src, tmp_path / "out.parquet", KEEP, RING)
    assert read(tmp_path / "out.parquet").to_pylist() == [{"a": "x\x00y", "b": "\u202e𝟙"}]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow"])
def test_memory_does_not_grow_with_the_table(tmp_path: Path, suffix: str) -> None:
    """Arrow's own count, taken after each batch: the same for 600 thousand rows and for 200 thousand."""
    peaks = []
    for rows in (200_000, 600_000):
        src = tmp_path / f"in{suffix}"
        text = pa.array([f"{i:020d}" for i in range(rows)])
        table = pa.table({"a": text, "b": text})
        size = table.nbytes
        if suffix == ".parquet":
            pq.write_table(table, src, row_group_size=100_000)
        elif suffix == ".arrow":
            with pa.ipc.new_file(str(src), table.schema) as out:
                out.write_table(table, max_chunksize=100_000)
        else:
            write(table, src)
        del table, text
        gc.collect()  # what other tests left behind must not be freed, and so counted, meanwhile
        idle, seen = pa.total_allocated_bytes(), [0]
        assert (
            mask_table(
                src,
                tmp_path / "out.csv",
                KEEP,
                RING,
                progress=lambda *_, seen=seen: seen.append(pa.total_allocated_bytes()),  # type: ignore[misc]
            ).rows
            == rows
        )
        peaks.append(max(seen) - idle)
        assert peaks[-1] < 24 << 20 <= size or rows < 600_000
    # Batches of up to 8 MiB: a table of three times the size would take three times as much.
    assert peaks[1] < 1.5 * max(peaks[0], 8 << 20)
