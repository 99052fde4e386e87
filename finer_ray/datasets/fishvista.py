"""Fish-Vista as its Hugging Face repository has it: TASK_SPLIT.csv, Images/ (or AllImages/), segmentation_masks/.

Classes are the species, or families, of all splits of a task in alphabetical order. A segmentation holds a trait's
number per pixel (`segmentation_values` names them); the mask is where there is any, and goes with an image
in every task. What else the CSV says of an image is kept in its notes, and the traits' presence by species, as a mean
over a task's images, in attributes.json.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from finer_ray.config.messages import brief
from finer_ray.datasets.dataset import Choice, Dataset
from finer_ray.datasets.lines import rows
from finer_ray.datasets.listing import (
    Findings,
    Listing,
    Mask,
    Record,
    clean_names,
    split_name,
    unique_keys,
)
from finer_ray.datasets.tree import Tree, present, report_surplus
from finer_ray.errors import InputError

TASKS = ("classification", "identification", "segmentation")
COLUMNS = {"species": "standardized_species", "family": "family"}
FOLDERS = ("Images", "AllImages")
MASKS, TRAIT_NAMES = "segmentation_masks/images", "segmentation_masks/seg_id_trait_map.json"
TRAITS = ("adipose_fin", "pelvic_fin", "barbel", "multiple_dorsal_fin")
# A collation of the task's splits.
WHOLE = "data"
Row = dict[str, str]


def read(source: str, choice: Choice) -> Listing:
    """List a task of Fish-Vista. Raises InputError where it has no CSV, or one without the columns needed."""
    tree = Tree(source)
    findings = Findings()
    lists = _lists(tree, choice.task)
    if not lists:
        raise InputError(f"--source: no {choice.task}_*.csv in {str(tree.root)!r}")
    column = COLUMNS[choice.label]
    lines = [(split, name, row) for name, split in lists.items() for row in _rows(tree, name, column, findings)]
    names = sorted({row[column] for _, _, row in lines if row[column]})
    labels = {name: label for label, name in enumerate(names)}
    classes = clean_names(names)
    files = {
        path: size for folder in FOLDERS if tree.has(folder) for path, size in tree.files(folder, findings).items()
    }
    places = _Places(files)
    kept: dict[str, tuple[str | None, Row]] = {}
    for side, where, row in lines:
        path = places.of(row)
        if path in kept:
            findings.add("malformed", where, f"{path} is listed again; left out")
        elif present(path, files, where, findings):
            kept[path] = (side, row)
    report_surplus(files, {places.of(row) for row in _all_rows(tree, lines)}, findings)
    masks, values = _masks(tree, findings), _trait_names(tree, findings)
    records = []
    for (path, (split, row)), key in zip(kept.items(), unique_keys(kept), strict=True):
        label = labels.get(row[column])
        mask = masks.get(_stem(path))
        notes: dict[str, Any] = {"traits": _traits(row)} if _traits(row) else {}
        notes.update({said: text for said, text in row.items() if said not in TRAITS and text})
        if mask is None and choice.task == "segmentation":
            findings.add("missing", f"{MASKS}/{_stem(path)}.png", f"the segmentation of {path}")
        if mask is not None:
            notes["segmentation_values"] = values
        name = None if label is None else classes[label]
        records.append(Record(key, path, files[path], split, label, name, None, mask, json.dumps(notes)))
    tables = _tables((row for _, row in kept.values()), column, labels, classes)
    return Listing(records, classes, findings, tables)


def _lists(tree: Tree, task: str) -> dict[str, str | None]:
    """CSV files of a task and their splits."""
    found = {
        path.name: split_name(path.stem.removeprefix(f"{task}_")) for path in sorted(tree.root.glob(f"{task}_*.csv"))
    }
    whole = found.pop(f"{task}_{WHOLE}.csv", None)
    return dict(found) if found or whole is None else {f"{task}_{WHOLE}.csv": None}


def _rows(tree: Tree, name: str, column: str, findings: Findings) -> list[Row]:
    lines = [row for _, row in rows(tree, name, findings)]
    if lines and ("filename" not in lines[0] or column not in lines[0]):
        raise InputError(f"--source: {name} has no column filename or {column}; columns: {', '.join(lines[0])}")
    return lines


def _all_rows(tree: Tree, lines: Iterable[tuple[str | None, str, Row]]) -> Iterable[Row]:
    """Rows of every task, so that an image which another task names is not called surplus."""
    yield from (row for _, _, row in lines)
    for path in sorted(tree.root.glob("*_*.csv")):
        if path.name.startswith(TASKS):
            yield from (row for _, row in rows(tree, path.name, Findings()))


class _Places:
    """Where an image lies: at the row's `file_name`, or wherever a file has its `filename`."""

    def __init__(self, files: Mapping[str, int]) -> None:
        self._files = files
        self._by_name = {path.rsplit("/", 1)[1]: path for path in reversed(list(files))}

    def of(self, row: Row) -> str:
        """Its path, or where it should be."""
        listed, name = row.get("file_name", ""), row.get("filename", "")
        if listed in self._files:
            return listed
        return self._by_name.get(name, listed or f"{FOLDERS[0]}/{name}")


def _masks(tree: Tree, findings: Findings) -> dict[str, Mask]:
    found = tree.files(MASKS, findings, (".png",)) if tree.has(MASKS) else {}
    return {_stem(path): Mask(path, 0, size) for path, size in found.items()}


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _trait_names(tree: Tree, findings: Findings) -> dict[str, str]:
    if not tree.has(TRAIT_NAMES):
        return {}
    try:
        return {str(number): str(name) for number, name in json.loads(tree.text(TRAIT_NAMES)).items()}
    except (ValueError, RecursionError, AttributeError) as error:
        findings.add("malformed", TRAIT_NAMES, f"not a JSON object ({brief(error)}); traits stay unnamed")
        return {}


def _traits(row: Row) -> dict[str, int]:
    """1 for present, 0 for absent; unknown ones (empty, NA, -1) left out."""
    known = {trait: row.get(trait, "").removesuffix(".0") for trait in TRAITS}
    return {trait: int(value) for trait, value in known.items() if value in ("0", "1")}


def _tables(rows: Iterable[Row], column: str, labels: Mapping[str, int], classes: list[str]) -> dict[str, Any]:
    """Means of the traits by class, where a task tells them."""
    seen: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for trait, value in _traits(row).items():
            seen[row[column]][trait.replace("_", " ")].append(value)
    strengths = {
        classes[labels[name]]: {trait: sum(values) / len(values) for trait, values in seen[name].items()}
        for name in labels
        if name in seen
    }
    return {"attributes.json": strengths} if strengths else {}


FISHVISTA = Dataset(
    "fishvista", "segmentations by trait, trait labels, licence and source", read, tuple(COLUMNS), TASKS
)
