"""Counts and durations in the Prometheus text exposition format (version 0.0.4)."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Thread-safe. Label values come from fixed sets (routes, states), never from data."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: defaultdict[Labels, int] = defaultdict(int)
        self._buckets: defaultdict[Labels, list[int]] = defaultdict(lambda: [0] * (len(_BUCKETS) + 1))
        self._seconds: defaultdict[Labels, float] = defaultdict(float)
        self._received: defaultdict[Labels, int] = defaultdict(int)
        self._sent: defaultdict[Labels, int] = defaultdict(int)
        self._gauges: list[tuple[str, str, Callable[[], Mapping[Labels, float]]]] = []

    def request(
        self, method: str, route: str, status: int, seconds: float, *, received: int = 0, sent: int = 0
    ) -> None:
        """Count one answered request; `received` and `sent` are the bytes of its body and of the answer's."""
        which: Labels = (("method", method), ("route", route))
        slot = next((i for i, bound in enumerate(_BUCKETS) if seconds <= bound), len(_BUCKETS))
        with self._lock:
            self._requests[*which, ("status", str(status))] += 1
            self._buckets[which][slot] += 1
            self._seconds[which] += seconds
            self._received[which] += received
            self._sent[which] += sent

    def streaming(self, method: str, route: str, sent: int) -> None:
        """Count bytes of an answer that goes on, which `request` is then not told of again."""
        with self._lock:
            self._sent[("method", method), ("route", route)] += sent

    def gauge(self, name: str, text: str, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Register a gauge whose values are read when the page is asked for."""
        self._gauges.append((name, text, read))

    def page(self) -> str:
        """The whole exposition."""
        lines: list[str] = []
        with self._lock:
            requests = sorted(self._requests.items())
            buckets = sorted((which, list(counts)) for which, counts in self._buckets.items())
            seconds = dict(self._seconds)
            received, sent = sorted(self._received.items()), sorted(self._sent.items())
        lines += _head("comity_http_requests_total", "counter", "Requests answered.")
        lines += [f"comity_http_requests_total{_labels(which)} {count}" for which, count in requests]
        lines += _head("comity_http_request_seconds", "histogram", "Time to answer a request.")
        for which, counts in buckets:
            total = 0
            for bound, count in zip([*(f"{b:g}" for b in _BUCKETS), "+Inf"], counts, strict=True):
                total += count
                lines.append(f"comity_http_request_seconds_bucket{_labels((*which, ('le', bound)))} {total}")
            lines.append(f"comity_http_request_seconds_sum{_labels(which)} {seconds[which]:.6f}")
            lines.append(f"comity_http_request_seconds_count{_labels(which)} {total}")
        lines += _head("comity_http_request_bytes_total", "counter", "Bytes of request bodies received.")
        lines += [f"comity_http_request_bytes_total{_labels(which)} {count}" for which, count in received]
        lines += _head("comity_http_response_bytes_total", "counter", "Bytes of answers' bodies sent.")
        lines += [f"comity_http_response_bytes_total{_labels(which)} {count}" for which, count in sent]
        for name, text, read in self._gauges:
            lines += _head(name, "gauge", text)
            lines += [f"{name}{_labels(which)} {value:g}" for which, value in sorted(read().items())]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    quoted = (
        '{}="{}"'.format(key, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for key, value in labels
    )
    return "{" + ",".join(quoted) + "}"
