"""Plain PNGs with an index: a line of JSON for each map."""

import json
from collections.abc import Iterator
from pathlib import Path

from finer_ray.to.tool import Item, Made, Tool, write_array


def write(folder: Path, made: Made, items: Iterator[Item]) -> None:
    """Write index.json."""
    with (folder / "index.json").open("w", encoding="utf-8") as file:
        file.write(f'{{"map": {json.dumps(made.map)}, "images": ')
        write_array(file, map(_entry, items))
        file.write("}\n")


def _entry(item: Item) -> dict[str, object]:
    known = {name: item.line[name] for name in ("row", "key", "shard", "width", "height", "probability")}
    classes = {"label": item.label, "target": item.target, "predicted": item.predicted}
    return known | classes | {"file": item.map, "scale": item.scale}


PNG = Tool("png", write, "{folder}/index.json says which image each PNG is of", photos=False)
