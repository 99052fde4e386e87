"""Contact sheet: photo, baseline and finer map side by side, with the names of the classes compared."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from finer_ray.report.overlay import overlay
from finer_ray.report.photos import read_photos
from finer_ray.store.reading import Export

COLUMNS_ON_SHEET = 2
# Characters that fit above one picture.
WIDTH = 36
TITLES = {"gradcam": "Grad-CAM", "finer_gradcam": "Finer-CAM"}


def contact_sheet(
    export: Export,
    rows: Sequence[int],
    path: Path,
    maps: tuple[str, str] = ("gradcam", "finer_gradcam"),
    title: str | None = None,
    notes: Sequence[tuple[str, str]] | None = None,
) -> None:
    """Draw some rows of an export as a PNG, two images across.

    Args:
        export: with these maps.
        rows: which images.
        path: of the PNG.
        maps: a baseline and a finer map, by name.
        title: of the sheet; the question that Finer-CAM asks when None.
        notes: for each row, a line for the title of each of its maps.
    """
    photos = read_photos(export, rows)
    heat = {
        name: [export.maps([row], name, photo.shape[:2])[0] for row, photo in zip(rows, photos, strict=True)]
        for name in maps
    }
    chosen = export.images.filter(pc.is_in(export.images["row"], pa.array(rows, pa.int64())))
    lines = {line["row"]: line for line in chosen.to_pylist()}
    down = -(-len(rows) // COLUMNS_ON_SHEET)
    figure = Figure(figsize=(6.6 * COLUMNS_ON_SHEET, 2.45 * down + 0.5), dpi=110, layout="constrained")
    gamma = export.manifest.config["saliency"]["gamma"]
    title = title or f"What makes it this class and not its nearest ones? (gamma {gamma:g})"
    figure.suptitle(title, fontsize=12)
    axes: Any = figure.subplots(down, 3 * COLUMNS_ON_SHEET, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for position, row in enumerate(rows):
        trio = axes[position // COLUMNS_ON_SHEET, 3 * (position % COLUMNS_ON_SHEET) :][:3]
        caption = captions(lines[row], export.manifest.classes, maps)
        trio[0].imshow(photos[position])
        for axis, name in zip(trio[1:], maps, strict=True):
            axis.imshow(overlay(photos[position], heat[name][position]))
        for axis, text, note in zip(trio, caption, ("", *(notes[position] if notes else ("", ""))), strict=True):
            axis.set_title(f"{text}\n{note}" if note else text, fontsize=7.5)
    figure.savefig(path)


def captions(
    line: dict[str, Any], classes: Sequence[str], maps: tuple[str, str] = ("gradcam", "finer_gradcam")
) -> tuple[str, str, str]:
    """Titles over photo, baseline and finer map of one line of images; lines are at most WIDTH characters long."""
    predicted, label = classes[line["predicted"]], line["label"]
    told = "" if label is None or label == line["predicted"] else f"\n(labelled {classes[label]})"
    references = [classes[index] for index in line["references"] if index >= 0]
    baseline, finer = (TITLES.get(name, name) for name in maps)
    return (
        _wrapped(f"{predicted} {line['predicted_probability']:.0%}{told}"),
        _wrapped(f"{baseline}\n{classes[line['target']]}"),
        _wrapped(f"{finer}, against\n{', '.join(references)}"),
    )


def _wrapped(text: str) -> str:
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, WIDTH))
