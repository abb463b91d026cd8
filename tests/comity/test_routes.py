"""The routes of all rooms together: none hides another, each is guarded, and logs hold no values."""

from __future__ import annotations

import io
import json
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import structlog

from comity.app import create_app
from comity.bootstrap import build_node
from comity.logs import configure_logs, log
from comity.metrics import Metrics
from comity.scaffold import make_node
from comity.system import system_random, utc_now


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("routes") / "bank"
    made = make_node(folder, port=18443, clock=utc_now, random=system_random)
    node = build_node(made.config, clock=utc_now, random=system_random)
    try:
        document: dict[str, Any] = create_app(node).openapi()
        return document
    finally:
        node.close()


def test_no_route_hides_another(described: dict[str, Any]) -> None:
    shapes = Counter(
        (method, re.sub(r"\{[^}]*\}", "{}", path))
        for path, methods in described["paths"].items()
        for method in methods
    )
    assert [shape for shape, count in shapes.items() if count > 1] == []


def test_every_operation_has_an_id_of_its_own(described: dict[str, Any]) -> None:
    ids = Counter(
        operation["operationId"] for methods in described["paths"].values() for operation in methods.values()
    )
    assert max(ids.values()) == 1


@pytest.fixture
def lines() -> Any:
    """What was logged, as parsed lines; logging is put back as it was afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logs(stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_an_exception_is_logged_by_type_and_place_only(lines: Any) -> None:
    try:
        raise ValueError("alice@example.com")
    except ValueError:
        log.error("went wrong", exc_info=True)
        logging.getLogger("somelibrary").exception("failed on %s", "alice@example.com")
        logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=True)
    said = lines()
    assert [line["error"] for line in said] == ["ValueError"] * 3
    assert all("test_routes.py" in line["at"] for line in said)
    assert "alice" not in json.dumps(said)


def test_our_own_rooms_speak_in_full_and_others_in_templates(lines: Any) -> None:
    logging.getLogger("clean_room.runner").warning("job %s ended", "j1")
    logging.getLogger("somelibrary").warning("row %s", "alice@example.com")
    logging.getLogger("somelibrary").info("chatter")
    assert [line["event"] for line in lines()] == ["job j1 ended", "row %s"]


def test_metrics_escape_what_a_label_holds(tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.request("GET", 'a"b\\c\nd', 200, 0.003)
    metrics.request("GET", 'a"b\\c\nd', 200, 99.0)
    metrics.gauge("comity_things", "Things.", lambda: {(("kind", "x"),): 2.5, (): 1})
    page = metrics.page()
    assert r'route="a\"b\\c\nd"' in page
    assert 'le="0.005"} 1' in page
    assert 'le="+Inf"} 2' in page
    assert 'comity_things{kind="x"} 2.5' in page
    assert "\ncomity_things 1\n" in page
