"""Faithfulness of activations: does Finer-CAM of a class look where its attributes are? (Finer-CAM, suppl., A.2)

For a class c and its most similar class d (Eq. 11), and the attributes a_1..a_3 that c has most more strongly than d:

    agreement of  Finer-CAM of y^c - gamma * y^d    and    the mean of Finer-CAM of y^{a_r} - gamma * y^{word}

for every image of c, the latter from a text job ("red bill" against "bird"). Attribute maps are scaled to a maximum of
1 before their mean, and both sides are compared on one grid, over what both jobs see of the photo. Two controls tell
what a figure means: Grad-CAM of c in place of Finer-CAM, and the attribute maps of another image.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from torch import Tensor

from finer_ray.config.schema import Config
from finer_ray.errors import ExportError
from finer_ray.images.transform import Transform
from finer_ray.metrics.agreement import cosine, pearson, resample, to_peak
from finer_ray.metrics.statistics import STDERR_SQL, bootstrap_interval, or_null
from finer_ray.pipeline.cluster import connected
from finer_ray.pipeline.export import export
from finer_ray.saliency.registration import Registration
from finer_ray.store.reading import Export, open_export
from finer_ray.studies.attributes import Choice
from finer_ray.studies.faithfulness_plan import Plan, make_plan
from finer_ray.studies.output import write_study

NAME = "faithfulness"
MEASURES = {"cosine": cosine, "pearson": pearson}
# The map of the class that is compared: Finer-CAM, and the controls.
SIDES = {"finer": "Finer-CAM", "baseline": "Grad-CAM", "shuffled": "Finer-CAM, attributes of another image"}
COLUMNS = [f"{side}_{measure}" for side in SIDES for measure in MEASURES]
IMAGES = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("class", pa.int32(), nullable=False),
        *(pa.field(name, pa.float64()) for name in COLUMNS),
    ]
)
CLASSES = pa.schema(
    [
        pa.field("class", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("most_similar", pa.int32(), nullable=False),
        pa.field("most_similar_name", pa.string(), nullable=False),
        pa.field("weight_cosine", pa.float64(), nullable=False),
        pa.field("attributes", pa.list_(pa.struct({"text": pa.string(), "difference": pa.float64()}))),
        pa.field("note", pa.string()),
        pa.field("count", pa.int64(), nullable=False),
        *(pa.field(f"{name}_{what}", pa.float64()) for name in COLUMNS for what in ("mean", "stderr")),
    ]
)
OVERALL = pa.schema(
    [
        pa.field("comparison", pa.string(), nullable=False),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("classes", pa.int64(), nullable=False),
        pa.field("mean", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)
# Images whose maps are in memory together, and among which a shuffled pair is looked for.
WINDOW = 4096
MAX_NAMED = 40


def faithfulness_study(class_job: Config, text_job: Config, attributes: Path, word: str, folder: Path) -> list[Path]:
    """Export both jobs' images below `folder`, and write faithfulness.parquet (a line per class),
    faithfulness_images.parquet (a line per image), faithfulness_overall.parquet and faithfulness.png.

    Running it again does only what is missing.

    Args:
        class_job: of the classifier; its target, references and maps are set by the study.
        text_job: an open_clip job with the same classes on the same shards; its concepts are set by the study.
        attributes: see `read_attributes`.
        word: what an attribute is compared with, such as "bird".
        folder: to write to.

    Raises:
        ConfigError: see `make_plan`. ExportError: no image has both maps. And what `export` raises.
    """
    plan = make_plan(class_job, text_job, attributes, word, folder)
    with connected():
        for config in (plan.classes, *plan.texts):
            export(config)
    made, *texts = (open_export(config.output.url) for config in (plan.classes, *plan.texts))
    images = image_table(made, texts, plan.choices)
    classes = class_table(images, plan)
    overall = overall_table(classes)
    tables = {NAME: classes, f"{NAME}_images": images, f"{NAME}_overall": overall}
    return write_study(folder, tables, {NAME: _figure(classes, overall)})


def image_table(made: Export, texts: list[Export], choices: list[Choice]) -> pa.Table:
    """A line per image that all exports have and whose class has attributes, with the schema IMAGES.

    Columns are named by the map of the class (finer, baseline; shuffled: finer with another image's attribute maps)
    and the measure; null where a map is flat.

    Raises:
        ExportError: there is none.
    """
    matched = _matched(made, texts, [index for index, choice in enumerate(choices) if choice.attributes])
    if not matched.num_rows:
        raise ExportError("no image with a label whose class has attributes is in the exports of both jobs")
    counts = torch.tensor([len(choice.attributes) for choice in choices])
    pieces = []
    for first in range(0, matched.num_rows, WINDOW):
        part = matched.slice(first, WINDOW)
        scores = {
            f"{side}_{name}": pa.array(measure(*maps).numpy(), from_pandas=True)
            for side, maps in _sides(made, texts, part, counts)
            for name, measure in MEASURES.items()
        }
        pieces.append(pa.table({**{name: part[name] for name in IMAGES.names[:5]}, **scores}).cast(IMAGES))
    return pa.concat_tables(pieces)


def _matched(made: Export, texts: list[Export], used: list[int]) -> pa.Table:
    """Images of the classes in use that no export lacks: by shard and index, because failures may differ."""
    joins = " ".join(f"JOIN text_{rank} USING (shard, index)" for rank in range(len(texts)))
    rows = "".join(f", text_{rank}.row AS text_{rank}" for rank in range(len(texts)))
    query = f"""
        SELECT own.row, own.key, shard, index, own.label AS class, own.width, own.height {rows}
        FROM own {joins} WHERE list_contains($used, own.label) ORDER BY own.row"""  # noqa: S608
    with duckdb.connect() as connection:
        connection.register("own", made.images)
        for rank, text in enumerate(texts):
            connection.register(f"text_{rank}", text.images.select(["shard", "index", "row"]))
        return connection.sql(query, params={"used": used}).to_arrow_table()


def _sides(
    made: Export, texts: list[Export], part: pa.Table, counts: Tensor
) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """The pairs of maps to be compared, each (n, H, W), by side."""
    grids = np.array([export.manifest.layout.grid for export in (made, texts[0])])
    size = (int(grids[:, 0].max()), int(grids[:, 1].max()))
    own, theirs = _windows(made, texts[0], part)
    asked = torch.zeros((len(part), *size))
    counts = counts[part["class"].to_pylist()]
    for rank, text in enumerate(texts):
        maps = to_peak(_maps(text, part[f"text_{rank}"].to_numpy(), "finer_gradcam"))
        asked += resample(maps, theirs, size) * (rank < counts)[:, None, None]
    asked /= counts[:, None, None]
    rows = part["row"].to_numpy()
    finer, baseline = (resample(_maps(made, rows, name), own, size) for name in ("finer_gradcam", "gradcam"))
    yield "finer", (finer, asked)
    yield "baseline", (baseline, asked)
    yield "shuffled", (finer, asked[another(len(part))] if len(part) > 1 else torch.zeros_like(asked))


def _maps(export: Export, rows: np.ndarray, name: str) -> Tensor:
    """Maps on one grid; of photos with sizes of their own, whose maps have others, stretched over the input."""
    return torch.from_numpy(export.maps(rows, name, export.manifest.layout.grid if _native(export) else None))


def _native(export: Export) -> bool:
    """Whether photos have sizes of their own."""
    return bool(export.manifest.transform.get("resize") == "native")


def _windows(made: Export, text: Export, part: pa.Table) -> tuple[Tensor, Tensor]:
    """What both jobs see of each photo, as shares of either job's maps, each (n, 4)."""
    sizes = list(zip(part["width"].to_pylist(), part["height"].to_pylist(), strict=True))
    transforms = (Transform(**export.manifest.transform) for export in (made, text))
    views = [torch.tensor([transform.view(*size) for size in sizes]) for transform in transforms]
    low = torch.maximum(views[0][:, :2], views[1][:, :2])
    high = torch.minimum(views[0][:, 2:], views[1][:, 2:])
    own, theirs = (
        torch.cat([(edge - view[:, :2]) / (view[:, 2:] - view[:, :2]) for edge in (low, high)], dim=1) for view in views
    )
    return _on_map(made, own), _on_map(text, theirs)


def _on_map(export: Export, window: Tensor) -> Tensor:
    """Windows (n, 4) as shares of the input, as shares of the grid whose cells lie where the registration says."""
    layout, size = export.manifest.layout, export.manifest.transform["size"]
    measured = None if _native(export) else layout.registration
    here = measured or Registration.stretched(size, layout.grid)
    sides = [here.shares(axis, window[:, 1 - axis :: 2], size[axis], layout.grid[axis]) for axis in (1, 0)]
    return torch.stack(sides, dim=2).flatten(1)


def another(count: int) -> np.ndarray:
    """For each of `count` images another one, at random but always the same."""
    order = np.random.default_rng(0).permutation(count)
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    return others


def class_table(images: pa.Table, plan: Plan) -> pa.Table:
    """A line per class with the schema CLASSES; `note` says why a class has no figures."""
    wanted = ", ".join(f"avg({name}) AS {name}_mean, {STDERR_SQL.format(name)} AS {name}_stderr" for name in COLUMNS)
    with duckdb.connect() as connection:
        connection.register("images", images)
        query = f"SELECT class, count(*) AS count, {wanted} FROM images GROUP BY class"  # noqa: S608
        found = {line["class"]: line for line in connection.sql(query).to_arrow_table().to_pylist()}
    lines = []
    for index, (name, similar, choice) in enumerate(zip(plan.names.names, plan.similar, plan.choices, strict=True)):
        line = {"class": index, "name": name, "most_similar": similar, "most_similar_name": plan.names.names[similar]}
        line["weight_cosine"] = plan.cosines[index]
        line["attributes"] = [{"text": text, "difference": difference} for text, difference in choice.attributes]
        line["note"] = choice.note or (None if index in found else "no image of it is in the exports of both jobs")
        lines.append({**line, **found.get(index, {"count": 0})})
    return pa.Table.from_pylist(lines, CLASSES)


def overall_table(classes: pa.Table) -> pa.Table:
    """Means over the classes, each class counting the same, with 95 % bootstrap intervals over the classes; also of the
    differences between Finer-CAM and its controls. With the schema OVERALL."""
    lines = []
    for measure in MEASURES:
        values = {side: classes[f"{side}_{measure}_mean"].to_numpy() for side in SIDES}
        differences = {f"finer - {side}": values["finer"] - values[side] for side in SIDES if side != "finer"}
        for comparison, means in {**values, **differences}.items():
            known = means[np.isfinite(means)]
            low, high = bootstrap_interval(known)
            mean = float(known.mean()) if len(known) else None
            line = {"comparison": comparison, "measure": measure, "classes": len(known), "mean": mean}
            lines.append({**line, "low": or_null(low), "high": or_null(high)})
    return pa.Table.from_pylist(lines, OVERALL)


def _figure(classes: pa.Table, overall: pa.Table) -> Figure:
    lines = [line for line in classes.to_pylist() if line["count"]]
    totals = {(line["comparison"], line["measure"]): line for line in overall.to_pylist()}
    figure = Figure(figsize=(max(6.4, min(0.3 * len(lines), 12) + 2), 7.2), dpi=120, layout="constrained")
    figure.suptitle("Does the map of a class agree with the maps of its attributes?", fontsize=11)
    for axis, measure in zip(figure.subplots(2, 1), MEASURES, strict=True):
        ranked = sorted(lines, key=lambda line: line[f"finer_{measure}_mean"] or 0.0, reverse=True)
        for place, (side, title) in enumerate(SIDES.items()):
            mean, error = (
                np.array([line[f"{side}_{measure}_{what}"] for line in ranked], float) for what in ("mean", "stderr")
            )
            total = totals[side, measure]
            colour, at = f"C{place}", np.arange(len(ranked)) + 0.2 * (place - 1)
            label = _label(title, total)
            axis.errorbar(at, mean, yerr=np.nan_to_num(error), fmt="o", ms=3, lw=1, color=colour, label=label)
            if total["mean"] is not None:
                axis.axhline(total["mean"], color=colour, linewidth=0.9)
            if total["low"] is not None:
                axis.axhspan(total["low"], total["high"], color=colour, alpha=0.12, linewidth=0)
        if len(ranked) <= MAX_NAMED:
            axis.set_xticks(range(len(ranked)), [line["name"] for line in ranked], rotation=60, ha="right", fontsize=7)
        else:
            axis.set_xlabel("classes, by agreement")
        axis.set_ylabel(measure)
        axis.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def _label(title: str, total: dict[str, Any]) -> str:
    if total["mean"] is None:
        return title
    interval = "" if total["low"] is None else f" [{total['low']:.3f}, {total['high']:.3f}]"
    return f"{title}: {total['mean']:.3f}{interval}"
