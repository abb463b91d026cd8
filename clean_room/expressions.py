"""Expressions of datasets.toml: one value a row, from columns of that row and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import duckdb

from privacy.errors import Misuse

__all__ = ["columns_named", "require_expression"]

_LONGEST = 10_000
_DEEPEST = 250
_ELSEWHERE = frozenset({"SUBQUERY", "STAR", "WINDOW", "PARAMETER", "DEFAULT"})


def require_expression(sql: str, where: str) -> None:
    """Return if `sql` is one expression without subqueries, windows or stars: it sees its own row only.

    Raises `Misuse(bad_expression)`, which names `where`.
    """
    try:
        columns_named(sql)
    except Misuse as error:
        raise Misuse(f"{where}: {error.detail}", code=error.code, advice=error.advice) from None


@lru_cache(maxsize=1024)
def columns_named(sql: str) -> frozenset[str]:
    """Every name in an expression that could be a column, in lower case, as DuckDB compares them.

    Raises `Misuse(bad_expression)` as `require_expression` does.
    """
    names: set[str] = set()
    for node in _nodes(_parsed(sql)):
        if node.get("class") in _ELSEWHERE:
            raise _wrong("it must be one expression over the columns of a row")
        if node.get("class") == "COLUMN_REF":
            names.update(part.lower() for part in node["column_names"])
    return frozenset(names)


def _parsed(sql: str) -> dict[str, Any]:
    if not sql.strip() or len(sql) > _LONGEST:
        raise _wrong(f"it must have 1 to {_LONGEST} characters")
    if sql.count("(") > _DEEPEST:  # DuckDB's parser takes minutes over some thousands
        raise _wrong(f"it must have no more than {_DEEPEST} parentheses")
    connection = duckdb.connect(":memory:")
    try:
        # The line break ends a comment the expression may close with.
        row = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT ({sql}\n)"]).fetchone()
    except duckdb.Error:
        row = None
    finally:
        connection.close()
    read: dict[str, Any] = json.loads(row[0]) if row else {"error": True}
    if read["error"]:
        raise _wrong("it is not an SQL expression")
    statements = read["statements"]
    node = statements[0]["node"]
    plain = (
        len(statements) == 1
        and node["type"] == "SELECT_NODE"
        and len(node["select_list"]) == 1
        and node["from_table"]["type"] == "EMPTY"
        and not node["modifiers"]
        and not node["cte_map"]["map"]
        and all(not node[clause] for clause in ("where_clause", "group_expressions", "having", "qualify"))
        and node["sample"] is None
    )
    if not plain:
        raise _wrong("it must be one expression")
    expression: dict[str, Any] = node["select_list"][0]
    return expression


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def _wrong(what: str) -> Misuse:
    return Misuse(f"{what}.", code="bad_expression", advice="Try it in DuckDB over the same rows.")
