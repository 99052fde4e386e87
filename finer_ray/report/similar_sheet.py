"""Sheet of similar images: an image and those most like it, each with its baseline and its finer map."""

from pathlib import Path

import pyarrow as pa

from finer_ray.errors import QueryError
from finer_ray.report.contact_sheet import contact_sheet
from finer_ray.report.figure_file import check_figure
from finer_ray.report.paper_table import baselines
from finer_ray.store.reading import Export


def similar_sheet(export: Export, row: int, found: pa.Table, path: Path) -> None:
    """Draw an image and those that were found.

    Args:
        export: with a finer map and its baseline.
        row: of the image that others were compared with.
        found: as `finer_ray.similar.similar_images` gives them.
        path: of the .png, .svg or .pdf file; folders on the way are made.

    Raises:
        QueryError: the path has another suffix, or the export no finer map with a baseline. ExportError: a photo cannot
            be read again.
    """
    check_figure(path)
    pairs = baselines(export)
    if not pairs:
        raise QueryError("--picture draws a baseline and a finer map, and the export has no such pair of maps")
    finer, baseline = next(iter(pairs.items()))
    notes = [("", ""), *(("", f"similarity {cosine:.3f}") for cosine in found["similarity"].to_pylist())]
    title = f"Row {row}, and the images most like it"
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(export, [row, *found["row"].to_pylist()], path, (baseline, finer), title, notes)
