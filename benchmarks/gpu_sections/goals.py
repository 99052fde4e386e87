"""Goals, and whether what was measured meets them."""

from typing import Any

from benchmarks.gpu_sections.engine import plain
from benchmarks.gpu_sections.setting import VIT, Record

ENGINE, JOB, JOB_OF_DECODING, SCRIPT = 0.95, 0.90, 0.95, 20.0


def best_plain(record: Record, model: str) -> float | None:
    """A model's fastest bf16 forward pass, in any form and batch, compiled or not."""
    return _best(record, model, "plain")


def best_engine(record: Record, model: str) -> float | None:
    """The same of the engine."""
    return _best(record, model, "engine")


def best_job(record: Record) -> float | None:
    """The whole job without deletion, in its fastest variant."""
    job = record.get("job", {})
    found = [job[name].get("images_per_second", {}).get("lower") for name in job if name.startswith("no deletion")]
    return max((rate for rate in found if rate is not None), default=None)


def script_rate(record: Record) -> float | None:
    """Images per second of the official script's loop."""
    found: float | None = record.get("script", {}).get("pytorch-grad-cam")
    return found


def _best(record: Record, model: str, prefix: str) -> float | None:
    part = record.get("rates", {}).get(model, {})
    results = [*part.get("batches", {}).values(), part.get("formats", {}).get("bf16", {})]
    results += record.get("compiled", {}).get(model, {}).values()
    chosen = [
        values["median"]
        for result in results
        for name, values in result.items()
        if isinstance(values, dict) and name.startswith(prefix)
    ]
    return max(chosen, default=None)


def goals(record: Record) -> list[dict[str, Any]]:
    """Each goal with what was measured; `met` is None where it was not, or is no result."""
    lines = []
    for name in record["models"]:
        engine, forward = best_engine(record, name), best_plain(record, name)
        lines.append(_line(record, f"{name}: engine / plain forward, each at its best", ENGINE, engine, forward))
        eager = record.get("rates", {}).get(name, {}).get("formats", {}).get("bf16")
        if eager:
            engine, forward = eager["engine"]["median"], max(plain(eager).values())
            lines.append(_line(record, f"{name}: the same at one batch, nothing compiled", ENGINE, engine, forward))
    decoding = record.get("hardware", {}).get("loading, images/s", {}).get("all cores")
    forward, whole = best_plain(record, VIT), best_job(record)
    lines.append(_line(record, "whole job / plain forward", JOB, whole, forward))
    if decoding is not None and forward is not None and decoding < forward:
        # Then this is the goal, and the line above tells how far loading on CPUs is behind the card.
        lines.append(_line(record, "whole job / loading on all cores", JOB_OF_DECODING, whole, decoding))
    lines.append(_line(record, "whole job / official script's loop", SCRIPT, whole, script_rate(record)))
    return lines


def _line(record: Record, goal: str, wanted: float, above: float | None, below: float | None) -> dict[str, Any]:
    measured = None if above is None or below is None else above / below
    met = None if measured is None or not record["result"] else measured >= wanted
    return {"goal": goal, "wanted": wanted, "measured": measured, "met": met}
