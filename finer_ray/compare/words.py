"""Words: what the figures of a comparison say, for the screen and the page."""

import math
from typing import Any

# Correlations from which on maps are called so.
MAPS = ((0.99, "the same"), (0.9, "nearly the same"), (0.7, "alike"), (0.4, "partly other places"))
DIRECTIONS = (
    "to the right",
    "to the lower right",
    "down",
    "to the lower left",
    "to the left",
    "to the upper left",
    "up",
    "to the upper right",
)
# Share of the diagonal below which a centre is said to stay.
STAYS = 0.02
# PSIs from which on drift is called so, by custom.
DRIFTS = ((0.25, "large"), (0.1, "moderate"), (0.0, "small"))


def map_words(correlation: float | None) -> str:
    """What a correlation says of two maps; None or NaN where it is not defined."""
    if correlation is None or math.isnan(correlation):
        return "not comparable: one value everywhere in both"
    return next((word for least, word in MAPS if correlation >= least), "other places")


def towards(x: float, y: float) -> str:
    """Where a shift to the right and down leads.

    >>> towards(1, 0), towards(-1, -1), towards(0, 1)
    ('to the right', 'to the upper left', 'down')
    """
    return DIRECTIONS[round(math.atan2(y, x) / (math.pi / 4)) % 8]


def change_words(line: dict[str, Any]) -> str:
    """What changed in the map of one image, a line of the table of changes."""
    words = map_words(line["correlation"])
    if line["correlation"] is None:
        return words
    words += f" (correlation {line['correlation']:.2f})".replace("-", "−")
    if line["shift"] is None:
        return words
    if line["shift"] < STAYS:
        return f"{words}; its centre stays"
    return f"{words}; {move_words(line['shift_x'], line['shift_y'])}"


def move_words(x: float, y: float) -> str:
    """Where a centre has gone, by shares of the diagonal to the right and down."""
    return f"its centre moves {towards(x, y)} by {100 * math.hypot(x, y):.0f} % of the diagonal"


def drift_name(line: dict[str, Any]) -> str:
    """What a line of drift is of."""
    return f"{line['name']} of {line['map']}" if line["map"] else f"{line['kind']}: {line['name']}"


def drift_words(line: dict[str, Any]) -> str:
    """What a line of drift says."""
    if not line["drifted"]:
        return "no more than chance"
    return f"{next(word for least, word in DRIFTS if line['psi'] >= least)} drift"
