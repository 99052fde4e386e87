"""Failure cases: images whose finer map is worse than its baseline, or whose prediction is wrong (Finer-CAM, C.1)."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from finer_ray.config.messages import nearest
from finer_ray.errors import ExportError
from finer_ray.metrics.table import JUDGES
from finer_ray.report.contact_sheet import contact_sheet
from finer_ray.report.paper_table import baselines
from finer_ray.store.reading import Export
from finer_ray.studies.output import write_study

NAME = "failure_cases"
SCHEMA = pa.schema(
    [
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("target", pa.int32(), nullable=False),
        pa.field("predicted", pa.int32(), nullable=False),
        pa.field("label_name", pa.string()),
        pa.field("target_name", pa.string(), nullable=False),
        pa.field("predicted_name", pa.string(), nullable=False),
        pa.field("probability", pa.float32()),
        pa.field("predicted_probability", pa.float32(), nullable=False),
        pa.field("map", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("baseline", pa.float64()),
        pa.field("finer", pa.float64()),
        pa.field("difference", pa.float64()),
    ]
)
QUERY = """
WITH compared AS (
    SELECT i.*, CAST(b.{metric} AS DOUBLE) AS baseline, CAST(f.{metric} AS DOUBLE) AS finer,
           finer - baseline AS difference, coalesce({sign} * difference > 0, false) AS worse_map,
           coalesce(label <> predicted, false) AS wrong_prediction
    FROM images AS i
    LEFT JOIN metrics AS b ON b.row = i.row AND b.map = $base
    LEFT JOIN metrics AS f ON f.row = i.row AND f.map = $map
)
SELECT row_number() OVER (
           ORDER BY {sign} * difference DESC NULLS LAST, wrong_prediction DESC, predicted_probability DESC, row
       ) AS rank,
       CASE WHEN NOT worse_map THEN 'wrong_prediction' WHEN wrong_prediction THEN 'both' ELSE 'worse_map' END AS kind,
       row, key, shard, index, label, target, predicted, $names[label + 1] AS label_name,
       $names[target + 1] AS target_name, $names[predicted + 1] AS predicted_name,
       probability, predicted_probability, $map AS map, $metric AS metric, baseline, finer, difference
FROM compared WHERE worse_map OR wrong_prediction ORDER BY rank
"""


def failure_cases(export: Export, name: str | None = None, by: str | None = None) -> pa.Table:
    """Images that fail, those first whose finer map is worst against its baseline.

    Args:
        export: with a baseline and a finer map.
        name: of the finer map; the first that has a baseline when None.
        by: the metric that judges; when None the first of `JUDGES` that the export has.

    Returns:
        A line per image with `kind` worse_map, wrong_prediction (the label is known and not the predicted class) or
        both, and `difference` = finer - baseline. Ranked by how much worse the finer map is; where nothing tells, the
        most confident of the wrong predictions come first.

    Raises:
        ExportError: no such map or metric, or none at all.
    """
    base = _baseline_of(export, name)
    name = name or next(iter(baselines(export)))
    metric = _metric(export, (base, name), by)
    query = QUERY.format(metric=metric, sign=-1 if JUDGES[metric].higher_is_better else 1)
    with duckdb.connect() as connection:
        connection.register("images", export.images)
        connection.register("metrics", export.metrics)
        values = {"base": base, "map": name, "metric": metric, "names": export.manifest.classes}
        return connection.sql(query, params=values).to_arrow_table().cast(SCHEMA)


def failure_cases_study(
    export: Export, folder: Path, name: str | None = None, by: str | None = None, shown: int = 12
) -> list[Path]:
    """Write failure_cases.parquet and, if there are any, the first of them as failure_cases.png.

    Args:
        export, name, by: see `failure_cases`.
        folder: to write to.
        shown: how many are drawn; only their photos are read again.

    Raises:
        ExportError: as `failure_cases`, or the photos' shards are gone.
    """
    table = failure_cases(export, name, by)
    places = write_study(folder, {NAME: table}, {})
    first = table.slice(0, shown).to_pylist()
    if first:
        metric, finer = first[0]["metric"], first[0]["map"]
        maps = (_baseline_of(export, finer), finer)
        notes = [(f"{metric} {_text(line['baseline'])}", f"{metric} {_text(line['finer'])}") for line in first]
        counts = ", ".join(f"{line['counts']} {line['values']}" for line in pc.value_counts(table["kind"]).to_pylist())
        title = f"Failure cases by {metric}: the first {len(first)} of {table.num_rows} ({counts})"
        places.append(folder / f"{NAME}.png")
        contact_sheet(export, [line["row"] for line in first], places[-1], maps, title, notes)
    return places


def _baseline_of(export: Export, name: str | None) -> str:
    pairs = baselines(export)
    if not pairs:
        raise ExportError(
            "the export has no finer map with its baseline; saliency.maps needs both, gradcam and finer_gradcam for one"
        )
    if name is not None and name not in pairs:
        raise ExportError(f"no finer map with a baseline is called {name!r}{nearest(name, list(pairs))}: {[*pairs]}")
    return pairs[name or next(iter(pairs))]


def _metric(export: Export, maps: tuple[str, str], by: str | None) -> str:
    mine = export.metrics.filter(pc.is_in(export.metrics["map"], pa.array(maps)))
    present = [metric for metric in JUDGES if mine[metric].null_count < mine.num_rows]
    if not present:
        raise ExportError(
            "the export has no metric by which a map could be worse: export again with metrics.deletion or "
            "metrics.drops, or with images that have a mask or a box"
        )
    if by is not None and by not in present:
        raise ExportError(f"the export has no metric {by!r}{nearest(by, present)}; it has {', '.join(present)}")
    return by or present[0]


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
