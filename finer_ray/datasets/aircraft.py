"""FGVC-Aircraft as published: fgvc-aircraft-2013b/data with images/, lists by level and split, and images_box.txt.

Boxes are xmin, ymin, xmax, ymax of pixels counted from 1, the last one inside: as edges xmin - 1, ymin - 1, xmax,
ymax. Every photo ends in a banner of 20 pixels that names its author; files are packed as they are, and
`banner_pixels` tells.
"""

import json
from collections.abc import Mapping

from finer_ray.datasets.dataset import Choice, Dataset
from finer_ray.datasets.lines import names_only, numbers
from finer_ray.datasets.listing import Box, Findings, Listing, Record, checked_box, clean_names, unique_keys
from finer_ray.datasets.tree import Tree, present, report_surplus
from finer_ray.errors import InputError

SPLITS = ("train", "val", "test")
NAMES = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}
PLACES = ("", "data/", "fgvc-aircraft-2013b/data/")
BANNER = 20
BOX = {"image": int, "x1": float, "y1": float, "x2": float, "y2": float}


def read(source: str, choice: Choice) -> Listing:
    """List FGVC-Aircraft. Raises InputError where the label level's lists are not there."""
    tree = Tree(source)
    base = next((place for place in PLACES if tree.has(f"{place}images_{choice.label}_test.txt")), None)
    if base is None:
        raise InputError(
            f"--source: no images_{choice.label}_test.txt in {str(tree.root)!r}, its data/, or {PLACES[-1]}"
        )
    findings = Findings()
    levels = {level: _lists(tree, base, level, findings) for level in NAMES}
    names = _names(tree, base, choice.label, levels[choice.label], findings)
    labels = {name: label for label, name in reversed(list(enumerate(names)))}
    classes = clean_names(names)
    files = tree.files(f"{base}images", findings)
    boxes = _boxes(tree, base, findings)
    kept: dict[str, str] = {}
    for image, (split, _) in levels[choice.label].items():
        path = f"{base}images/{image}.jpg"
        if present(path, files, f"{base}images_{choice.label}_{split}.txt", findings):
            kept[image] = path
    report_surplus(files, {f"{base}images/{image}.jpg" for image in levels[choice.label]}, findings)
    records = []
    for image, key in zip(kept, unique_keys(kept), strict=True):
        split, name = levels[choice.label][image]
        label = labels.get(name)
        if label is None:
            findings.add(
                "malformed", f"{base}images_{choice.label}_{split}.txt", f"{name!r} is not in {NAMES[choice.label]}"
            )
        known = {level: lists[image][1] for level, lists in levels.items() if image in lists}
        records.append(
            Record(
                key,
                kept[image],
                files[kept[image]],
                split,
                label,
                None if label is None else classes[label],
                boxes.get(image),
                notes=json.dumps({**known, "banner_pixels": BANNER}),
            )
        )
    return Listing(records, classes, findings)


def _lists(tree: Tree, base: str, level: str, findings: Findings) -> dict[str, tuple[str, str]]:
    """Split and name at one level by image, in the order of the lists."""
    found: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        name = f"{base}images_{level}_{split}.txt"
        if not tree.has(name):
            findings.add("missing", name, "packed without what it holds")
            continue
        faults = []
        for number, line in enumerate(tree.text(name).split("\n"), 1):
            image, _, title = line.strip().partition(" ")
            if image in found:
                faults.append((number, f"image {image} is listed again; left out"))
            elif title.strip():
                found[image] = (split, title.strip())
            elif image:
                faults.append((number, f"expected an image and a name, got {line[:60]!r}"))
        findings.add_lines(name, faults)
    return found


def _names(tree: Tree, base: str, level: str, lists: Mapping[str, tuple[str, str]], findings: Findings) -> list[str]:
    """Class names of a level in published order; in alphabetical order where their file is not there."""
    if tree.has(f"{base}{NAMES[level]}"):
        return names_only(tree, f"{base}{NAMES[level]}")
    findings.add("missing", f"{base}{NAMES[level]}", "labels follow the names' alphabetical order")
    return sorted({name for _, name in lists.values()})


def _boxes(tree: Tree, base: str, findings: Findings) -> dict[str, Box | None]:
    """Boxes by image. Names of images are numbers of seven digits, with leading zeros."""
    name = f"{base}images_box.txt"
    if not tree.has(name):
        findings.add("missing", name, "packed without boxes")
        return {}
    lines = zip(*(values.tolist() for values in numbers(tree, name, BOX, findings).values()), strict=True)
    return {
        f"{image:07d}": checked_box((x1 - 1, y1 - 1, x2, y2), f"{name}, image {image:07d}", findings)
        for image, x1, y1, x2, y2 in lines
    }


AIRCRAFT = Dataset(
    "aircraft", "boxes, variant, family and manufacturer; the 20-pixel banner stays, and is noted", read, tuple(NAMES)
)
