"""Writing: from an export to the report's folder, whole or not at all."""

import fcntl
import glob
import json
import os
import re
import secrets
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from finer_ray.config.messages import shown
from finer_ray.errors import ExportError
from finer_ray.metrics.table import CURVES, METRICS, OF_REGION, REPORTED
from finer_ray.report.paper_table import baselines
from finer_ray.report.site import overview
from finer_ray.report.site.class_pages import class_lines, confusions, galleries
from finer_ray.report.site.colours import NAMES, colours_script
from finer_ray.report.site.curves import curve_charts, image_curves, mean_curves
from finer_ray.report.site.image_pages import GAMMAS, ImagePage, input_size, main_map, show_images
from finer_ray.report.site.page_sample import Sample, draw_sample
from finer_ray.saliency.aggregation import AGGREGATIONS
from finer_ray.saliency.objective import WEIGHTINGS
from finer_ray.store.reading import Export

SIGN = "report.json"
ASSETS = ("site.css", "site.js", "view.js")
# Everything that a report holds, by path; what else is there is somebody's own.
OURS = re.compile(
    rf"(index|images)\.html|{re.escape(SIGN)}|(assets|classes|images)/|assets/(colours\.js|{'|'.join(ASSETS)})"
    r"|classes/\d+\.html|images/\d+(\.html|\.jpg|-map\.jpg|-region\.png)"
)
# Lines of the overview's table of classes; more are in classes.parquet.
CLASS_LINES = 2000
FAILURE_LINES = 20
# Images on the overview.
EXAMPLES = 8


def write_report(export: Export, folder: Path, images: int = 300, classes: int = 50, seed: int = 0) -> Path:
    """Write the report of an export: pages that open from disk. A report that stands there is replaced as a whole.

    Numbers and charts of the overview are of all rows; pages are for a seeded sample of the images, and for the
    largest classes with the best, median and worst of their images. The pages say so.

    Args:
        export: any.
        folder: to write to; new, empty, or an earlier report with nothing of anybody's in it.
        images: at most as many are drawn at random.
        classes: at most as many get a page, each with at most 9 images more.
        seed: of the draws.

    Returns:
        The page to open.

    Raises:
        ExportError: the folder is a file, or holds anything that no report of ours does.
    """
    place = folder.resolve()
    _check_place(folder, place)
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    draft, old = (place.with_name(f".{place.name}.{secrets.token_hex(4)}.{what}") for what in ("tmp", "old"))
    draft.mkdir()
    with (draft / SIGN).open("w") as sign:
        # What tells a draft that is being written from that of a killed run.
        fcntl.flock(sign, fcntl.LOCK_EX)
        try:
            _Writer(export, draft, draw_sample(export, images, classes, seed), seed).write()
            # Minutes have passed.
            _check_place(folder, place)
            if place.exists():
                place.rename(old)
            draft.rename(place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    return folder / "index.html"


def _check_place(folder: Path, place: Path) -> None:
    """Raises ExportError where something stands that may not be replaced."""
    if not place.exists():
        return
    if not place.is_dir():
        raise ExportError(f"{folder} is a file: name a folder with --to")
    stray, report = _stray(place), (place / SIGN).is_file()
    if not report:
        stray = stray or next((path.name for path in place.iterdir()), None)
    if stray is not None:
        why = "no report has such a file" if report else "that is no report"
        raise ExportError(f"{folder} holds {shown(stray)}: {why}, and is not taken away; name another folder with --to")


def _stray(place: Path) -> str | None:
    """A file or folder below a place whose name no report has, links included; None where there is none."""
    for where, folders, files in os.walk(place):
        inside = Path(where).relative_to(place)
        links = [name for name in folders if Path(where, name).is_symlink()]
        names = [(inside / name).as_posix() for name in [*files, *links]]
        names += [f"{(inside / name).as_posix()}/" for name in folders if name not in links]
        if (found := next((name for name in sorted(names) if not OURS.fullmatch(name)), None)) is not None:
            return found
    return None


def _sweep(place: Path) -> None:
    """Remove what killed runs have left beside the report: folders of ours that nobody is writing."""
    for left in place.parent.glob(f".{glob.escape(place.name)}.*"):
        known = re.fullmatch(r"[0-9a-f]{8}\.(tmp|old)", left.name.removeprefix(f".{place.name}."))
        if not known or left.is_symlink() or not (left / SIGN).is_file() or _stray(left) is not None:
            continue
        with (left / SIGN).open() as sign, suppress(BlockingIOError):
            fcntl.flock(sign, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)


class _Writer:
    """One report being written."""

    def __init__(self, export: Export, folder: Path, sample: Sample, seed: int) -> None:
        self._export, self._folder, self._sample, self._seed = export, folder, sample, seed
        self._pages = sample.pages()
        self._environment = Environment(
            loader=PackageLoader("finer_ray.report.site"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {"number": _number, "signed": _signed, "percent": _percent, "count": _count}
        self._environment.globals |= {
            "names": export.manifest.classes,
            "manifest": export.manifest,
            "sample": sample,
            "seed": seed,
            "pages": set(self._pages),
            "class_pages": set(sample.classes),
            "metrics": METRICS,
            "colour_maps": NAMES,
            "aggregations": AGGREGATIONS,
            "weightings": WEIGHTINGS,
            "main_map": main_map(export) if export.manifest.layout.maps else None,
            "baselines": baselines(export),
            "input_size": partial(input_size, export),
        }

    def write(self) -> None:
        for name in ("assets", "classes", "images"):
            (self._folder / name).mkdir(parents=True)
        self._assets()
        shown = self._images()
        self._page("images.html", "gallery.html", "", images=shown)
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
                before=around[0],
                after=around[1],
                known=known,
                curves=curve_charts({name: image_curves(image.metrics, name) for name in CURVES}),
            )
            image.data.clear()
            shown.append(image)
        return shown

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
            page_count=len(self._pages),
        )

    def _page(self, name: str, template: str, root: str, **context: Any) -> None:
        text = self._environment.get_template(template).render(root=root, **context)
        (self._folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")


def _spread(images: list[ImagePage]) -> list[ImagePage]:
    """A few of them, evenly apart."""
    places = np.linspace(0, len(images) - 1, min(EXAMPLES, len(images))).round().astype(int)
    return [images[place] for place in places]


def _number(value: float | None, digits: int = 3) -> str:
    return _written(value, f".{digits}f")


def _signed(value: float | None, digits: int = 3) -> str:
    return _written(value, f"+.{digits}f")


def _percent(value: float | None, digits: int = 0) -> str:
    return _written(None if value is None else 100 * value, f".{digits}f", "\N{NO-BREAK SPACE}%")


def _written(value: float | None, form: str, unit: str = "") -> str:
    """A number with a true minus sign; a dash where there is none."""
    return "–" if value is None or not np.isfinite(value) else f"{value:{form}}{unit}".replace("-", "−")


def _count(value: int) -> str:
    return f"{value:,}"


def _for_people(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what its files of references and of taxa hold, a line for each class: there may be a million."""
    saliency = {
        key: {name: held for name, held in value.items() if name not in ("classes", "taxa")}
        if key in ("selection", "within") and isinstance(value, dict) and value.get("file")
        else value
        for key, value in config["saliency"].items()
    }
    return {**config, "saliency": saliency}
