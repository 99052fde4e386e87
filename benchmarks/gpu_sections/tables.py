"""The record as tables."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gpu_sections.goals import best_engine, best_job, best_plain, script_rate
from benchmarks.gpu_sections.setting import VIT, Record

WIDTH = 150


def show(record: Record) -> None:
    """Print everything; sections that failed are named first."""
    console = Console(width=WIDTH)
    for name, fault in record["faults"].items():
        console.print(f"[bold]{name}[/bold] was not finished: {fault}", highlight=False)
    tables = [_lower_bound(record), _hardware(record), _rates(record), _precision(record), _jobs(record)]
    tables += [_profile(name, part) for name, part in record.get("profile", {}).items()]
    for table in (*tables, _summary(record), _goals(record)):
        if table.row_count:
            console.print(table)
    if not record["result"]:
        console.print(
            "[bold]Not a result[/bold]: this was no GPU, or a miniature; what was shown is that the code runs."
        )


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _number(value: Any, form: str = ",.0f") -> str:
    if isinstance(value, dict):
        return f"{value['median']:{form}} ({value['min']:{form}}-{value['max']:{form}})"
    return "-" if value is None else f"{value:{form}}"


def _lower_bound(record: Record) -> Table:
    models: Record = record.get("lower_bound", {})
    table = _table("Floor: what an image cannot do without (a multiply-add is two operations)", ("", *models))
    first: Record = next(iter(models.values()), {})
    for kind, scale, unit in (("operations", 1e9, "G"), ("bytes", 1e3, "kB")):
        for name in first.get(kind, {}):
            table.add_row(f"{kind}: {name}", *(f"{part[kind][name] / scale:,.2f} {unit}" for part in models.values()))
    for way, direction in (("pinned", "to the device (uint8 pixels)"), ("back, pinned", "from the device")):
        speed = (record.get("hardware", {}).get("host to device, bytes/s") or {}).get(way)
        if speed and models:
            cells = (f"{speed['median'] / part['bytes'][direction]:,.0f}" for part in models.values())
            table.add_row(f"images/s that the bus allows: {direction}", *cells)
    return table


def _hardware(record: Record) -> Table:
    table = _table(f"Hardware limits: {record.get('machine', {}).get('device')}", ("", "per second"))
    units: Any = (("operations/s", 1e12, " Tera", ",.1f"), ("bytes/s", 1e9, " GB", ",.1f"), ("images/s", 1, "", ",.0f"))
    for name, part in record.get("hardware", {}).items():
        scale, unit, form = next(rest for word, *rest in units if word in name)
        lines = {"": part} if part is None or "median" in part else part
        for detail, value in lines.items():
            if isinstance(value, dict):
                value = {key: number / scale for key, number in value.items()}
            table.add_row(f"{name} {detail}", _number(value, form) + unit)
    return table


def _rates(record: Record) -> Table:
    table = _table("Images per second: median (range) of rounds", ("model", "batch", "format", "run", "images/s"))
    for model, part in record.get("rates", {}).items():
        groups = [(size, "bf16", result) for size, result in part.get("batches", {}).items()]
        groups += [(part.get("best batch"), form, result) for form, result in part.get("formats", {}).items()]
        groups = groups or [(part.get("batch"), "bf16", part)]
        for batch, form, result in groups:
            for run, value in result.items():
                if isinstance(value, dict):
                    table.add_row(model, str(batch), form, run, _number(value, ",.1f"))
    for model, part in record.get("compiled", {}).items():
        for mode, result in part.items():
            for run, value in result.items():
                if isinstance(value, dict):
                    table.add_row(model, str(result["batch"]), f"bf16, compiled: {mode}", run, _number(value, ",.1f"))
    return table


def _precision(record: Record) -> Table:
    columns = (
        "model",
        "format",
        "map",
        "correlation: median",
        "min",
        "deviation / maximum: median",
        "max",
        "same class",
    )
    table = _table("Against float32, for the same classes; same class: of all photos", (*columns, "same references"))
    for model, part in record.get("precision", {}).items():
        for form, result in part.items():
            for name, value in result.items():
                if isinstance(value, dict):
                    numbers = [*value["correlation"].values(), *value["deviation / maximum"].values()]
                    shares = (result["same predicted class"], result["same references, as a set"])
                    table.add_row(model, form, name, *(f"{n:.5f}" for n in numbers), *(f"{n:.3f}" for n in shares))
    return table


def _jobs(record: Record) -> Table:
    columns = ("whole job", "images", "first to last commit, images/s", "in the middle", "seconds with start-up")
    table = _table("ViT-B/16 in bf16: tars in, Zarr and Parquet out", columns)
    for name, part in record.get("job", {}).items():
        if "refused" in part:
            table.add_row(name, f"refused: {part['refused'][:60]}")
            continue
        found = part["images_per_second"]
        rates = (found["first to last commit"], found["in the middle"])
        table.add_row(name, str(part["images"]), *map(_number, rates), _number(part["seconds with start-up"], ".1f"))
    return table


def _profile(name: str, part: Record) -> Table:
    busy = f"device busy {part['device busy']:.0%}, host {part['host busy']:.0%} of {part['seconds per batch']:.4f} s"
    table = _table(f"{name}, bf16, batch {part['batch']}: {busy}", ("", "share", "calls a batch"))
    for line in part["top"]:
        table.add_row(line["name"], f"{line['share']:.1%}", f"{line['calls a batch']:.1f}")
    return table


def _summary(record: Record) -> Table:
    """Floor, plain forward, engine, whole job."""
    columns = (
        "images/s",
        "lower bound: operations",
        "lower bound of the engine",
        "plain forward",
        "engine",
        "whole job",
        "loading",
    )
    table = _table(
        "Floor is the best measured matmul rate over the operations of an image", (*columns, "official loop")
    )
    matmuls = record.get("hardware", {}).get("bf16 matmul, operations/s", {}).values()
    fastest = max((value["median"] for value in matmuls), default=None)
    loading = record.get("hardware", {}).get("loading, images/s", {}).get("all cores")
    for name in record["models"]:
        counts = record.get("lower_bound", {}).get(name, {}).get("operations", {})
        floors = [fastest / counts[k] if fastest and k in counts else None for k in ("forward", "engine")]
        rest = (best_job(record), loading, script_rate(record)) if name == VIT else (None, None, None)
        table.add_row(name, *map(_number, (*floors, best_plain(record, name), best_engine(record, name), *rest)))
    return table


def _goals(record: Record) -> Table:
    table = _table("Goals", ("", "wanted", "measured", ""))
    words = {True: "met", False: "not met", None: "not measured"}
    for line in record["goals"]:
        table.add_row(line["goal"], f"{line['wanted']:g}", _number(line["measured"], ".3f"), words[line["met"]])
    return table
