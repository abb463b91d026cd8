"""The report's pictures: small functions from numbers to inline SVG, coloured by the page's CSS variables.

Each returns `Markup`; every text put into a picture is escaped. Lengths are in user units of the viewBox.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

__all__ = ["area_circles", "bars", "interval_axis", "latency_histogram", "lens_area", "picture"]

Interval = tuple[float, float]


def picture(width: float, height: float, title: str, description: str, body: str) -> Markup:
    """Wrap drawing `body` (already escaped) as an accessible, scalable picture."""
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{label}" preserveAspectRatio="xMidYMid meet">'
        "<title>{title}</title><desc>{desc}</desc>{body}</svg>"
    ).format(
        w=f"{width:g}",
        h=f"{height:g}",
        label=f"{title}. {description}",
        title=title,
        desc=description,
        body=Markup(body),  # noqa: S704 - built below from escaped parts only
    )


def _text(x: float, y: float, text: str, cls: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{cls}"/>'


def lens_area(r1: float, r2: float, d: float) -> float:
    """Area common to two circles of radii r1, r2 whose centres are d apart."""
    if d >= r1 + r2:
        return 0.0
    if d <= abs(r1 - r2):
        return math.pi * min(r1, r2) ** 2
    a = math.acos(max(-1.0, min(1.0, (d * d + r1 * r1 - r2 * r2) / (2 * d * r1))))
    b = math.acos(max(-1.0, min(1.0, (d * d + r2 * r2 - r1 * r1) / (2 * d * r2))))
    return r1 * r1 * (a - math.sin(2 * a) / 2) + r2 * r2 * (b - math.sin(2 * b) / 2)


def _distance(r1: float, r2: float, area: float) -> float:
    low, high = abs(r1 - r2), r1 + r2
    for _ in range(60):
        middle = (low + high) / 2
        if lens_area(r1, r2, middle) > area:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def area_circles(
    names: tuple[str, str], sizes: tuple[int, int], common: float, labels: tuple[str, str, str]
) -> Markup:
    """Two sets and what they share, areas to scale. `labels`: left only, shared, right only."""
    width, height, room = 720.0, 318.0, 116.0
    largest = max(*sizes, 1)
    r1, r2 = (room * math.sqrt(max(size, 1) / largest) for size in sizes)
    common = max(0.0, min(common, *sizes))
    d = _distance(r1, r2, math.pi * room * room * common / largest)
    span = r1 + d + r2
    x1 = width / 2 - span / 2 + r1
    x2, y = x1 + d, 166.0
    left, right = x2 - r2, x1 + r1  # the lens spans left..right
    body = [
        f'<circle cx="{x1:.1f}" cy="{y}" r="{r1:.1f}" class="set bank"/>',
        f'<circle cx="{x2:.1f}" cy="{y}" r="{r2:.1f}" class="set shop"/>',
        _lens(x1, r1, x2, r2, y),
        f'<circle cx="{x1:.1f}" cy="{y}" r="{r1:.1f}" class="rim bank"/>',
        f'<circle cx="{x2:.1f}" cy="{y}" r="{r2:.1f}" class="rim shop"/>',
        _text((left + right) / 2, y + 4, labels[1], "big"),
        _text((left + right) / 2, y + 28, "in common", "inside"),
    ]
    # Crescents are too thin to hold text, so their labels stand outside and are led to by a line.
    for x_edge, x_inner, name, size, only, side, anchor in (
        (x1 - r1, (x1 - r1 + left) / 2, names[0], sizes[0], labels[0], "bank", "end"),
        (x2 + r2, (x2 + r2 + right) / 2, names[1], sizes[1], labels[2], "shop", "start"),
    ):
        sign = -1 if anchor == "end" else 1
        x = x_edge + sign * 26
        body += [
            f'<circle cx="{x_inner:.1f}" cy="{y}" r="3" class="dot {side}"/>',
            _line(x_inner, y, x - sign * 6, y, f"lead {side}"),
            _text(x, y - 20, name, f"name {side}", anchor),
            _text(x, y + 4, only, "mid", anchor),
            _text(x, y + 22, f"of {size:,} only there", "small", anchor),
        ]
    description = f"{names[0]} {sizes[0]:,} people, {names[1]} {sizes[1]:,} people, {labels[1]} in common."
    return picture(
        width, height, "People each partner may use, and the people in common", description, "".join(body)
    )


def _lens(x1: float, r1: float, x2: float, r2: float, y: float) -> str:
    """The part two overlapping circles on one horizontal share; nothing where one lies inside the other."""
    d = x2 - x1
    if d <= abs(r1 - r2) or d >= r1 + r2:
        return ""
    along = (d * d + r1 * r1 - r2 * r2) / (2 * d)
    half = math.sqrt(max(r1 * r1 - along * along, 0.0))
    x = x1 + along
    wide1, wide2 = int(along < 0), int(d - along < 0)
    return (
        f'<path d="M{x:.1f} {y - half:.1f} A{r1:.1f} {r1:.1f} 0 {wide1} 1 {x:.1f} {y + half:.1f} '
        f'A{r2:.1f} {r2:.1f} 0 {wide2} 1 {x:.1f} {y - half:.1f}Z" class="lens"/>'
    )


def interval_axis(rows: Sequence[tuple[str, float, Interval, str]], unit: str) -> Markup:
    """Values with whiskers on one magnified axis. A row: (label, value, (low, high), css class)."""
    width, left, right, top, step = 720.0, 190.0, 640.0, 12.0, 42.0
    low = min(r[2][0] for r in rows)
    high = max(r[2][1] for r in rows)
    pad = max((high - low) * 0.18, 1.0)
    ticks = _ticks(low - pad, high + pad, 5)
    low, high = min(low - pad, ticks[0]), max(high + pad, ticks[-1])
    bottom = top + step * len(rows)

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    body = [
        _line(at(t), top, at(t), bottom, "grid") + _text(at(t), bottom + 18, _number(t), "tick")
        for t in ticks
    ]
    for i, (label, value, (lo, hi), cls) in enumerate(rows):
        y = top + step * (i + 0.5)
        body += [
            _text(left - 14, y + 5, label, "label", "end"),
            _line(at(lo), y, at(hi), y, f"whisker {cls}"),
            _line(at(lo), y - 10, at(lo), y + 10, f"whisker {cls}"),
            _line(at(hi), y - 10, at(hi), y + 10, f"whisker {cls}"),
            f'<circle cx="{at(value):.1f}" cy="{y:.1f}" r="3.5" class="dot {cls}"/>',
            _text(at(hi) + 10, y + 5, f"{value:,.0f}", "value small-value", "start"),
        ]
    told = "; ".join(f"{r[0]}: {r[1]:,.0f}, 95 % between {r[2][0]:,.0f} and {r[2][1]:,.0f}" for r in rows)
    body.append(_text(right, bottom + 36, unit, "tick", "end"))
    return picture(width, bottom + 44, "The same numbers, magnified", told, "".join(body))


def bars(
    rows: Sequence[tuple[str, str, float, str]], floor: float, ceiling: float, floor_label: str
) -> Markup:
    """Horizontal bars from `floor`. A row: (label, second line, value, css class)."""
    width, left, right, top, step = 720.0, 200.0, 640.0, 8.0, 58.0
    bottom = top + step * len(rows)

    def at(value: float) -> float:
        return left + (min(max(value, floor), ceiling) - floor) / (ceiling - floor) * (right - left)

    ticks = [t for t in _ticks(floor, ceiling, 6) if floor <= t <= ceiling]
    body = [
        _line(at(t), top, at(t), bottom, "grid") + _text(at(t), bottom + 18, f"{t:.2f}", "tick")
        for t in ticks
    ]
    for i, (label, second, value, cls) in enumerate(rows):
        y = top + step * i
        length = max(at(value) - left, 1.0)
        body += [
            _text(left - 14, y + 25, label, "label", "end"),
            _text(left - 14, y + 42, second, "small", "end"),
            f'<rect x="{left}" y="{y + 12:.1f}" width="{length:.1f}" height="32" rx="3" class="bar {cls}"/>',
            _text(at(value) + 10, y + 34, f"{value:.3f}", "value", "start"),
        ]
    body += [
        _line(left, top - 2, left, bottom, "axis"),
        _text(left, bottom + 36, floor_label, "tick", "start"),
    ]
    told = "; ".join(f"{r[0]}, {r[1]}: {r[2]:.3f}" for r in rows)
    return picture(width, bottom + 46, "Area under the ROC curve", told, "".join(body))


def latency_histogram(latencies_ms: Sequence[float], target_ms: float = 1000.0) -> Markup:
    """How long each withdrawal took to be enforced by the partner, against the target."""
    width, left, right, top, height = 720.0, 48.0, 684.0, 34.0, 170.0
    ordered = sorted(latencies_ms) or [0.0]
    reach = max(ordered[-1] * 1.06, target_ms * 1.08)
    ticks = [t for t in _ticks(0, reach, 7) if t <= reach]
    count = 54
    heights = [0] * count
    for value in ordered:
        heights[min(int(value / reach * count), count - 1)] += 1
    tallest = max(heights)
    bottom, slot = top + height, (right - left) / count

    def at(value: float) -> float:
        return left + value / reach * (right - left)

    body = [_line(left, bottom, right, bottom, "axis")]
    body += [
        _line(at(t), bottom, at(t), bottom + 5, "axis") + _text(at(t), bottom + 20, _number(t), "tick")
        for t in ticks
    ]
    for i, n in enumerate(heights):
        if n:
            h = max(n / tallest * (height - 16), 2.0)
            body.append(
                f'<rect x="{left + i * slot + 0.75:.1f}" y="{bottom - h:.1f}" width="{slot - 1.5:.1f}" '
                f'height="{h:.1f}" rx="1.5" class="bar shop"/>'
            )
    marks = [("p50", _rank(ordered, 50)), ("p99", _rank(ordered, 99))]
    crowded = at(marks[1][1]) - at(marks[0][1]) < 96
    for i, (name, value) in enumerate(marks):
        x = at(value)
        anchor = ("end" if i == 0 else "start") if crowded else "middle"
        body.append(_line(x, top - 6, x, bottom, "mark"))
        body.append(_text(x + (-5 if anchor == "end" else 5 if anchor == "start" else 0), top - 12,
                          f"{name} {value:,.0f} ms", "value small-value", anchor))  # fmt: skip
    body.append(_line(at(target_ms), top - 6, at(target_ms), bottom, "target"))
    body.append(_text(at(target_ms) - 6, top + 8, "one second", "tick", "end"))
    body.append(_text(left - 8, bottom - height + 26, f"{tallest}", "tick", "end"))
    body.append(_text(left - 8, bottom, "0", "tick", "end"))
    body.append(
        _text(
            right,
            bottom + 38,
            "milliseconds from recorded at the shop to enforced at the bank",
            "tick",
            "end",
        )
    )
    told = f"{len(latencies_ms)} withdrawals; " + ", ".join(f"{n} {v:.0f} ms" for n, v in marks)
    return picture(width, bottom + 46, "Opt-out latency", told, "".join(body))


def _rank(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers inside [low, high], roughly `about` of them."""
    raw = max((high - low) / max(about - 1, 1), 1e-9)
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value - round(value)) < 1e-9 else f"{value:,g}"
