"""Writing: from an export to the report's pages."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import yaml

from finer_ray.metrics.table import CURVES, METRICS, OF_REGION, REPORTED
from finer_ray.report.paper_table import baselines
from finer_ray.report.site import overview
from finer_ray.report.site.asked import Asked
from finer_ray.report.site.class_pages import class_lines, confusions, galleries
from finer_ray.report.site.colours import NAMES, colours_script
from finer_ray.report.site.curves import curve_charts, image_curves, mean_curves
from finer_ray.report.site.embedding_map import PLACED_BY_TSNE, no_map
from finer_ray.report.site.folder import SIGN, replaced
from finer_ray.report.site.image_list import image_list, listing_script
from finer_ray.report.site.image_pages import GAMMAS, ImagePage, show_images
from finer_ray.report.site.map_data import input_size, main_map
from finer_ray.report.site.page_sample import Sample, draw_sample
from finer_ray.report.site.templating import environment
from finer_ray.saliency.aggregation import AGGREGATIONS
from finer_ray.saliency.objective import WEIGHTINGS
from finer_ray.store.reading import Export

ASSETS = (
    *("site.css", "site.js", "maps.js", "paint.js", "view.js"),
    *("finding.css", "listing.js", "turn.js", "scatter.js", "gallery.js"),
)
# Cards of the gallery that stand in the page itself; gallery.js adds as many at a time.
CARDS = 120
# Lines of the overview's table of classes; more are in classes.parquet.
CLASS_LINES = 2000
FAILURE_LINES = 20
# Images on the overview.
EXAMPLES = 8


def write_report(
    export: Export, folder: Path, images: int = 300, classes: int = 50, seed: int = 0, asked: Asked | None = None
) -> Path:
    """Write the report of an export: pages that open from disk. A report that stands there is replaced as a whole.

    Numbers and charts of the overview are of all rows; pages are for a seeded sample of the images, and for the
    largest classes with the best, median and worst of their images. The pages say so.

    Args:
        export: any.
        folder: to write to; new, empty, or an earlier report with nothing of anybody's in it.
        images: at most as many are drawn at random.
        classes: at most as many get a page, each with at most 9 images more.
        seed: of the draws.
        asked: images to which pages are kept, the first by row instead of a draw; see `asked_for`.

    Returns:
        The page to open.

    Raises:
        ExportError: the folder is a file, or holds anything that no report of ours does.
    """
    with replaced(folder) as draft:
        _Writer(export, draft, draw_sample(export, images, classes, seed, asked), seed).write()
    return folder / "index.html"


class _Writer:
    """One report being written."""

    def __init__(self, export: Export, folder: Path, sample: Sample, seed: int) -> None:
        self._export, self._folder, self._sample, self._seed = export, folder, sample, seed
        self._pages = sample.pages()
        self._environment = environment(
            {
                "names": export.manifest.classes,
                "manifest": export.manifest,
                "sample": sample,
                "seed": seed,
                "pages": set(self._pages),
                "page_count": len(self._pages),
                "class_pages": set(sample.classes),
                "metrics": METRICS,
                "colour_maps": NAMES,
                "aggregations": AGGREGATIONS,
                "weightings": WEIGHTINGS,
                "main_map": main_map(export) if export.manifest.layout.maps else None,
                "baselines": baselines(export),
                "input_size": partial(input_size, export),
            }
        )

    def write(self) -> None:
        for name in ("assets", "classes", "images"):
            (self._folder / name).mkdir(parents=True)
        self._assets()
        shown = self._images()
        self._gallery(shown)
        known = {image.line["row"]: image for image in shown}
        lines = class_lines(self._export)
        for line in lines:
            if line["class"] in self._sample.classes:
                self._class(line, known)
        self._overview(lines, shown)
        sign = {"images": len(shown), "classes": len(self._sample.classes), "seed": self._seed}
        (self._folder / SIGN).write_text(json.dumps(sign), encoding="utf-8")

    def _assets(self) -> None:
        source = Path(__file__).parent / "assets"
        for name in ASSETS:
            shutil.copyfile(source / name, self._folder / "assets" / name)
        (self._folder / "assets" / "colours.js").write_text(colours_script(), encoding="utf-8")

    def _images(self) -> list[ImagePage]:
        shown = []
        for place, image in enumerate(show_images(self._export, self._pages, self._folder / "images")):
            around = [self._pages[other] if 0 <= other < len(self._pages) else None for other in (place - 1, place + 1)]
            where = f"images/{image.line['row']}.html"
            known = [
                metric for name, metric in REPORTED.items() if any(entry[name] is not None for entry in image.metrics)
            ]
            self._page(
                where,
                "image.html",
                "../",
                image=image,
                place=place + 1,
                before=around[0],
                after=around[1],
                known=known,
                curves=curve_charts({name: image_curves(image.metrics, name) for name in CURVES}),
            )
            image.data.clear()
            shown.append(image)
        return shown

    def _gallery(self, shown: list[ImagePage]) -> None:
        listed = image_list(self._export, self._pages, [image.line["row"] for image in shown if image.problem])
        (self._folder / "assets" / "images.js").write_text(listing_script(listed), encoding="utf-8")
        self._page(
            "images.html",
            "gallery.html",
            "",
            images=shown[:CARDS],
            # The card that the script copies: with photos, where any has one.
            pattern=next((image for image in shown if not image.problem), shown[0] if shown else None),
            map_note=None if listed["map"] else no_map(self._export),
            tsne_limit=PLACED_BY_TSNE,
        )

    def _class(self, line: dict[str, Any], known: dict[int, ImagePage]) -> None:
        index, maps = line["class"], line["maps"].values()
        self._page(
            f"classes/{index}.html",
            "class.html",
            "../",
            line=line,
            averaged=[metric for name, metric in REPORTED.items() if any(values[name]["count"] for values in maps)],
            confusions=confusions(self._export, index),
            galleries=galleries(self._sample, index),
            known=known,
        )

    def _overview(self, lines: list[dict[str, Any]], shown: list[ImagePage]) -> None:
        export = self._export
        drawn = set(self._sample.rows)
        sweeps = [image.sweep for image in shown if image.sweep is not None and image.line["row"] in drawn]
        scores = {name: np.array([sweep[name] for sweep in sweeps]) for name in OF_REGION if sweeps}
        failures, table = overview.failures(export), overview.metric_table(export)
        self._page(
            "index.html",
            "overview.html",
            "",
            accuracy=overview.accuracy(export.images),
            confidence=pc.mean(export.images["predicted_probability"]).as_py(),
            failures=failures[:FAILURE_LINES],
            failure_reasons=len(failures),
            pairs=overview.confused_pairs(export),
            table=table,
            differences=overview.difference_charts(table, export.manifest.layout.maps, baselines(export)),
            curves=curve_charts({name: mean_curves(export, name) for name in CURVES}),
            distributions=overview.distribution_charts(export),
            similarity=overview.similarity_chart(export),
            sweep=overview.sweep_charts(GAMMAS, scores, export.manifest.config["saliency"]["gamma"]),
            lines=lines[:CLASS_LINES],
            class_count=len(lines),
            config=yaml.safe_dump(_for_people(export.manifest.config), sort_keys=False, allow_unicode=True),
            examples=_spread([image for image in shown if image.line["row"] in drawn and not image.problem]),
            lacking=[image for image in shown if image.problem],
        )

    def _page(self, name: str, template: str, root: str, **context: Any) -> None:
        text = self._environment.get_template(template).render(root=root, **context)
        (self._folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")


def _spread(images: list[ImagePage]) -> list[ImagePage]:
    """A few of them, evenly apart."""
    places = np.linspace(0, len(images) - 1, min(EXAMPLES, len(images))).round().astype(int)
    return [images[place] for place in places]


def _for_people(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what its files of references and of taxa hold, a line for each class: there may be a million."""
    saliency = {
        key: {name: held for name, held in value.items() if name not in ("classes", "taxa")}
        if key in ("selection", "within") and isinstance(value, dict) and value.get("file")
        else value
        for key, value in config["saliency"].items()
    }
    return {**config, "saliency": saliency}
