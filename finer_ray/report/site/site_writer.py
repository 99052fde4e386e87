"""Writing: from an export to the report's pages."""

import json
import shutil
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import yaml

from finer_ray.metrics.table import CURVES, REPORTED
from finer_ray.pipeline.progress import late_bar
from finer_ray.report.best_map import best_map
from finer_ray.report.colours import NAMES, colours_script
from finer_ray.report.gamma_sweep import swept
from finer_ray.report.overlay import MODES, STRENGTH
from finer_ray.report.paper_table import baselines
from finer_ray.report.site import overview
from finer_ray.report.site.asked import Asked
from finer_ray.report.site.class_errors import class_errors
from finer_ray.report.site.class_pages import class_lines, confusions, galleries
from finer_ray.report.site.curves import curve_charts, mean_curves
from finer_ray.report.site.data_name import data_name
from finer_ray.report.site.embedding_map import PLACED_BY_TSNE, no_map
from finer_ray.report.site.findings import findings
from finer_ray.report.site.folder import SIGN, replaced
from finer_ray.report.site.image_list import image_list, listing_script
from finer_ray.report.site.image_pages import GAMMAS, ImagePages, Shown
from finer_ray.report.site.map_data import input_size
from finer_ray.report.site.page_sample import Sample, draw_sample, spread
from finer_ray.report.site.pair_data import pair_data
from finer_ray.report.site.pair_pages import PairPage, pair_pages, wanted_rows
from finer_ray.report.site.pair_pictures import draw_pictures, ring
from finer_ray.report.site.reading_guide import reading_guide
from finer_ray.report.site.shareable import ShardNames, shareable_config, shareable_manifest
from finer_ray.report.site.templating import environment, write_page
from finer_ray.report.site.workers import in_order
from finer_ray.saliency.aggregation import AGGREGATIONS
from finer_ray.saliency.objective import WEIGHTINGS
from finer_ray.store.batches import batches, with_lines
from finer_ray.store.reading import Export

# Cards of the gallery that stand in the page itself; gallery.js adds as many at a time.
CARDS = 120
# Lines of the overview's table of classes; more are in classes.parquet.
CLASS_LINES = 2000
FAILURE_LINES = 20
# Images on the overview.
EXAMPLES = 8
# Pairs of classes on the overview's first screen.
TELLING = 3
# Images whose maps are computed at every gamma, which takes half of a page's time: enough for a mean.
SWEPT = 1000


def write_report(
    export: Export,
    folder: Path,
    images: int = 300,
    classes: int = 50,
    seed: int = 0,
    pairs: int = 12,
    title: str | None = None,
    asked: Asked | None = None,
    jobs: int = 1,
) -> Path:
    """Write the report of an export: pages that open from disk. A report that stands there is replaced as a whole.

    Numbers and charts of the overview are of all rows; pages are for a seeded sample of the images, and for the
    largest classes with the best, median and worst of their images, and with some that are predicted wrong. The pages
    say so.

    Args:
        export: any.
        folder: to write to; new, empty, or an earlier report with nothing of anybody's in it.
        images: at most as many are drawn at random.
        classes: at most as many get a page, each with at most 15 images more.
        seed: of the draws.
        pairs: at most as many pairs of classes get a page: the most confused, the most telling and the most similar;
            none where images are asked for, because the pages of pairs bring images of their own.
        title: of the report; a name of the data set, from where its shards lie, when None.
        asked: images to which pages are kept, the first by row instead of a draw; see `asked_for`.
        jobs: processes that write pages; the result is the same. More than 1 needs a script that may be imported, with
            `if __name__ == "__main__":` around what it does.

    Returns:
        The page to open.

    Raises:
        ExportError: the folder is a file, or holds anything that no report of ours does; a process ended early.
    """
    with replaced(folder) as draft:
        sample = draw_sample(export, images, classes, seed, asked)
        shown = pair_pages(export, pairs) if asked is None else []
        _Writer(export, draft, sample, shown, seed, title, jobs).write()
    return folder / "index.html"


class _Writer:
    """One report being written."""

    def __init__(
        self,
        export: Export,
        folder: Path,
        sample: Sample,
        pairs: list[PairPage],
        seed: int,
        title: str | None,
        jobs: int,
    ) -> None:
        self._export, self._folder, self._sample, self._pairs = export, folder, sample, pairs
        self._seed, self._jobs, self._best = seed, jobs, best_map(export)
        self._errors = class_errors(export, sample.classes, self._best)
        # Beside images that are asked for no others get a page.
        wrong = [] if sample.asked else [row for known in self._errors.values() for row in known.pictured()]
        self._pages = sorted({*sample.pages(), *wrong, *wanted_rows(pairs)})
        self._swept = frozenset(spread(sample.rows, SWEPT))
        self._shards = ShardNames(entry.shard.ref.url for entry in export.manifest.shards)
        # Other processes get it as a pickle, the export without the tables that were read here.
        self._bare = Export(export.folder, export.manifest)
        self._known = {
            "names": export.manifest.classes,
            "manifest": shareable_manifest(export.manifest),
            "shard_names": self._shards,
            "sample": sample,
            "seed": seed,
            "pages": set(self._pages),
            "page_count": len(self._pages),
            "class_pages": set(sample.classes),
            "pair_pages": {page.pair.classes for page in pairs},
            "colour_maps": NAMES,
            "display_modes": MODES,
            "strength": STRENGTH,
            "aggregations": AGGREGATIONS,
            "weightings": WEIGHTINGS,
            "main_map": self._best.name,
            "best": self._best,
            "report_title": title or data_name(export.manifest.config["input"]["shards"]),
            "baselines": baselines(export),
            "input_size": partial(input_size, self._bare),
            "ring": partial(ring, self._bare),
        }
        self._environment = environment(self._known)

    def write(self) -> None:
        for name in ("assets", "classes", "images", "pairs"):
            (self._folder / name).mkdir(parents=True)
        self._assets()
        shown = self._images()
        self._gallery(shown)
        known = {image.line["row"]: image for image in shown}
        lines = class_lines(self._export)
        for line in lines:
            if line["class"] in self._sample.classes:
                self._class(line, known)
        self._write_pairs(known)
        self._overview(lines, shown)
        self._page(
            "reading.html", "reading.html", "", guide=reading_guide(self._export, shown, self._folder / "assets")
        )
        sign = {"images": len(shown), "classes": len(self._sample.classes), "seed": self._seed}
        (self._folder / SIGN).write_text(json.dumps(sign), encoding="utf-8")

    def _assets(self) -> None:
        for asset in sorted((Path(__file__).parent / "assets").iterdir()):
            shutil.copyfile(asset, self._folder / "assets" / asset.name)
        (self._folder / "assets" / "colours.js").write_text(colours_script(), encoding="utf-8")

    def _images(self) -> list[Shown]:
        main, folder = self._best.name or "", self._folder / "images"
        work = ImagePages(self._bare, main, self._known, self._pages, self._swept, folder)
        groups, shown = batches(self._export, self._pages), list[Shown]()
        done = in_order(work, with_lines(self._export, groups), min(self._jobs, len(groups)))
        with late_bar(len(self._pages), "writing pages") as advance, closing(done):
            for made in done:
                shown += made
                advance(len(made))
        return shown

    def _gallery(self, shown: list[Shown]) -> None:
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

    def _class(self, line: dict[str, Any], known: dict[int, Shown]) -> None:
        index, maps = line["class"], line["maps"].values()
        self._page(
            f"classes/{index}.html",
            "class.html",
            "../",
            line=line,
            averaged=[metric for name, metric in REPORTED.items() if any(values[name]["count"] for values in maps)],
            errors=self._errors[index],
            confusions=confusions(self._export, index),
            galleries=galleries(self._sample, index),
            known=known,
        )

    def _write_pairs(self, known: dict[int, Shown]) -> None:
        if not self._pairs:
            return
        pictures = draw_pictures(self._export, self._pairs, self._folder / "pairs")
        self._environment.globals |= {"known": known, "pictures": pictures}
        for page in self._pairs:
            self._page(f"pairs/{page.name}.html", "pair.html", "../", page=page, data=pair_data(self._export, page))
        self._page("pairs.html", "pairs.html", "", shown=self._pairs)

    def _overview(self, lines: list[dict[str, Any]], shown: list[Shown]) -> None:
        export = self._export
        drawn = set(self._sample.rows)
        sweeps = [image.sweep for image in shown if image.sweep is not None]
        scores = {name: np.array([sweep[name] for sweep in sweeps]) for name in swept(export) if sweeps}
        failures, table = overview.failures(export, self._shards.text), overview.metric_table(export)
        maps = export.manifest.layout.maps
        compared = next(iter(baselines(export).items()), None)
        self._page(
            "index.html",
            "overview.html",
            "",
            findings=findings(table, maps, *compared) if compared else [],
            accuracy=overview.accuracy(export.images),
            confidence=pc.mean(export.images["predicted_probability"]).as_py(),
            failures=failures[:FAILURE_LINES],
            failure_reasons=len(failures),
            pairs=overview.confused_pairs(export),
            table=table,
            differences=overview.difference_charts(table, maps, baselines(export)),
            curves=curve_charts({name: mean_curves(export, name) for name in CURVES}),
            distributions=overview.distribution_charts(export),
            similarity=overview.similarity_chart(export),
            sweep=overview.sweep_charts(
                GAMMAS,
                scores,
                export.manifest.config["saliency"]["gamma"],
                len(drawn),
                len(self._swept),
                sum(bool(image.problem) for image in shown if image.line["row"] in self._swept),
            ),
            lines=lines[:CLASS_LINES],
            class_count=len(lines),
            config=yaml.safe_dump(
                _for_people(shareable_config(export.manifest.config)), sort_keys=False, allow_unicode=True
            ),
            examples=spread([image for image in shown if image.line["row"] in drawn and not image.problem], EXAMPLES),
            lacking=[image for image in shown if image.problem],
            telling=self._pairs[:TELLING],
        )

    def _page(self, name: str, template: str, root: str, **context: Any) -> None:
        write_page(self._environment, self._folder / name, template, root, **context)


def _for_people(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what its files of references and of taxa hold, a line for each class: there may be a million."""
    saliency = {
        key: {name: held for name, held in value.items() if name not in ("classes", "taxa")}
        if key in ("selection", "within") and isinstance(value, dict) and value.get("file")
        else value
        for key, value in config["saliency"].items()
    }
    return {**config, "saliency": saliency}
