"""Charts as SVG in the page's own colours: they follow light and dark, need no script, and print.

A chart is markup for the page, its text escaped. Series are told apart by colour (Okabe and Ito's, from the style
sheet) and by dashes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

Values = NDArray[np.float64]

WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 10, 44
# Of a row of an interval chart, and of its names.
ROW, NAMES = 26, 96
SERIES = 6
# Of one distribution of a histogram: its height with its name above it, and where it begins.
STRIP, STRIP_LEFT = 72, 16


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: for the legend.
        x, y: (n,).
        low, high: (n,) the band around it, or None.
    """

    name: str
    x: Values
    y: Values
    low: Values | None = None
    high: Values | None = None


@dataclass(frozen=True)
class Interval:
    """One row of an interval chart: its name, its mean, and where that lies; better is None where nothing is sure."""

    name: str
    mean: float
    low: float
    high: float
    better: bool | None = None


class _Axis:
    """From values to pixels; logarithmic where wanted."""

    def __init__(self, values: Values, start: float, end: float, log: bool = False) -> None:
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        if low == high:
            low, high = low - 0.5, high + 0.5
        self.low, self.high, self.log = low, high, log
        self._start, self._end = start, end

    def __call__(self, values: Values) -> Values:
        low, high = self.low, self.high
        if self.log:
            low, high, values = np.log(low), np.log(high), np.log(values)
        return self._start + (values - low) / (high - low) * (self._end - self._start)

    def ticks(self, count: int = 5) -> Values:
        locator = LogLocator() if self.log else MaxNLocator(count, steps=[1, 2, 2.5, 5, 10])
        found = np.asarray(locator.tick_values(self.low, self.high), dtype=np.float64)
        room = 1e-9 * (self.high - self.low)
        return found[(found >= self.low - room) & (found <= self.high + room)]


def line_chart(
    series: Sequence[Series],
    x_title: str,
    y_title: str,
    log: bool = False,
    zero: bool = False,
    mark: float | None = None,
) -> Markup:
    """Lines with their bands.

    Args:
        series: one or more.
        x_title, y_title: of the axes.
        log: whether x is logarithmic.
        zero: whether y begins at zero.
        mark: an x at which a line stands.
    """
    every = [values for line in series for values in (line.y, line.low, line.high) if values is not None]
    y = _Axis(np.concatenate([*every, [0.0] if zero else []]), HEIGHT - BOTTOM, TOP)
    x = _Axis(np.concatenate([line.x for line in series]), LEFT, WIDTH - RIGHT, log)
    parts = [_frame(x, y, x_title, y_title)]
    if mark is not None and x.low <= mark <= x.high:
        place = x(np.array([mark]))[0]
        parts.append(_tag("line", x1=place, x2=place, y1=TOP, y2=HEIGHT - BOTTOM, **{"class": "mark"}))
    for number, line in enumerate(series):
        if line.low is not None and line.high is not None:
            edge = np.concatenate([x(line.x), x(line.x)[::-1]]), np.concatenate([y(line.low), y(line.high)[::-1]])
            parts.append(_tag("polygon", points=_points(*edge), **{"class": f"band s{number % SERIES}"}))
    for number, line in enumerate(series):
        parts.append(_tag("polyline", points=_points(x(line.x), y(line.y)), **{"class": f"line s{number % SERIES}"}))
        if len(line.x) <= 5:
            parts += [
                _tag("circle", cx=a, cy=b, r=4, **{"class": f"dot s{number % SERIES}"})
                for a, b in zip(x(line.x), y(line.y), strict=True)
            ]
    return _figure(parts, HEIGHT, [line.name for line in series], f"{y_title} by {x_title}")


def histogram(values: dict[str, Values], x_title: str, bins: int = 24) -> Markup:
    """Distributions, one above another over the same axis and bins, each with its median; heights are shares.

    Args:
        values: by name, (n,) each; what is not finite is left out.
        x_title: of the axis.
        bins: over the range of all values together.
    """
    known = {name: column[np.isfinite(column)] for name, column in values.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(known.values())), bins=bins)
    shares = {name: np.histogram(column, edges)[0] / max(len(column), 1) for name, column in known.items()}
    peak = max(float(share.max()) for share in shares.values()) or 1.0
    height = TOP + STRIP * len(known) + BOTTOM
    x = _Axis(edges, STRIP_LEFT, WIDTH - RIGHT)
    parts = []
    for tick in x.ticks(8):
        place = x(np.array([tick]))[0]
        parts.append(_tag("line", x1=place, x2=place, y1=TOP, y2=height - BOTTOM, **{"class": "grid"}))
        parts.append(_text(f"{tick:g}", place, height - BOTTOM + 17))
    for number, (name, share) in enumerate(shares.items()):
        foot = TOP + STRIP * (number + 1)
        parts += _strip(x, edges, share / peak, foot, f"s{number % SERIES}")
        parts.append(_text(name, STRIP_LEFT, foot - STRIP + 15, anchor="start", kind="title"))
        if len(known[name]):
            median = float(np.median(known[name]))
            place = x(np.array([median]))[0]
            parts.append(_tag("line", x1=place, x2=place, y1=foot - STRIP + 22, y2=foot, **{"class": "median"}))
            parts.append(_text(f"median {median:.3g}", WIDTH - RIGHT, foot - STRIP + 15, anchor="end"))
    parts.append(_text(x_title, (STRIP_LEFT + WIDTH - RIGHT) / 2, height - 8, kind="title"))
    return _figure(parts, height, [], f"distribution of {x_title}")


def _strip(x: _Axis, edges: Values, share: Values, foot: float, kind: str) -> list[Markup]:
    """One distribution of a histogram: shares of the highest one, above its own foot line."""
    level = foot - (STRIP - 24) * np.concatenate([[0.0], np.repeat(share, 2), [0.0]])
    return [
        _tag("polygon", points=_points(x(np.repeat(edges, 2)), level), **{"class": f"bars {kind}"}),
        _tag("line", x1=STRIP_LEFT, x2=WIDTH - RIGHT, y1=foot, y2=foot, **{"class": "axis"}),
    ]


def interval_chart(rows: Sequence[Interval], x_title: str) -> Markup:
    """Means with their intervals, a row each, against zero."""
    height = TOP + ROW * len(rows) + BOTTOM
    bounds = np.array([0.0, *(value for row in rows for value in (row.mean, row.low, row.high))])
    x = _Axis(bounds, NAMES + 12, WIDTH - RIGHT - 8)
    parts = []
    for tick in x.ticks():
        place = x(np.array([tick]))[0]
        kind = "mark" if abs(tick) < 1e-12 else "grid"
        parts.append(_tag("line", x1=place, x2=place, y1=TOP, y2=height - BOTTOM, **{"class": kind}))
        parts.append(_text(f"{tick:g}", place, height - BOTTOM + 16))
    for number, row in enumerate(rows):
        level = TOP + ROW * (number + 0.5)
        low, mean, high = x(np.array([row.low, row.mean, row.high]))
        kind = {None: "unsure", True: "better", False: "worse"}[row.better]
        parts.append(_text(row.name, NAMES, level + 4, anchor="end"))
        if np.isfinite([low, high]).all():
            parts.append(_tag("line", x1=low, x2=high, y1=level, y2=level, **{"class": f"interval {kind}"}))
        title = Markup("<title>{}</title>").format(f"{row.name}: {row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]")
        parts.append(_tag("circle", title, cx=mean, cy=level, r=5, **{"class": f"point {kind}"}))
    parts.append(_text(x_title, (NAMES + WIDTH) / 2, height - 6, kind="title"))
    return _figure(parts, height, [], x_title)


def _frame(x: _Axis, y: _Axis, x_title: str, y_title: str) -> Markup:
    parts = []
    for tick in y.ticks():
        level = y(np.array([tick]))[0]
        parts.append(_tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=level, y2=level, **{"class": "grid"}))
        parts.append(_text(f"{tick:g}", LEFT - 7, level + 4, anchor="end"))
    for tick in x.ticks(8):
        parts.append(_text(f"{tick:g}", x(np.array([tick]))[0], HEIGHT - BOTTOM + 17))
    parts.append(_tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM, **{"class": "axis"}))
    parts.append(_text(x_title, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, kind="title"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = {"transform": f"rotate(-90 11 {middle:g})"}
    parts.append(_text(y_title, 11, middle, kind="title", **turned))
    return Markup("").join(parts)


def _figure(parts: Sequence[Markup], height: float, names: Sequence[str], title: str) -> Markup:
    inside = Markup("").join(parts)
    label = {"aria-label": title, "viewBox": f"0 0 {WIDTH} {height:g}", "class": "chart"}
    drawn = _tag("svg", inside, xmlns="http://www.w3.org/2000/svg", role="img", **label)
    if len(names) < 2:
        return drawn
    keys = [
        Markup('<li><svg viewBox="0 0 26 10" class="key" aria-hidden="true"><line x1="0" x2="26" y1="5" y2="5" '
               'class="line s{}"/></svg>{}</li>').format(number % SERIES, name)
        for number, name in enumerate(names)
    ]  # fmt: skip
    return drawn + Markup('<ul class="legend">{}</ul>').format(Markup("").join(keys))


def _points(x: Values, y: Values) -> str:
    finite = np.isfinite(x) & np.isfinite(y)
    points = [f"{a:.1f},{b:.1f}" for a, b in zip(x[finite], y[finite], strict=True)]
    # Points that fall together once rounded say nothing more.
    return " ".join([points[0], *(after for before, after in pairwise(points) if before != after)] if points else [])


def _text(text: str, x: float, y: float, anchor: str = "middle", kind: str = "tick", **more: str) -> Markup:
    attributes = {"text-anchor": anchor, "class": kind, **more}
    return _tag("text", text, x=x, y=y, **attributes)


def _tag(name: str, content: str = "", **attributes: object) -> Markup:
    """An element; its content and its attributes' values are escaped unless they are markup."""
    pairs = (
        f' {key}="{escape(f"{value:.1f}" if isinstance(value, float) else value)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{''.join(pairs)}>{escape(content)}</{name}>")  # noqa: S704 - escaped here
