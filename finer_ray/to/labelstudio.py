"""Label Studio's tasks with predictions, and the labelling config that they go with.

A brush is a run-length code of the RGBA pixels, bit by bit: 32 bits for how many values there are, 5 for a value's
bits less one, four times 4 for the bits of a length less one; then for each run a 1, two bits for which of the four,
the length less one, and the value (the format of the JavaScript package rle-pack).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from finer_ray.to.region import Region, runs
from finer_ray.to.tool import Item, Made, Tool, write_array

# The label of box and brush; their class is a choice.
LABEL = "saliency"
CHANNELS, WORD, LENGTH = 4, 8, 16


def write(folder: Path, made: Made, items: Iterator[Item]) -> None:
    """Write tasks.json and config.xml."""
    with (folder / "tasks.json").open("w", encoding="utf-8") as file:
        write_array(file, (_task(item, made) for item in items))
        file.write("\n")
    ElementTree.ElementTree(_config(made.classes)).write(folder / "config.xml", encoding="utf-8")


def _config(classes: list[str]) -> ElementTree.Element:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    for kind, name in (("RectangleLabels", "box"), ("BrushLabels", "brush")):
        labels = ElementTree.SubElement(view, kind, name=name, toName="image")
        ElementTree.SubElement(labels, "Label", value=LABEL)
    choices = ElementTree.SubElement(view, "Choices", name="class", toName="image", layout="select")
    for name in classes:
        ElementTree.SubElement(choices, "Choice", value=name)
    return view


def _task(item: Item, made: Made) -> dict[str, Any]:
    line = item.line
    results = [{"from_name": "class", "to_name": "image", "type": "choices", "value": {"choices": [item.target]}}]
    if item.region is not None:
        size = {"original_width": line["width"], "original_height": line["height"], "image_rotation": 0}
        results += [part | size for part in _marks(item.region, line["width"], line["height"])]
    prediction: dict[str, Any] = {"model_version": made.version, "result": results}
    if line["probability"] is not None:
        prediction["score"] = line["probability"]
    path = quote(f"{made.name}/{item.shown}")
    known = {"row": line["row"], "key": line["key"], "map": item.map, "map_scale": item.scale, "label": item.label}
    return {"data": {"image": f"/data/local-files/?d={path}", **known}, "predictions": [prediction]}


def _marks(region: Region, width: int, height: int) -> list[dict[str, Any]]:
    """The box, in per cent of the photo, and the brush."""
    x, y, wide, high = region.box
    box = {"x": 100 * x / width, "y": 100 * y / height, "width": 100 * wide / width, "height": 100 * high / height}
    brush = {"format": "rle", "rle": brush_code(region.mask)}
    return [
        {"from_name": "box", "to_name": "image", "type": "rectanglelabels",
         "value": box | {"rotation": 0, "rectanglelabels": [LABEL]}},
        {"from_name": "brush", "to_name": "image", "type": "brushlabels", "value": brush | {"brushlabels": [LABEL]}},
    ]  # fmt: skip


def brush_code(mask: NDArray[np.bool_]) -> list[int]:
    """A mask (height, width) as a brush: bytes, of pixels that are 0 outside and 255 in all channels inside."""
    bits = [f"{mask.size * CHANNELS:032b}", f"{WORD - 1:05b}", f"{LENGTH - 1:04b}" * 4]
    for place, length in enumerate(runs(mask.ravel())):
        left, value = length * CHANNELS, 255 * (place % 2)
        while left:
            now = min(left, 2**LENGTH)
            bits.append(f"111{now - 1:0{LENGTH}b}{value:0{WORD}b}")
            left -= now
    text = "".join(bits)
    return list(int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8)))


LABELSTUDIO = Tool(
    "labelstudio",
    write,
    "import {folder}/tasks.json into a project with {folder}/config.xml, whose local storage is {folder}; "
    "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the folder around it",
)
