"""COCO's annotations: https://cocodataset.org/#format-data."""

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import Any

from finer_ray.to.region import Region, runs
from finer_ray.to.tool import Item, Made, Tool, write_array


def write(folder: Path, made: Made, items: Iterator[Item]) -> None:
    """Write annotations.json: an annotation for each map that is not zero everywhere.

    Its segmentation is an uncompressed run-length code, which COCO gives to crowds and pycocotools reads of any
    annotation; `iscrowd` is 0, because evaluation leaves crowds out.
    """
    head = {
        "info": {"description": f"{made.map}, regions from {made.threshold:g} of the maximum", "version": made.version},
        "licenses": [],
        "categories": [{"id": index, "name": name} for index, name in enumerate(made.classes, start=1)],
    }
    with (
        (folder / "annotations.json").open("w", encoding="utf-8") as file,
        TemporaryFile("w+", encoding="utf-8") as annotations,
    ):
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "images": ')
        write_array(file, _images(items, annotations))
        file.write(', "annotations": [')
        annotations.seek(0)
        copyfileobj(annotations, file)
        file.write("\n]}\n")


def _images(items: Iterator[Item], annotations: Any) -> Iterator[dict[str, Any]]:
    """Entries of images; the annotation of each goes to a file of its own, which is appended at the end."""
    separator = "\n"
    for item in items:
        if item.region is not None:
            annotations.write(separator + json.dumps(_annotation(item, item.region)))
            separator = ",\n"
        yield {
            "id": item.line["row"],
            "file_name": item.shown,
            "width": item.line["width"],
            "height": item.line["height"],
            "key": item.line["key"],
            "map": item.map,
            "map_scale": item.scale,
        }


def _annotation(item: Item, region: Region) -> dict[str, Any]:
    mask, score = region.mask, item.line["probability"]
    return {
        # COCO's own evaluation takes an annotation 0 for none.
        "id": item.line["row"] + 1,
        "image_id": item.line["row"],
        "category_id": item.line["target"] + 1,
        "bbox": list(region.box),
        "area": int(mask.sum()),
        # Columns one after the other.
        "segmentation": {"size": list(mask.shape), "counts": runs(mask.ravel(order="F"))},
        "iscrowd": 0,
    } | ({} if score is None else {"score": score})


COCO = Tool("coco", write, 'pycocotools.coco.COCO("{folder}/annotations.json")')
