"""Classes: what the pages say of each, and of what it is confused with."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finer_ray.metrics.table import AVERAGED
from finer_ray.report.site.page_sample import PICKS, Sample
from finer_ray.store.reading import Export

# Others that a class page names.
MAX_OTHERS = 8


def class_lines(export: Export) -> list[dict[str, Any]]:
    """A line per class: index, name, count, labelled, accuracy, and by map the table's means and standard errors."""
    found: dict[int, dict[str, Any]] = {}
    for line in export.classes.to_pylist():
        entry = found.setdefault(
            line["class"],
            {name: line[name] for name in ("class", "name", "count", "labelled", "accuracy")} | {"maps": {}},
        )
        entry["maps"][line["map"]] = {
            name: {what: line[f"{name}_{what}"] for what in ("count", "mean", "stderr")} for name in AVERAGED
        }
    return list(found.values())


def confusions(export: Export, index: int) -> dict[str, list[dict[str, Any]]]:
    """With which classes one is confused; lines of class and count, the most frequent first.

    Returns:
        `taken_for`: predictions for images of this class; `mistaken`: labels of images predicted as this class;
        `compared`: the references that its images are compared with.
    """
    images = export.images
    mine = pc.equal(pc.coalesce(images["label"], images["target"]), index)
    wrong = pc.fill_null(pc.not_equal(images["label"], images["predicted"]), False)
    of_class = images.filter(mine)
    references = pc.list_flatten(of_class["references"])
    return {
        "taken_for": _counted(images.filter(pc.and_(mine, wrong))["predicted"]),
        "mistaken": _counted(images.filter(pc.and_(pc.equal(images["predicted"], index), wrong))["label"]),
        "compared": _counted(references.filter(pc.greater_equal(references, 0))),
    }


def galleries(sample: Sample, index: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """Headings and lines of a class's best, median and worst images; one gallery where they are few."""
    lines = sample.picks.get(index, [])
    if not lines:
        return []
    if lines[0]["size"] <= 3 * PICKS:
        return [("All, best first" if len(lines) > 1 else "The only one", lines)]
    middle = slice(PICKS, len(lines) - PICKS)
    return [("Best", lines[:PICKS]), ("Median", lines[middle]), ("Worst", lines[-PICKS:])]


def _counted(values: pa.ChunkedArray) -> list[dict[str, Any]]:
    counts = sorted(pc.value_counts(values).to_pylist(), key=lambda line: (-line["counts"], line["values"]))
    return [{"class": line["values"], "count": line["counts"]} for line in counts[:MAX_OTHERS]]
