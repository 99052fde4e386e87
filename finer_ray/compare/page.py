"""Page: a comparison for the browser, with the images that changed most."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from finer_ray.compare.images import common_maps
from finer_ray.compare.summary import Summary
from finer_ray.compare.words import change_words, drift_name, drift_words
from finer_ray.config.messages import differences
from finer_ray.config.schema import UNCOVERED, fingerprinted
from finer_ray.errors import FinerRayError
from finer_ray.report.best_map import best_map
from finer_ray.report.overlay import overlay
from finer_ray.report.photos import try_rows
from finer_ray.report.site.shareable import ShardNames, shareable_config
from finer_ray.report.site.templating import environment, write_page
from finer_ray.store.reading import Export
from finer_ray.version import __version__

ASSETS = Path(__file__).parents[1] / "report" / "site" / "assets"
# Images that are shown.
SHOWN = 24
QUALITY = 88


@dataclass(frozen=True)
class Card:
    """An image that changed.

    Attributes:
        line: of the table of changes, of the map that is shown.
        words: what changed in the map.
        pictures: photo, map of A, map of B: the file, or None without a photo, and what it is.
    """

    line: dict[str, Any]
    words: str
    pictures: list[tuple[str | None, str]]


def write_comparison(a: Export, b: Export, summary: Summary, changes: pa.Table, folder: Path) -> None:
    """Write index.html, its assets and its pictures into a folder."""
    (folder / "assets").mkdir()
    (folder / "images").mkdir()
    for name in ("site.css", "site.js"):
        shutil.copyfile(ASSETS / name, folder / "assets" / name)
    main = main_map(a, b)
    lines = largest(changes, main)
    known = {
        "shard_names": ShardNames(entry.shard.ref.url for entry in a.manifest.shards),
        "report_title": "Two exports compared",
        "manifest": a.manifest,
        "version": __version__,
        "drift_name": drift_name,
        "drift_words": drift_words,
    }
    write_page(
        environment(known),
        folder / "index.html",
        "compare.html",
        "",
        summary=summary,
        names=["/".join(str(shareable_config(made.folder.url)).rstrip("/").split("/")[-2:]) for made in (a, b)],
        main=main,
        cards=_cards(a, b, lines, main, folder) if main else [],
        differences=job_differences(a, b),
    )


def main_map(a: Export, b: Export) -> str | None:
    """The map that is shown: that which stands for A, or the first that both have; None where there is none."""
    maps = common_maps(a, b)
    best = best_map(a).name
    return best if best in maps else next(iter(maps), None)


def largest(changes: pa.Table, name: str | None) -> list[dict[str, Any]]:
    """The lines of one map where most has changed: flipped predictions first, then the lowest correlations."""
    lines = changes.filter(pc.equal(changes["map"], name)) if name else changes.slice(0, 0)
    order = pc.sort_indices(lines, [("flipped", "descending"), ("correlation", "ascending")])[:SHOWN]
    found: list[dict[str, Any]] = lines.take(order).to_pylist()
    return [line for line in found if line["flipped"] or (line["correlation"] is not None and line["correlation"] < 1)]


def job_differences(a: Export, b: Export) -> list[str]:
    """Keys of the config that differ and decide results; and the model, where no key says that it is another."""
    trees = [_deciding(made.manifest.config) for made in (a, b)]
    found = differences(trees[0], trees[1], ("in A", "in B"))
    for what in ("model", "head"):
        prints = {getattr(made.manifest, f"{what}_fingerprint") for made in (a, b)}
        if len(prints) > 1 and trees[0]["model"] == trees[1]["model"]:
            found.append(f"the {what} of B has other weights under the same names")
    return found


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that decides results; defaults that have come since an export was made are left out."""
    tree = fingerprinted(config)
    del tree["output"]
    # Of these the fingerprints cover what the files hold, not their names.
    for section, keys in {"input": ("shards",), "model": UNCOVERED["model"]}.items():
        tree[section] |= {key: config[section][key] for key in keys if key in config[section]}
    shareable: dict[str, Any] = shareable_config(tree)
    return shareable


def _cards(a: Export, b: Export, lines: Sequence[dict[str, Any]], name: str, folder: Path) -> list[Card]:
    rows_a, rows_b = ([line[key] for line in lines] for key in ("row_a", "row_b"))
    photos_a, photos_b = _photos(a, rows_a), _photos(b, rows_b)
    cards = []
    for number, line in enumerate(lines):
        before, after = photos_a.get(line["row_a"]), photos_b.get(line["row_b"])
        pictures = {
            "photo": before if before is not None else after,
            "a": _drawn(a, line["row_a"], name, before),
            "b": _drawn(b, line["row_b"], name, after),
        }
        files = [_saved(picture, folder, f"images/{number}-{what}.jpg") for what, picture in pictures.items()]
        cards.append(
            Card(line, change_words(line), list(zip(files, ("photo", f"A: {name}", f"B: {name}"), strict=True)))
        )
    return cards


def _photos(export: Export, rows: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """The model's view of those photos that are still at hand."""
    found: dict[int, NDArray[np.uint8]] = {}
    try:
        for row, photo in try_rows(export, rows, region=False):
            if not isinstance(photo, str):
                found[row] = photo.image
    except FinerRayError:
        # The export's config is none of this version's: without photos the page has its figures.
        return found
    return found


def _drawn(export: Export, row: int, name: str, photo: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    if photo is None:
        return None
    [heat] = export.maps([row], name, (photo.shape[0], photo.shape[1]))
    return (overlay(photo, heat) * 255).round().astype(np.uint8)


def _saved(picture: NDArray[np.uint8] | None, folder: Path, name: str) -> str | None:
    if picture is None:
        return None
    Image.fromarray(picture).save(folder / name, quality=QUALITY)
    return name
