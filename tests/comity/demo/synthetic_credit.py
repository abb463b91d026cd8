"""A made-up table in the credit data's schema, with signal of about the same kind and strength."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from comity.demo.data import COLUMNS, LABEL


def synthetic_credit(rows: int, seed: int = 11) -> pl.DataFrame:
    """Default depends weakly on what the bank holds and strongly on what the shop holds."""
    r = np.random.default_rng(seed)
    late = r.normal(size=rows)
    limit = np.clip(np.round(np.exp(11.6 + 0.8 * r.normal(size=rows) - 0.25 * late), -4), 10_000, 1_000_000)
    age = np.clip(r.gamma(6.0, 3.0, rows) + 18, 21, 79).astype(int)
    frame: dict[str, np.ndarray] = {"ID": np.arange(1, rows + 1), "LIMIT_BAL": limit, "AGE": age}
    frame["SEX"] = (r.random(rows) < 0.6).astype(int)
    education, marriage = r.choice(7, rows, p=[0, 0.35, 0.47, 0.15, 0.01, 0.01, 0.01]), r.choice(4, rows)
    for i in range(7):
        frame[f"EDUCATION_{i}"] = (education == i).astype(int)
    for i in range(4):
        frame[f"MARRIAGE_{i}"] = (marriage == i).astype(int)
    for i in (0, 2, 3, 4, 5, 6):
        frame[f"PAY_{i}"] = np.clip(np.round(late + 0.7 * r.normal(size=rows) - 0.4), -2, 8).astype(int)
    for i in range(1, 7):
        frame[f"BILL_AMT{i}"] = np.round(limit * np.clip(0.4 + 0.2 * r.normal(size=rows), -0.1, 1.4))
        frame[f"PAY_AMT{i}"] = np.round(np.exp(7.6 - 0.3 * late + r.normal(size=rows)))
    score = 1.1 * late - 0.25 * np.log(limit / 1e5) + 0.01 * (age - 35) - 1.5
    frame[LABEL] = (r.random(rows) < 1 / (1 + np.exp(-score))).astype(int)
    return pl.DataFrame(frame).select(COLUMNS)


def write_synthetic_credit(path: Path, rows: int, seed: int = 11) -> Path:
    synthetic_credit(rows, seed).write_csv(path)
    return path
