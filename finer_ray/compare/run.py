"""Comparing two exports: tables, figures and a page in a folder of their own. The exports are only read."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq

from finer_ray.compare.drift import drift
from finer_ray.compare.images import changes, common_maps
from finer_ray.compare.joining import joined, not_joined
from finer_ray.compare.notes import notes
from finer_ray.compare.page import write_comparison
from finer_ray.compare.summary import Summary, summarise
from finer_ray.pipeline.progress import late_bar
from finer_ray.report.site.folder import SIGN, replaced
from finer_ray.store.reading import Export
from finer_ray.store.tables import write_options

# Everything that a comparison's folder holds, by path.
OURS = re.compile(
    rf"index\.html|{re.escape(SIGN)}|(compare|drift)\.parquet|(assets|images)/|assets/site\.(js|css)"
    r"|images/\d+-(photo|a|b)\.jpg"
)


def compare(a: Export, b: Export, folder: Path, join: bool = True) -> Summary:
    """Compare two exports, and write what is found.

    Args:
        a, b: exports; changes are from A to B.
        folder: new, empty, or that of an earlier comparison, which is replaced: compare.parquet (with the schema
            `finer_ray.compare.images.CHANGES`), drift.parquet (`finer_ray.compare.drift.DRIFT`), index.html, and
            report.json, the summary.
        join: whether images are joined; False: as if none were in both.

    Returns:
        The summary.

    Raises:
        ExportError: the folder holds what no comparison does.

    >>> from finer_ray.store.reading import open_export
    >>> made = open_export("demo_export")
    >>> found = compare(made, made, Path("itself"))
    >>> found.joined, found.flipped, [change.correlation.mean for change in found.maps]
    (12, 0, [1.0, 1.0])
    """
    with replaced(folder, OURS) as draft:
        both = joined(a, b) if join else not_joined(a, b)
        with late_bar(len(both), "comparing") as advance:
            lines = changes(a, b, both, advance)
        drifts = drift(a, b)
        summary = summarise(lines, drifts, both, common_maps(a, b), notes(a, b, both))
        for name, table in (("compare", lines), ("drift", drifts)):
            pq.write_table(table, draft / f"{name}.parquet", **write_options(table.schema))
        write_comparison(a, b, summary, lines, draft)
        (draft / SIGN).write_text(json.dumps(summary.to_json(), indent=1), encoding="utf-8")
    return summary
