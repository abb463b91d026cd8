"""The report's pictures: from numbers to inline SVG, coloured by the page's CSS.

Every text put into a picture is escaped. Lengths are in user units of the viewBox.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

__all__ = ["latency_bars", "timeline"]

WIDTH = 760.0


def _picture(height: float, title: str, told: str, body: Sequence[str]) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {w:g} {h:g}" role="img" aria-label="{label}"><title>{title}</title>'
        "<desc>{told}</desc>{body}</svg>"
    ).format(
        w=WIDTH,
        h=height,
        label=f"{title}. {told}",
        title=title,
        told=told,
        body=Markup("".join(body)),  # noqa: S704 - built below from escaped parts only
    )


def _text(x: float, y: float, text: str, cls: str = "tick", anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{cls}"/>'


def _bar(x: float, y: float, width: float, height: float, cls: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} rx="1.5" class="bar {cls}"/>'


def _ticks(high: float, about: int) -> list[float]:
    """Round whole numbers from 0 to at least `high`."""
    raw = max(high / max(about, 1), 1.0)
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    return [i * step for i in range(math.ceil(high / step) + 1)]


def timeline(
    buckets: Sequence[Mapping[str, Any]], opening: int, times: Sequence[str], words: Mapping[str, str]
) -> Markup:
    """Consents standing as a line (left axis) over decisions as bars (right axis), one slot a stretch.

    `times` labels the slots; `words` has picture, picture_told, standing_axis, grants, restrictions.
    """
    left, right, top, middle, low = 62.0, WIDTH - 62.0, 30.0, 150.0, 116.0
    standing = [opening, *(b["standing"] for b in buckets)]
    ticks = _ticks(max([1, *standing]), 4)
    most = max([1, *(max(b["grants"], b["restrictions"]) for b in buckets)])
    slot = (right - left) / max(len(buckets), 1)
    base = top + middle + 34 + low / 2

    def up(value: float) -> float:
        return top + middle - value / ticks[-1] * middle

    body = [
        part
        for tick in ticks
        for part in (
            _line(left, up(tick), right, up(tick), "grid"),
            _text(left - 8, up(tick) + 4, f"{tick:,.0f}", anchor="end"),
        )
    ]
    points = [(left, up(opening))]
    points += [(left + (i + 1) * slot, up(value)) for i, value in enumerate(standing[1:])]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    floor = top + middle
    body += [
        f'<polygon points="{left:.1f},{floor:.1f} {path} {points[-1][0]:.1f},{floor:.1f}" class="area"/>',
        f'<polyline points="{path}" class="curve"/>',
        f'<circle cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="3.5" class="dot"/>',
        _text(left, top - 12, words["standing_axis"], "axis-name", "start"),
        _text(right + 8, points[-1][1] + 5, f"{standing[-1]:,}", "value", "start"),
    ]
    for i, bucket in enumerate(buckets):
        x, wide = left + i * slot + slot * 0.14, slot * 0.72
        for value, cls, sign in ((bucket["grants"], "yes", -1), (bucket["restrictions"], "no", 1)):
            if value:
                tall = max(value / most * low / 2, 1.5)
                body.append(_bar(x, base - tall if sign < 0 else base, wide, tall, cls))
    body += [
        _line(left, base, right, base, "axis"),
        _text(left - 8, base - low / 2 + 10, f"{most:,}", anchor="end"),
        _text(left - 8, base + 4, "0", anchor="end"),
        _text(left - 8, base + low / 2, f"{most:,}", anchor="end"),
        _text(left, base - low / 2 - 6, words["grants"], "axis-name yes", "start"),
        _text(left, base + low / 2 + 16, words["restrictions"], "axis-name no", "start"),
    ]
    every = max(1, math.ceil(len(times) / 8))
    body += [
        _text(left + i * slot, base + low / 2 + 38, time, anchor="start")
        for i, time in enumerate(times)
        if i % every == 0 and left + i * slot < right - 50
    ]
    return _picture(base + low / 2 + 46, words["picture"], words["picture_told"], body)


def latency_bars(histogram: Sequence[Sequence[Any]], words: Mapping[str, str]) -> Markup:
    """Opt-outs by how long they took, in classes of growing width; `words` as the locale's delivery part."""
    left, right, top, tall = 62.0, WIDTH - 20.0, 40.0, 130.0
    last = max((i for i, (_, n) in enumerate(histogram) if n), default=0)
    second = next((i for i, (bound, _) in enumerate(histogram) if bound == 1_000), 0)
    shown = list(histogram)[: max(last, second + 1) + 1]
    slot = (right - left) / len(shown)
    most = max([1, *(n for _, n in shown)])
    base = top + tall
    body = [_line(left, base, right, base, "axis")]
    for i, (bound, n) in enumerate(shown):
        x = left + i * slot
        late = bound is None or bound > 1_000
        if n:
            height = max(n / most * (tall - 14), 2.0)
            body.append(_bar(x + 2, base - height, slot - 4, height, "no" if late else "yes"))
            body.append(_text(x + slot / 2, base - height - 5, f"{n:,}", "count"))
        label = words["beyond"] if bound is None else f"{bound:,.0f}"
        edge = x + slot
        body.append(_text(edge if bound is not None else x + slot / 2, base + 18, label))
        if bound is not None:
            body.append(_line(edge, base, edge, base + 5, "axis"))
    at = left + (second + 1) * slot
    body += [
        _text(left, base + 18, "0"),
        _line(at, top - 18, at, base, "target"),
        _text(at - 6, top - 10, words["second"], anchor="end"),
        _text(left, base + 38, words["axis"], "axis-name", "start"),
    ]
    return _picture(base + 46, words["picture"], words["picture_told"], body)
