"""The demonstration as a user runs it, once, and then everything it claims computed again in the clear."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from clean_room.alignments import AlignmentStore
from comity.cli.opening import opened
from comity.config import load_config
from federated.storage import RunStore
from federated.vertical.partition import Partition
from privacy.keys import KeyRing

COMITY = [sys.executable, "-c", "from comity.cli import main; main()"]
PEOPLE = 2_000
SIDES = ("bank", "shop")
CLIP = 500_000


@dataclass
class Run:
    """One finished `comity demo`."""

    folder: Path
    outcome: dict[str, Any]
    page: str
    printed: str
    seconds: float

    def table(self, side: str) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "inputs" / f"{side}.parquet")

    def keyed(self, side: str) -> pl.DataFrame:
        """The side's rows with a usable mobile number, one a person, the first in file order."""
        keys = [mobile_of(text) for text in self.table(side)["mobile"]]
        rows = self.table(side).with_row_index("row").with_columns(key=pl.Series(keys, dtype=pl.String))
        return rows.filter(pl.col("key").is_not_null()).unique("key", keep="first", maintain_order=True)

    def granted(self, side: str, purpose: str) -> set[str]:
        register = pl.read_csv(self.folder / "inputs" / f"{side}-consents.csv", infer_schema=False)
        rows = register.filter((pl.col("purpose") == purpose) & (pl.col("decision") == "granted"))
        return {key for text in phones(rows) if (key := mobile_of(text)) is not None}

    def gone(self) -> set[str]:
        left = pl.read_csv(self.folder / "inputs" / "optouts.csv", infer_schema=False)
        return {key for text in phones(left) if (key := mobile_of(text)) is not None}

    def shared(self, purpose: str, *, after: bool = False) -> set[str]:
        keys = set.intersection(*(set(self.keyed(s)["key"]) & self.granted(s, purpose) for s in SIDES))
        return keys - self.gone() if after else keys

    def directory(self, side: str) -> Path:
        return self.folder / f"{side}.example"


def phones(rows: pl.DataFrame) -> pl.Series:
    return rows["phone" if "phone" in rows.columns else "mobile"]


def mobile_of(text: str | None) -> str | None:
    """Eleven digits of a mainland mobile, however written: the test's own reading, not the product's."""
    digits = re.sub(r"\D", "", unicodedata.normalize("NFKC", text or ""))
    match = re.fullmatch(r"(?:00)?(?:86)?(1[3-9]\d{9})", digits)
    return match[1] if match else None


def processes_of(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"serve" in line and any(part.startswith(str(folder).encode()) for part in line):
                found.append(int(entry.name))
    return found


def ports_of(folder: Path) -> list[int]:
    files = sorted(folder.glob("*.example/node.toml"))
    return [tomllib.loads(file.read_text())["server"]["port"] for file in files]


def assert_nothing_runs(folder: Path) -> None:
    assert processes_of(folder) == []
    ports = ports_of(folder)
    assert len(ports) == 2
    for port in ports:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))


@pytest.fixture(scope="module")
def data(demonstration: Any) -> Path:
    return Path(demonstration.data)


@pytest.fixture(scope="module")
def run(demonstration: Any) -> Iterator[Run]:
    assert demonstration.people == PEOPLE
    place = demonstration.place
    outcome = json.loads((place / "outcome.json").read_text(encoding="utf-8"))
    page = (place / "report.html").read_text("utf-8")
    yield Run(place / "kept", outcome, page, demonstration.printed, demonstration.seconds)
    assert sorted(p.name for p in place.iterdir()) == ["kept", "outcome.json", "report.html"]


def test_the_overlap_is_the_true_one_within_its_error_bar(run: Run) -> None:
    found, true = run.outcome["overlap"], len(run.shared("overlap.reach"))
    low, high = found["ci95"]
    # The bar holds 95 % of the time; noise beyond three of its half widths would be a defect.
    assert abs(found["value"] - true) <= 3 * max(high - found["value"], 1)
    assert low <= found["value"] <= high and high - low < 60
    assert found["epsilon"] == 1.0


def test_after_the_opt_outs_exactly_those_people_are_missing(run: Run) -> None:
    found, true = run.outcome["overlap"], len(run.shared("overlap.reach", after=True))
    assert true == len(run.shared("overlap.reach")) - 200
    half = (found["ci95"][1] - found["ci95"][0]) / 2
    assert abs(found["after_optout"] - true) <= 3 * max(half, 1)


def test_the_cells_are_the_true_ones_within_their_error_bars(run: Run) -> None:
    shared = run.shared("overlap.reach")
    age, limit = pl.col("AGE"), pl.col("LIMIT_BAL")
    counted = dict(
        run.keyed("bank")
        .filter(pl.col("key").is_in(shared))
        .select(
            cell=pl.concat_str(
                pl.when(age < 30).then(pl.lit("21-29")).when(age < 40).then(pl.lit("30-39"))
                .when(age < 50).then(pl.lit("40-49")).otherwise(pl.lit("50 and over")),
                pl.when(limit < 50_000).then(pl.lit("under 50k"))
                .when(limit < 150_000).then(pl.lit("50k to 150k"))
                .when(limit < 300_000).then(pl.lit("150k to 300k")).otherwise(pl.lit("300k and over")),
                separator="|",
            )
        )
        .group_by("cell").len().iter_rows()
    )  # fmt: skip
    cells = run.outcome["cells"]
    assert len(cells) == 16
    shown = [cell for cell in cells if not cell["suppressed"]]
    assert len(shown) >= 5
    for cell in cells:
        true = counted.get(f"{cell['age']}|{cell['limit']}", 0)
        if cell["suppressed"]:
            assert cell["value"] is None and cell["ci95"] is None
        else:
            high = cell["ci95"][1]
            assert cell["value"] >= 50
            assert abs(cell["value"] - true) <= 3 * max(high - cell["value"], 1)
    hidden = [cell for cell in cells if cell["suppressed"]]
    assert len(hidden) != 1, "one hidden cell could be worked out from the total"


def test_the_average_is_the_true_one_within_its_error_bar(run: Run) -> None:
    shared = run.shared("overlap.measure")
    rows = run.keyed("shop").filter(pl.col("key").is_in(shared))
    true = float(np.clip(rows["PAY_AMT1"].to_numpy(), 0, CLIP).mean())
    found = run.outcome["measure"]
    low, high = found["ci95"]
    assert found["column"] == "PAY_AMT1"
    assert low - 2 * (high - found["mean"]) <= true <= high + 2 * (high - found["mean"])


def pooled_auc(run: Run, index: int) -> tuple[float, float, int]:
    """AUC of plaintext logistic regression on the rows of the index-th run (0 before, 1 after the opt-outs),
    joint and by the bank alone; and how many were aligned."""
    rows = {}
    for side in SIDES:
        config = load_config(run.directory(side))
        with opened(run.directory(side)) as records:
            found = sorted(RunStore(records.engine).page(limit=10, after=None), key=lambda r: r.created_at)[
                index
            ]
        stores = [p.parent for p in config.data_dir.rglob(f"{found.alignment}.alignment")]
        alignment = AlignmentStore(stores[0], KeyRing.load(config.ring_key)).load(str(found.alignment))
        rows[side] = run.table(side)[alignment.row_index]
        # The bank decides who is held out; the shop's record of the run has it as it was sent.
        if side == "bank":
            request = found.request
        else:
            split = Partition.from_text(found.request["held_out"], len(alignment.row_index))
    keys = [mobile_of(text) for text in rows["bank"]["mobile"]]
    assert keys == [mobile_of(text) for text in rows["shop"]["mobile"]], "row i is one person on both sides"
    gone = run.gone() if index == 1 else set()
    # Each node uses the rows its own ledger allows; where only the shop's refuses, its columns are zero.
    allowed = {side: run.granted(side, "model.credit") - gone for side in SIDES}
    live = {side: np.array([key in allowed[side] for key in keys]) for side in SIDES}
    label = rows["bank"]["default-payment-next-month"].to_numpy()
    columns = {}
    for side in SIDES:
        raw = rows[side].select(
            pl.col("^(LIMIT_BAL|SEX|AGE|EDUCATION_.|MARRIAGE_.|PAY_.*|BILL_.*)$")
        ).to_numpy().astype(float)  # fmt: skip
        seen = raw[split.train][live[side][split.train]]
        scale = seen.std(axis=0)
        columns[side] = (raw - seen.mean(axis=0)) / np.where(scale > 0, scale, 1.0) * live[side][:, None]
    train, test = (part[live["bank"][part]] for part in (split.train, split.test))

    def auc(scaled: np.ndarray) -> float:
        model = LogisticRegression(C=1 / request["l2"], max_iter=5_000, tol=1e-8).fit(
            scaled[train], label[train]
        )
        return float(roc_auc_score(label[test], model.decision_function(scaled[test])))

    return auc(np.hstack([columns["bank"], columns["shop"]])), auc(columns["bank"]), len(keys)


def test_the_joint_model_is_as_good_as_one_on_pooled_plain_data(run: Run) -> None:
    found = run.outcome["model"]
    joint, alone, people = pooled_auc(run, 0)
    assert abs(found["auc_joint"] - joint) <= 0.002
    assert abs(found["auc_alone"] - alone) <= 0.002
    assert found["people"] == people == len(run.shared("overlap.align") & run.shared("model.credit"))
    assert found["auc_joint"] > found["auc_alone"] + 0.05


def test_the_model_after_the_opt_outs_is_the_one_without_those_people(run: Run) -> None:
    joint, _, people = pooled_auc(run, 1)
    assert abs(run.outcome["model"]["auc_joint_after_optout"] - joint) <= 0.002
    agreed = run.shared("overlap.align", after=True) & run.shared("model.credit", after=True)
    assert people == len(agreed)


def test_opt_outs_reach_the_partner_and_absence_is_proved(run: Run) -> None:
    found = run.outcome["optout"]
    assert found["people"] == 200 == len(run.gone())
    assert found["non_inclusion_proved"] is True
    assert 0 < found["enforced_p99_ms"] < 10_000


def test_both_logs_verify_again_from_their_files_alone(run: Run) -> None:
    assert [log["partner"] for log in run.outcome["logs"]] == list(SIDES)
    for log in run.outcome["logs"]:
        assert log["verified"] is True and log["size"] > 4 * 0.9 * PEOPLE
        done = subprocess.run(
            [*COMITY, "log", "verify", log["dir"], "--key", log["vkey"]],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_use_left_a_receipt_that_both_hold(run: Run) -> None:
    receipts = run.outcome["receipts"]
    assert sorted(r["kind"] for r in receipts) == sorted(
        ["overlap", "overlap", "measure", "align", "training", "overlap", "align", "training"]
    )
    assert all(r["verified"] is True and sorted(r["partners"]) == list(SIDES) for r in receipts)


def test_the_masked_copies_hold_no_identifier_of_the_tables(run: Run) -> None:
    for side in SIDES:
        masked = (run.folder / "inputs" / f"{side}-masked.parquet").read_bytes()
        frame = pl.read_parquet(masked)
        assert frame.height == run.table(side).height
        text = "\n".join(str(v) for column in frame.select(pl.col(pl.String)) for v in column.unique())
        assert identifiers_in(text.encode(), needles(run)) == set()


def needles(run: Run) -> set[bytes]:
    found: set[str] = set()
    for side in SIDES:
        table = run.table(side)
        found |= {key for text in table["mobile"] if (key := mobile_of(text)) is not None}
        found |= {
            unicodedata.normalize("NFKC", t).strip().lower() for t in table["email"].drop_nulls() if "@" in t
        }
        found |= set(table["id_no" if side == "bank" else "card"])
    register = csv.DictReader((run.folder / "inputs" / "bank-consents.csv").open(encoding="utf-8"))
    found |= {row["email"] for row in register}
    return {item.encode() for item in found if len(item) > 8}


def identifiers_in(content: bytes, wanted: set[bytes]) -> set[bytes]:
    """Which of the wanted numbers and addresses stand anywhere in the content."""
    seen: set[bytes] = set()
    lowered = content.lower()
    for pattern in (rb"[0-9]{17}[0-9x]", rb"[0-9]{19}", rb"1[3-9][0-9]{9}"):
        seen |= {m[1].upper() for m in re.finditer(rb"(?=(" + pattern + rb"))", lowered)}
    seen |= set(re.findall(rb"[a-z0-9.+]+@[a-z0-9.]+", lowered))
    return seen & wanted


def test_no_identifier_is_in_anything_a_node_wrote_nor_in_the_report(run: Run) -> None:
    wanted = needles(run)
    assert len(wanted) > 3 * PEOPLE
    sample = next(iter(wanted))
    assert identifiers_in(b"before " + sample + b" after", wanted) == {sample}, (
        "the search finds what is there"
    )
    files = [p for side in SIDES for p in run.directory(side).rglob("*") if p.is_file()]
    names = {p.relative_to(run.folder).as_posix() for p in files}
    assert {"bank.example/serve.log", "shop.example/serve.log", "bank.example/log/checkpoint"} <= names
    for path in files:
        assert identifiers_in(path.read_bytes(), wanted) == set(), path.name
    for text in (run.page, json.dumps(run.outcome), run.printed):
        assert identifiers_in(text.encode(), wanted) == set()


def test_nothing_is_left_running_and_the_ports_are_free(run: Run) -> None:
    assert_nothing_runs(run.folder)


def test_the_report_and_the_printed_summary_say_the_same_numbers(run: Run) -> None:
    for number in (run.outcome["overlap"]["value"], run.outcome["overlap"]["after_optout"]):
        assert f"{number:,}" in run.page
        assert f"{number:,}" in run.printed
    assert f"{run.outcome['model']['auc_joint']:.3f}" in run.page
    assert not re.search(r"https?:", run.page)


def test_what_crossed_the_wire_is_counted_for_every_step(run: Run) -> None:
    amount = r'<td class="n">([0-9.]+ [kM]?B|—)</td>'
    steps = re.findall(rf'<th scope="row">([^<]+)</th>{amount}{amount}', run.page)
    assert len(steps) == 7
    assert all(sent not in {"—", "0 B"} for step in steps for sent in step[1:])


def test_interrupted_halfway_nothing_is_left_behind(tmp_path: Path, data: Path) -> None:
    kept = tmp_path / "kept"
    demo = subprocess.Popen(
        [*COMITY, "demo", "--data", data, "--people", str(PEOPLE), "--keep", kept,
         "--json", tmp_path / "outcome.json", "--report", tmp_path / "report.html"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, start_new_session=True,
    )  # fmt: skip
    assert demo.stdout is not None
    try:
        for line in demo.stdout:
            if line.startswith("start two nodes"):
                break
        else:
            pytest.fail("the demonstration ended before its nodes ran")
        assert len(processes_of(kept)) == 2
        os.kill(demo.pid, signal.SIGINT)
        assert demo.wait(timeout=60) == 130
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
        demo.stdout.close()
    assert_nothing_runs(kept)
    assert not (tmp_path / "outcome.json").exists()
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--people", "10"], 2, "--people"),
        (["--data", "nowhere.csv"], 2, "no file"),
        (["--data", "wrong.csv"], 2, "not the credit data"),
        (["--keep", "."], 2, "not empty"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_at_once(
    tmp_path: Path, data: Path, arguments: list[str], code: int, said: str
) -> None:
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    if "--data" not in arguments:
        arguments = [*arguments, "--data", str(data)]
    done = subprocess.run(
        [*COMITY, "demo", *arguments, "--json", "outcome.json"],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == code
    assert said in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["wrong.csv"]
