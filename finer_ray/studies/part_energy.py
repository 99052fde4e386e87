"""Part energy: how much of each map lies on each annotated part, from stored maps and parts; no model is needed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from numpy.typing import NDArray

from finer_ray.errors import ExportError
from finer_ray.metrics.statistics import mean_of
from finer_ray.pairs.evidence import sums_by_part
from finer_ray.saliency.parts import one_id_a_name
from finer_ray.store.reading import Export
from finer_ray.studies.output import write_study

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("map", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("part", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        # Of the map's energy, and of the image's cells, the share on the part.
        pa.field("energy", pa.float32()),
        pa.field("cells", pa.float32(), nullable=False),
    ]
)
# Images whose maps are in memory together.
BATCH = 1024


def part_energy(maps: NDArray[np.floating], parts: NDArray[np.integer], count: int) -> NDArray[np.float64]:
    """The share of each map's energy that lies on each part.

    Args:
        maps: (n, h, w) non-negative; NaN beyond an image's own grid.
        parts: (n, h, w), the part that each cell shows, 1 to `count`, or 0 for none.
        count: Q, how many parts there are.

    Returns:
        (n, Q) in [0, 1]; what is missing to 1 lies on no part. NaN where a map is zero everywhere.

    >>> part_energy(np.array([[[1.0, 2.0, 1.0]]]), np.array([[[2, 0, 2]]]), 2).tolist()
    [[0.0, 0.5]]
    """
    values = np.nan_to_num(maps.astype(np.float64))
    whole = values.sum((1, 2))
    return sums_by_part(values, parts, count) / np.where(whole > 0, whole, np.nan)[:, None]


def part_table(export: Export) -> pa.Table:
    """A line per image that shows some part, map, and part that it shows: row, map, part, energy, cells.

    Parts that are called alike, such as both wings, are one. `energy` is null of a map that is zero everywhere; `cells`
    is what a map that knows nothing of parts would have there.

    Raises:
        ExportError: there are no part masks, or no image shows a part.
    """
    names, found = list(export.part_names), []
    ids, maps = one_id_a_name(names), list(export.manifest.layout.maps)
    rows = export.images["row"].to_numpy()
    for first in range(0, len(rows), BATCH):
        own = rows[first : first + BATCH]
        parts = ids[export.parts(own)]
        drawn = [export.maps(own, name) for name in maps]
        cells = part_energy(np.where(np.isnan(drawn[0]), np.nan, 1.0), parts, len(names))
        energy = np.stack([part_energy(values, parts, len(names)) for values in drawn], axis=1)
        image, number, part = np.nonzero(np.broadcast_to(cells[:, None] > 0, energy.shape))
        columns = [
            pa.array(own[image]),
            pa.DictionaryArray.from_arrays(number.astype(np.int32), maps),
            pa.DictionaryArray.from_arrays(part.astype(np.int32), names),
            pa.array(energy[image, number, part].astype(np.float32), from_pandas=True),
            pa.array(cells[image, part].astype(np.float32)),
        ]
        found.append(pa.Table.from_arrays(columns, schema=SCHEMA))
    table = pa.concat_tables(found or [SCHEMA.empty_table()])
    if not len(table):
        raise ExportError("no image of the export shows an annotated part: their masks are 0 wherever the model looks")
    return table


def part_study(export: Export, folder: Path) -> list[Path]:
    """Write parts.parquet and parts.png. Raises what `part_table` does."""
    table = part_table(export)
    return write_study(folder, {"parts": table}, {"parts": _figure(table, export.manifest.layout.maps)})


def _figure(table: pa.Table, maps: tuple[str, ...]) -> Figure:
    """Mean energy of each part over the images that show it, by map, with 95 % intervals; and its share of cells."""
    plain = table.cast(pa.schema([(field.name, getattr(field.type, "value_type", field.type)) for field in SCHEMA]))
    shown = plain.group_by("part").aggregate([("cells", "mean")]).sort_by([("cells_mean", "descending")])
    names, chance = shown["part"].to_pylist(), shown["cells_mean"].to_numpy()
    height = 0.8 / len(maps)
    figure = Figure(figsize=(7, 1.2 + 0.16 * len(names) * (1 + len(maps))), dpi=120, layout="constrained")
    axis, place = figure.subplots(), np.arange(len(names))
    for number, name in enumerate(maps):
        own = plain.filter(pc.equal(plain["map"], name))
        means = [mean_of(_numbers(own.filter(pc.equal(own["part"], part))["energy"])) for part in names]
        axis.barh(
            place + (number - (len(maps) - 1) / 2) * height,
            [float(mean.mean) for mean in means],
            height,
            xerr=[float(np.nan_to_num(mean.margin)) for mean in means],
            error_kw={"linewidth": 0.8},
            label=name,
        )
    axis.plot(chance, place, "k|", markersize=14, label="share of the cells")
    counts = [pc.count_distinct(plain.filter(pc.equal(plain["part"], part))["row"]).as_py() for part in names]
    axis.set_yticks(place, [f"{part} ({count})" for part, count in zip(names, counts, strict=True)])
    axis.invert_yaxis()
    axis.set_xlabel("share of the map's energy, mean over the images that show the part (95 % interval)")
    axis.legend(frameon=False, fontsize=8)
    return figure


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values: NDArray[np.float64] = pc.cast(column, pa.float64()).to_numpy()
    return values
