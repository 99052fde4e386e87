"""Goals, and whether what was measured meets them."""

from typing import Any

from benchmarks.card.engine import plain
from benchmarks.card.setting import VIT, Record

ENGINE, JOB, JOB_OF_DECODING, SCRIPT = 0.95, 0.90, 0.95, 20.0


def best_plain(part: Record) -> float | None:
    """The fastest bf16 forward pass of a model in the section `rates`, in any form and batch, compiled or not."""
    return _best(part, "plain")


def best_engine(part: Record) -> float | None:
    """The same of the engine."""
    return _best(part, "engine")


def best_job(record: Record) -> float | None:
    """The whole job without deletion, in its fastest variant."""
    job = record.get("job", {})
    found = [job[name].get("images_per_second", {}).get("lower") for name in job if name.startswith("no deletion")]
    return max((rate for rate in found if rate is not None), default=None)


def script_rate(record: Record) -> float | None:
    """Images per second of the official script's loop."""
    found: float | None = record.get("script", {}).get("pytorch-grad-cam")
    return found


def _best(part: Record, prefix: str) -> float | None:
    results = [*part.get("batches", {}).values(), part.get("formats", {}).get("bf16", {})]
    results += part.get("compiled", {}).values()
    chosen = [
        values["median"]
        for result in results
        for name, values in result.items()
        if isinstance(values, dict) and name.startswith(prefix)
    ]
    return max(chosen, default=None)


def goals(record: Record) -> list[dict[str, Any]]:
    """Each goal with what was measured; `met` is None where it was not."""
    rates, lines = record.get("rates", {}), []
    for name in [name for name in rates if name in record.get("models", [])]:
        part = rates[name]
        lines.append(
            _line(f"{name}: engine / plain forward, each at its best", ENGINE, best_engine(part), best_plain(part))
        )
        eager = part.get("formats", {}).get("bf16")
        if eager:
            above, below = eager["engine"]["median"], max(plain(eager).values())
            lines.append(_line(f"{name}: the same at one batch, nothing compiled", ENGINE, above, below))
    decoding = record.get("ceilings", {}).get("loading, images/s", {}).get("all cores")
    forward, whole = best_plain(rates.get(VIT, {})), best_job(record)
    if decoding is not None and forward is not None and decoding < forward:
        lines.append(
            _line("whole job / decoding ceiling, which is below the forward pass", JOB_OF_DECODING, whole, decoding)
        )
    else:
        lines.append(_line("whole job / plain forward", JOB, whole, forward))
    lines.append(_line("whole job / official script's loop", SCRIPT, whole, script_rate(record)))
    return lines


def _line(goal: str, wanted: float, above: float | None, below: float | None) -> dict[str, Any]:
    known = above is not None and below is not None
    measured = above / below if above is not None and below is not None else None
    return {"goal": goal, "wanted": wanted, "measured": measured, "met": measured >= wanted if known else None}  # type: ignore[operator]
