"""Close-up: everything an export holds of one image, drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from finer_ray.errors import QueryError
from finer_ray.metrics.table import REPORTED
from finer_ray.report.colours import NAMES
from finer_ray.report.figure_file import check_figure, save_figure
from finer_ray.report.overlay import overlay
from finer_ray.report.photos import try_rows
from finer_ray.store.query import connect
from finer_ray.store.reading import Export

COLUMNS_ON_SHEET = 4
# Without its photo a map is drawn in cells of the grid, this many pixels wide in all.
SIDE = 224
# Pixels of the photo, times those of the model's input (but of `native`).
ENLARGED = 3


def find_row(export: Export, key: str) -> int:
    """The row of the image with a key.

    Raises:
        QueryError: there is none (with the nearest keys, or why the image failed), or several, which are listed.
    """
    with connect(export) as connection:
        found = connection.execute("SELECT row, shard FROM images WHERE key = ? ORDER BY row", [key]).fetchall()
        if len(found) == 1:
            return int(found[0][0])
        if found:
            places = "\n".join(f"  --row {row}: {shard}" for row, shard in found)
            raise QueryError(f"{len(found)} images have the key {key!r}; choose one by its row:\n{places}")
        raise QueryError(_missing(connection, key))


def _missing(connection: duckdb.DuckDBPyConnection, key: str) -> str:
    failed = connection.execute("SELECT shard, stage, error FROM failures WHERE key = ?", [key]).fetchall()
    if failed:
        reasons = "\n".join(f"  {shard}: {stage}: {error}" for shard, stage, error in failed)
        return f"the image {key!r} could not be explained:\n{reasons}"
    near = connection.execute(
        "SELECT DISTINCT key FROM images ORDER BY jaro_winkler_similarity(key, ?) DESC, key LIMIT 3", [key]
    ).fetchall()
    return f"no image has the key {key!r} (nearest: {', '.join(name for (name,) in near) or 'there are no images'})"


def draw_image(export: Export, row: int, path: Path, maps: Sequence[str] = (), gammas: Sequence[float] = ()) -> str:
    """Draw one image: its photo, its maps, and the contrast at some gammas.

    Args:
        export: any.
        row: of the image.
        path: of the .svg, .pdf or .png file.
        maps: names; all that are stored when empty.
        gammas: each gives one more picture, from the contrast basis.

    Returns:
        Why the photo is not drawn, or "".

    Raises:
        QueryError: no image has this row, or the path has another suffix. ExportError: no such map, or no basis for a
            gamma.
    """
    check_figure(path)
    line, scores = _lines(export, row)
    photo, note = _photo(export, row)
    size = (SIDE, SIDE) if photo is None else (photo.shape[0], photo.shape[1])
    heat = {name: export.maps([row], name, size)[0] for name in maps or export.manifest.layout.maps}
    titles = {name: f"{name}\n{scores.get(name, '')}" for name in heat}
    for gamma in gammas:
        name = f"contrast, gamma {gamma:g}"
        heat[name], titles[name] = export.contrast([row], gamma, size=size)[0], f"{name}\n"
    pictures = [(f"photo, row {row}\n", photo)] if photo is not None else []
    pictures += [(titles[name], _drawn(photo, values)) for name, values in heat.items()]
    _draw(pictures, _headline(line, export.manifest.classes), path)
    return note


def _lines(export: Export, row: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The image's line of images, and its metrics by map, as text."""
    with connect(export) as connection:
        images = connection.sql("SELECT * FROM images WHERE row = ?", params=[row]).to_arrow_table().to_pylist()
        metrics = connection.sql("SELECT * FROM metrics WHERE row = ?", params=[row]).to_arrow_table().to_pylist()
    if not images:
        raise QueryError(f"no image has the row {row}")
    return images[0], {line["map"]: _metrics(line) for line in metrics}


def _metrics(line: dict[str, Any]) -> str:
    wanted = ("localisation", "deletion_auc")
    return "  ".join(f"{REPORTED[name].title} {line[name]:.2f}" for name in wanted if line[name] is not None)


def _photo(export: Export, row: int) -> tuple[NDArray[np.uint8] | None, str]:
    try:
        [(_, found)] = try_rows(export, [row], region=False, enlarged=ENLARGED)
    except KeyError as error:
        found = str(error)
    if isinstance(found, str):
        return None, f"maps alone, because the photo is gone: {found}"
    return found.image, ""


def _drawn(photo: NDArray[np.uint8] | None, heat: NDArray[np.float32]) -> NDArray[Any]:
    return heat if photo is None else overlay(photo, heat)


def _headline(line: dict[str, Any], classes: Sequence[str]) -> str:
    label = "none" if line["label"] is None else classes[line["label"]]
    probability = "" if line["probability"] is None else f", probability {line['probability']:.3f}"
    predicted = f"{classes[line['predicted']]} {line['predicted_probability']:.3f}"
    against = [
        f"{classes[index]} (logit {logit:.2f}{'' if chance is None else f', probability {chance:.3f}'})"
        for index, logit, chance in zip(
            line["references"], line["reference_logits"], line["reference_probabilities"], strict=True
        )
        if index >= 0
    ]
    return "\n".join(
        [
            f"{line['key']}   label: {label}   predicted: {predicted}",
            f"target: {classes[line['target']]} (logit {line['logit']:.2f}{probability})",
            *(f"against: {text}" for text in against),
        ]
    )


def _draw(pictures: Sequence[tuple[str, NDArray[Any]]], headline: str, path: Path) -> None:
    across = min(COLUMNS_ON_SHEET, len(pictures))
    down = -(-len(pictures) // across)
    high = 0.6 + 0.2 * (headline.count("\n") + 1)
    figure = Figure(figsize=(max(2.6 * across, 6.5), 2.95 * down + high), layout="constrained")
    # A dollar in a key is no formula.
    figure.suptitle(headline, fontsize=9, x=0.01, ha="left", parse_math=False)
    axes: Any = figure.subplots(down, across, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, picture) in zip(axes.flat, pictures, strict=False):
        axis.imshow(picture, cmap=NAMES[0], vmin=0 if picture.ndim == 2 else None)
        axis.set_title(title, fontsize=8, parse_math=False)
    save_figure(figure, path)
