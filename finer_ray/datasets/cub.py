"""CUB-200-2011 as published: CUB_200_2011/ with its text files, and segmentations/ inside or beside it.

Boxes are taken as edges (x, y, x + width, y + height) as they stand. Segmentations are grey values that grow with the
number of annotators who saw the bird there; more than half makes a pixel part of it. Of the 312 attributes of an
image, `attribute_present` (0, 1) and `attribute_certainty` (1 to 4, see certainties.json) follow the order of
attribute_names.json, null where the file has no line.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finer_ray.datasets.dataset import Choice, Dataset
from finer_ray.datasets.lines import Columns, named, numbers
from finer_ray.datasets.listing import Findings, Listing, Mask, Record, checked_box, clean_names, unique_keys
from finer_ray.datasets.phrases import phrases
from finer_ray.datasets.tree import Tree, present, report_surplus
from finer_ray.errors import InputError

HALF = 127
VOTES = {"image": int, "attribute": int, "present": int, "certainty": int, "time": float}
BOX = {"image": int, "x": float, "y": float, "width": float, "height": float}
PART = {"image": int, "part": int, "x": float, "y": float, "visible": int}


def read(source: str, choice: Choice) -> Listing:
    """List CUB-200-2011. Raises InputError where images.txt, image_class_labels.txt or classes.txt is not there."""
    tree = Tree(source)
    base = next((base for base in ("", "CUB_200_2011/") if tree.has(f"{base}images.txt")), None)
    if base is None:
        raise InputError(f"--source: neither images.txt nor CUB_200_2011/images.txt in {str(tree.root)!r}")
    findings = Findings()
    paths = named(tree, f"{base}images.txt", findings)
    folders = named(tree, f"{base}classes.txt", findings)
    owners = numbers(tree, f"{base}image_class_labels.txt", {"image": int, "class": int}, findings)
    classes = clean_names(_readable(folder) for folder in folders.values())
    files = tree.files(f"{base}images", findings)
    kept = _kept({image: f"{base}images/{path}" for image, path in paths.items()}, files, base, findings)
    labels = _labels(owners, folders)
    splits, boxes = _splits(tree, base, findings), _boxes(tree, base, findings)
    masks = _masks(tree, base, {image: path.rsplit(".", 1)[0] for image, path in paths.items()}, findings)
    parts = _parts(tree, base, findings)
    names, tables = _tables(tree, base, list(folders), classes, findings)
    votes = _Votes(tree, base, list(paths), len(names), findings)
    published = list(folders.values())
    records = []
    for image, key in zip(kept, unique_keys(paths[image] for image in kept), strict=True):
        label = labels.get(image)
        if label is None:
            findings.add("malformed", f"{base}image_class_labels.txt", f"no class of classes.txt for image {image}")
        notes = {
            "image_id": image,
            "class": None if label is None else published[label],
            "parts": parts.get(image, {}),
            **votes.of(image),
        }
        records.append(
            Record(
                key,
                kept[image],
                files[kept[image]],
                splits.get(image),
                label,
                None if label is None else classes[label],
                boxes.get(image),
                masks.get(image),
                json.dumps(notes),
            )
        )
    return Listing(records, classes, findings, tables)


def _readable(folder: str) -> str:
    """`001.Black_footed_Albatross` as `Black footed Albatross`."""
    head, dot, tail = folder.partition(".")
    return (tail if dot and head.isdigit() else folder).replace("_", " ")


def _kept(paths: Mapping[int, str], files: Mapping[str, int], base: str, findings: Findings) -> dict[int, str]:
    """Paths of the images that are there, each once."""
    kept: dict[int, str] = {}
    seen: set[str] = set()
    for image, path in paths.items():
        if path in seen:
            findings.add("malformed", f"{base}images.txt", f"{path} is listed again as image {image}; left out")
        elif present(path, files, f"{base}images.txt", findings):
            kept[image] = path
        seen.add(path)
    report_surplus(files, seen, findings)
    return kept


def _labels(owners: Columns, folders: Mapping[int, str]) -> dict[int, int]:
    """Class indices by image: places of the class ids in classes.txt, ids less one in the whole set."""
    places = {number: place for place, number in enumerate(folders)}
    pairs = zip(owners["image"].tolist(), owners["class"].tolist(), strict=True)
    return {image: places[owner] for image, owner in pairs if owner in places}


def _optional(tree: Tree, name: str, types: Mapping[str, type[int | float]], findings: Findings) -> Columns:
    """As `numbers`; a file that is not there is a finding, and empty."""
    if tree.has(name):
        return numbers(tree, name, types, findings)
    findings.add("missing", name, "packed without what it holds")
    return {key: np.zeros(0) for key in types}


def _splits(tree: Tree, base: str, findings: Findings) -> dict[int, str]:
    columns = _optional(tree, f"{base}train_test_split.txt", {"image": int, "train": int}, findings)
    pairs = zip(columns["image"].tolist(), columns["train"].tolist(), strict=True)
    return {image: "train" if train else "test" for image, train in pairs}


def _boxes(tree: Tree, base: str, findings: Findings) -> dict[int, Any]:
    name = f"{base}bounding_boxes.txt"
    lines = zip(*(values.tolist() for values in _optional(tree, name, BOX, findings).values()), strict=True)
    return {
        image: checked_box((x, y, x + width, y + height), f"{name}, image {image}", findings)
        for image, x, y, width, height in lines
    }


def _parts(tree: Tree, base: str, findings: Findings) -> dict[int, dict[str, list[float] | None]]:
    """Part locations by image and part name: x, y in pixels, null where the part is not visible."""
    if not tree.has(f"{base}parts/parts.txt"):
        findings.add("missing", f"{base}parts/parts.txt", "packed without part locations")
        return {}
    names = named(tree, f"{base}parts/parts.txt", findings)
    columns = _optional(tree, f"{base}parts/part_locs.txt", PART, findings)
    parts: dict[int, dict[str, list[float] | None]] = {}
    for image, part, x, y, visible in zip(*(values.tolist() for values in columns.values()), strict=True):
        if part in names:
            parts.setdefault(image, {})[names[part]] = [x, y] if visible else None
    return parts


def _masks(tree: Tree, base: str, stems: Mapping[int, str], findings: Findings) -> dict[int, Mask]:
    """Segmentations by image, from whichever of the two places has them; none where neither is there."""
    folder = next((name for name in (f"{base}segmentations", "segmentations") if tree.has(name)), None)
    if folder is None:
        return {}
    found = tree.files(folder, findings, (".png",))
    places = {image: f"{folder}/{stem}.png" for image, stem in stems.items()}
    report_surplus(found, set(places.values()), findings)
    return {
        image: Mask(path, HALF, found[path])
        for image, path in places.items()
        if present(path, found, f"{base}images.txt, as {stems[image]}", findings)
    }


def _tables(
    tree: Tree, base: str, ids: list[int], classes: list[str], findings: Findings
) -> tuple[list[str], dict[str, Any]]:
    """Attribute names in order, and the tables: names and phrases, strengths by class, names of certainties."""
    places = dict.fromkeys((f"{base}attributes/attributes.txt", f"{base}attributes.txt", "attributes.txt"))
    name = next((place for place in places if tree.has(place)), None)
    if name is None:
        findings.add(
            "missing", "attributes.txt", "packed without attributes; in the archive it lies beside CUB_200_2011"
        )
        return [], {}
    names = list(named(tree, name, findings).values())
    spoken = phrases(names)
    tables: dict[str, Any] = {"attribute_names.json": spoken}
    if tree.has(sure := f"{base}attributes/certainties.txt"):
        tables["certainties.json"] = named(tree, sure, findings)
    strengths = f"{base}attributes/class_attribute_labels_continuous.txt"
    columns = _optional(tree, strengths, dict.fromkeys(names, float), findings)
    shares = np.stack(list(columns.values()), 1) / 100 if names else np.zeros((0, 0))
    if len(shares) == len(ids):
        tables["attributes.json"] = {
            owner: dict(zip(spoken.values(), row, strict=True))
            for owner, row in zip(classes, shares.round(6).tolist(), strict=True)
        }
    elif len(shares):
        findings.add("malformed", strengths, f"{len(shares)} lines for {len(ids)} classes; not used")
    return names, tables


class _Votes:
    """Attributes by image: (images, attributes) int8 tables of presence and certainty, -1 where there is no line."""

    def __init__(self, tree: Tree, base: str, images: list[int], attributes: int, findings: Findings) -> None:
        self._rows = {image: row for row, image in enumerate(images)}
        self._present: NDArray[np.int8] = np.full((len(images), attributes), -1, np.int8)
        self._certainty = self._present.copy()
        name = f"{base}attributes/image_attribute_labels.txt"
        if not attributes or not images:
            return
        columns = _optional(tree, name, VOTES, findings)
        order = np.argsort(images)
        ids = np.asarray(images)[order]
        places = np.searchsorted(ids, columns["image"]).clip(max=len(ids) - 1)
        known = (ids[places] == columns["image"]) & (columns["attribute"] >= 1) & (columns["attribute"] <= attributes)
        if not known.all():
            findings.add("malformed", name, f"{(~known).sum()} lines of images or attributes not listed; left out")
        rows, slots = order[places[known]], columns["attribute"][known].astype(np.int64) - 1
        self._present[rows, slots] = columns["present"][known]
        self._certainty[rows, slots] = columns["certainty"][known]

    def of(self, image: int) -> dict[str, list[int | None]]:
        """The notes of one image."""
        row = self._rows[image]
        if not self._present.shape[1]:
            return {}
        return {
            "attribute_present": _or_null(self._present[row]),
            "attribute_certainty": _or_null(self._certainty[row]),
        }


def _or_null(values: NDArray[np.int8]) -> list[int | None]:
    return [None if value < 0 else value for value in values.tolist()]


CUB = Dataset(
    "cub",
    "boxes, parts, 312 attributes with certainty, segmentations; attribute strengths by class",
    read,
    ("species",),
)
