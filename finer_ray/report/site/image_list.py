"""The list of image pages as data: what the gallery, and Next and Previous, sort and filter by."""

import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finer_ray.metrics.table import REPORTED
from finer_ray.report.site.embedding_map import embedding_map
from finer_ray.report.site.map_data import input_size, main_map
from finer_ray.store.batches import of_rows
from finer_ray.store.reading import Export

# A column of texts with more values than this is searched for a text, not chosen from a list.
CHOICES = 100


def image_list(export: Export, rows: Sequence[int], lacking: Collection[int]) -> dict[str, Any]:
    """What the pages' scripts need of all image pages, in columns.

    Args:
        export: any.
        rows: n rows of images, sorted.
        lacking: those of them whose photo is not at hand.

    Returns:
        `rows`, `keys`, `sizes` (height and width of the shown photo), `lacking`; `names` of the classes that occur;
        `label`, `target`, `predicted`, numbers of classes; the `fields` of `_fields` that some image has; `map`, x and
        y of `embedding_map`, or None.
    """
    images = of_rows(export.images, rows)
    names = export.manifest.classes
    numbers = {name: images[name].to_pylist() for name in ("label", "target", "predicted")}
    seen = sorted({number for column in numbers.values() for number in column if number is not None})
    places = embedding_map(export, rows)
    sizes = images.select(["input_height", "input_width"]).to_pylist()
    return {
        "rows": list(rows),
        "keys": images["key"].to_pylist(),
        "sizes": [list(input_size(export, line)) for line in sizes],
        "lacking": sorted(lacking),
        "names": {number: names[number] for number in seen},
        **numbers,
        "fields": [field for field in _fields(export, images) if any(value is not None for value in field["values"])],
        "map": None if places is None else [[_plain(value) for value in place] for place in places.tolist()],
    }


def listing_script(listed: dict[str, Any]) -> str:
    """A script that sets `finerRayImages`; nothing in it can end a script element, wherever it is put."""
    text = json.dumps(listed, separators=(",", ":"), allow_nan=False)
    return f"window.finerRayImages={text.replace('<', chr(92) + 'u003c')};\n"


def _fields(export: Export, images: pa.Table) -> Iterator[dict[str, Any]]:
    """What images have to be sorted and filtered by: `name` in the address, `title`, `words`, `kind`, and `values`,
    null where an image has none.

    Of kind `number`: `best` is `high` or `low` where one of them is better, else null. Of kind `choice`: values are
    places in `options`, and `keys` are what stands for them in the address. Of kind `text`: values are texts.
    """
    names = export.manifest.classes
    if images["label"].null_count < len(images):
        yield _verdicts(images)
    yield _classes("label", images["label"], names)
    yield _classes("predicted", images["predicted"], names)
    confidences = images["predicted_probability"].to_pylist()
    yield _number("confidence", confidences, "confidence", "probability of the predicted class")
    yield _number("margin", _margins(images), "margin", "logit of the target less that of its closest reference")
    if export.manifest.layout.maps:
        name = main_map(export)
        mine = export.metrics.filter(pc.equal(export.metrics["map"], name))
        places = pc.index_in(images["row"], mine["row"].combine_chunks())
        for metric in REPORTED.values():
            best = "high" if metric.higher_is_better else "low"
            values = pc.cast(mine[metric.name].take(places), pa.float64())
            yield _number(f"metric.{metric.name}", values.to_pylist(), metric.words, f"{metric.words}, of {name}", best)
    for column in export.manifest.columns:
        yield _own(column, images[column])


def _verdicts(images: pa.Table) -> dict[str, Any]:
    right = pc.equal(images["label"], images["predicted"]).to_pylist()
    texts = {True: "right", False: "wrong", None: "without a label"}
    return _choice("verdict", "prediction", [texts[value] for value in right], list(texts.values()))


def _classes(name: str, numbers: pa.ChunkedArray, names: Sequence[str]) -> dict[str, Any]:
    seen = sorted(pc.unique(numbers.drop_null()).to_pylist(), key=lambda number: (names[number].lower(), number))
    return _choice(name, name, numbers.to_pylist(), seen, [names[number] for number in seen])


def _own(column: str, values: pa.ChunkedArray) -> dict[str, Any]:
    name, plain = f"own.{column}", values.to_pylist()
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return _number(name, plain, column, column)
    texts = [str(value).lower() if isinstance(value, bool) else value or None for value in plain]
    options = sorted({text for text in texts if text is not None})
    if len(options) > CHOICES:
        return {"name": name, "title": column, "words": column, "kind": "text", "values": texts}
    return _choice(name, column, texts, options)


def _choice(
    name: str, title: str, values: Sequence[Any], keys: Sequence[Any], options: Sequence[str] | None = None
) -> dict[str, Any]:
    """A field whose values are some of `keys`, or None; `options` are their texts where those are others."""
    places = {key: place for place, key in enumerate(keys)}
    return {
        "name": name,
        "title": title,
        "words": title,
        "kind": "choice",
        "options": list(keys if options is None else options),
        "keys": [str(key) for key in keys],
        "values": [None if value is None else places[value] for value in values],
    }


def _number(
    name: str, values: Iterable[float | None], title: str, words: str, best: str | None = None
) -> dict[str, Any]:
    plain = [_plain(value) for value in values]
    return {"name": name, "title": title, "words": words, "kind": "number", "best": best, "values": plain}


def _margins(images: pa.Table) -> Iterator[float | None]:
    """The target's logit less the largest logit of its references; None where it has none."""
    for logit, others in zip(images["logit"].to_pylist(), images["reference_logits"].to_pylist(), strict=True):
        known = [other for other in others if other is not None and math.isfinite(other)]
        yield logit - max(known) if known else None


def _plain(value: float | None) -> float | None:
    """A number in six digits, whole ones as they are; JSON has no NaN."""
    if value is None or isinstance(value, int):
        return value
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.6g}")
