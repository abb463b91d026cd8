"""A running node held against its own description: every route, good and bad data, with and without a key.

Nothing may be a 500, every answer is as described, and what the description excludes is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks as openapi_checks

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]
REFUSAL = openapi_checks.negative_data_rejection


@pytest.fixture(scope="module")
def node(serve_module: Any) -> Any:
    return serve_module("bank")


@pytest.fixture(scope="module")
def operations(node: Any) -> list[Any]:
    described = schemathesis.openapi.from_url(f"{node.url}/openapi.json")
    return [found.ok() for found in described.get_all_operations()]


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield made


def probe(operation: Any, mode: GenerationMode, examples: int, **more: Any) -> str | None:
    """What is wrong with an operation, or None."""

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def each(case: Any) -> None:
        case.call_and_validate(timeout=20, **more)

    try:
        each()
    except Unsatisfiable:
        return None  # there is nothing to send that is wrong
    except FailureGroup as failures:
        told = (str(failure).split("Reproduce with")[0] for failure in failures.exceptions)
        return f"{operation.label}: " + "; ".join(" ".join(text.split())[:400] for text in told)
    return None


def asked(operation: Any, mode: GenerationMode) -> list[Any]:
    """What to look at. The metrics need a key from elsewhere only, which the description cannot say."""
    return [*CHECKS, REFUSAL] if mode is GenerationMode.NEGATIVE and operation.path != "/metrics" else CHECKS


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_an_administrator_gets_what_is_described_and_bad_data_is_refused(
    node: Any, operations: list[Any], session: requests.Session, mode: GenerationMode
) -> None:
    key = {"authorization": f"Bearer {node.operator}"}
    wrong = [probe(o, mode, 4, session=session, headers=key, checks=asked(o, mode)) for o in operations]
    assert not list(filter(None, wrong)), "\n\n".join(filter(None, wrong))
    assert httpx.get(f"{node.url}/readyz", trust_env=False).json() == {"status": "ok"}


def test_without_a_key_every_answer_is_as_described_too(
    node: Any, operations: list[Any], session: requests.Session
) -> None:
    wrong = [
        probe(o, GenerationMode.POSITIVE, 2, session=session, headers={}, checks=CHECKS) for o in operations
    ]
    assert not list(filter(None, wrong)), "\n\n".join(filter(None, wrong))


def test_what_went_wrong_is_nowhere_in_the_log_of_the_node(node: Any) -> None:
    assert "Traceback" not in node.log
    assert '"unexpected' not in node.log
