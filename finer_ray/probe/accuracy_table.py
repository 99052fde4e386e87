"""Tables of probes: accuracy by backbone and data set, as Tab. 3 of the Finer-CAM supplementary."""

import io
from collections.abc import Sequence

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from finer_ray.probe.record import ACCURACIES, Record

TITLE = "Held-out accuracy of linear probes in % (in parentheses: of the training images)"
MAX_LISTED = 5


def accuracy_table(records: Sequence[Record], markdown: bool = False) -> Table:
    """Rows are backbones, columns data sets, both in the order of the records."""
    cells = {(record.backbone, record.dataset): record for record in records}
    backbones, datasets = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE)
    table.add_column("backbone", no_wrap=True)
    for dataset in datasets:
        table.add_column(dataset, justify="right", no_wrap=True)
    for backbone in backbones:
        table.add_row(backbone, *(_cell(cells.get((backbone, dataset))) for dataset in datasets))
    return table


def accuracy_markdown(records: Sequence[Record]) -> str:
    """The same as Markdown."""
    text = io.StringIO()
    Console(file=text, width=10_000, color_system=None).print(accuracy_table(records, markdown=True))
    lines = (line.strip() for line in text.getvalue().splitlines())
    notes = "".join(f"- {line}\n" for line in remarks(records))
    return f"{TITLE}\n\n" + "\n".join(line for line in lines if line) + "\n" + (f"\n{notes}" if notes else "")


def accuracy_lines(records: Sequence[Record]) -> pa.Table:
    """The same with all that is known of each probe, with the schema ACCURACIES."""
    lines = [{**record.model_dump(), "file": f"{record.dataset}/{record.backbone}.safetensors"} for record in records]
    return pa.Table.from_pylist(lines, ACCURACIES)


def remarks(records: Sequence[Record]) -> list[str]:
    """A line for each probe that could not use all of its images, or has classes it never saw."""
    return [f"{record.dataset} with {record.backbone}: {text}" for record in records if (text := _remark(record))]


def _remark(record: Record) -> str:
    found = {
        "images without a label that is a class": record.unlabelled,
        "images whose label is no class": record.unknown,
        "images or shards failed": record.failed,
    }
    parts = [f"{count} {what}" for what, count in found.items() if count]
    if record.untrained:
        few = ", ".join(record.untrained[:MAX_LISTED]) + (", ..." if len(record.untrained) > MAX_LISTED else "")
        parts.append(f"{len(record.untrained)} classes without a training image ({few})")
    if record.iterations >= record.settings.iterations:
        parts.append(f"not converged after {record.iterations} iterations")
    return "; ".join(parts)


def _cell(record: Record | None) -> str:
    if record is None:
        return "-"
    held_out = "-" if record.held_out_accuracy is None else f"{100 * record.held_out_accuracy:.1f}"
    return f"{held_out} ({100 * record.train_accuracy:.1f})"
