"""FiftyOne's own data sets: samples.json and metadata.json, with the fields' files in fields/FIELD.

The form without a version, which FiftyOne takes for one to be checked against its present one; the kinds of the fields
it finds in the samples.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finer_ray.to.tool import Item, Made, Tool, write_array


def write(folder: Path, made: Made, items: Iterator[Item]) -> None:
    """Write samples.json and metadata.json."""
    with (folder / "samples.json").open("w", encoding="utf-8") as file:
        file.write('{"samples": ')
        write_array(file, map(_sample, items))
        file.write("}\n")
    about = {"map": made.map, "version": made.version, "threshold": made.threshold}
    (folder / "metadata.json").write_text(json.dumps({"media_type": "image", "info": about}), encoding="utf-8")


def _sample(item: Item) -> dict[str, Any]:
    line = item.line
    sample: dict[str, Any] = {
        "filepath": item.shown,
        "tags": [] if item.photo else ["map only"],
        "row": line["row"],
        "key": line["key"],
        "shard": line["shard"],
        "prediction": _class(item.predicted, line["predicted_probability"]),
        "target": _class(item.target, line["probability"]),
        "saliency": {"_cls": "Heatmap", "map_path": item.map, "range": [0, 255]},
        "saliency_scale": item.scale,
        **item.metrics,
    }
    if item.label is not None:
        sample["ground_truth"] = _class(item.label)
    if item.region is not None:
        x, y, width, height = item.region.box
        share = [x / line["width"], y / line["height"], width / line["width"], height / line["height"]]
        detection = {"_cls": "Detection", "label": item.target, "bounding_box": share}
        sample["region"] = {"_cls": "Detections", "detections": [detection]}
    if item.embedding is not None:
        sample["embedding"] = item.embedding.tolist()
    return sample


def _class(name: str, confidence: float | None = None) -> dict[str, Any]:
    return {"_cls": "Classification", "label": name} | ({} if confidence is None else {"confidence": confidence})


FIFTYONE = Tool(
    "fiftyone",
    write,
    'fiftyone.Dataset.from_dir("{folder}", dataset_type=fiftyone.types.FiftyOneDataset)',
    maps="fields/saliency",
)
