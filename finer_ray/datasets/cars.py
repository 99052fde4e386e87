"""Stanford Cars in both published forms: devkit/ with cars_train/ and cars_test/, or cars_annos.mat with car_ims/.

Boxes are Matlab's: pixels counted from 1, the last one inside. As edges they are x1 - 1, y1 - 1, x2, y2.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from finer_ray.config.messages import brief
from finer_ray.datasets.dataset import Choice, Dataset
from finer_ray.datasets.listing import Box, Findings, Listing, Record, checked_box, clean_names, unique_keys
from finer_ray.datasets.tree import Tree, present, report_surplus
from finer_ray.errors import InputError

LABELLED = ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")
CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def read(source: str, choice: Choice) -> Listing:
    """List Stanford Cars. Raises InputError where neither form is there, or a .mat file cannot be read."""
    tree = Tree(source)
    findings = Findings()
    if tree.has("cars_annos.mat"):
        classes = clean_names(_class_names(tree.path("cars_annos.mat")))
        lines = list(_one_file(tree))
        files = tree.files("car_ims", findings) if tree.has("car_ims") else {}
    elif tree.has("devkit/cars_meta.mat"):
        classes = clean_names(_class_names(tree.path("devkit/cars_meta.mat")))
        lines = list(_devkit(tree, findings))
        files = {path: size for folder in _folders(tree) for path, size in tree.files(folder, findings).items()}
    else:
        raise InputError(f"--source: neither devkit/cars_meta.mat nor cars_annos.mat in {str(tree.root)!r}")
    kept = []
    seen: set[str] = set()
    for path, split, entry, where in lines:
        if path in seen:
            findings.add("malformed", where, f"{path} is listed again; left out")
        elif present(path, files, where, findings):
            kept.append((path, split, entry, where))
        seen.add(path)
    report_surplus(files, seen, findings)
    records = []
    for (path, split, entry, where), key in zip(kept, unique_keys(line[0] for line in kept), strict=True):
        label = _label(entry, len(classes), f"{where}, {path}", findings)
        name = None if label is None else classes[label]
        box = _box(entry, f"{where}, {path}", findings)
        records.append(Record(key, path, files[path], split, label, name, box))
    return Listing(records, classes, findings)


def _folders(tree: Tree) -> list[str]:
    return [folder for folder in ("cars_train", "cars_test") if tree.has(folder)]


def _devkit(tree: Tree, findings: Findings) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Path, split, entry and file of each image; the test set from the file with labels where there is one."""
    test = next((name for name in LABELLED if tree.has(name)), "devkit/cars_test_annos.mat")
    for split, name in (("train", "devkit/cars_train_annos.mat"), ("test", test)):
        if not tree.has(name):
            findings.add("missing", name, f"packed without the {split} images")
            continue
        for entry in _annotations(tree.path(name)):
            yield f"cars_{split}/{entry.get('fname', '')}", split, entry, name


def _one_file(tree: Tree) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    for entry in _annotations(tree.path("cars_annos.mat")):
        yield str(entry.get("relative_im_path", "")), "test" if entry.get("test") else "train", entry, "cars_annos.mat"


def _annotations(path: Path) -> list[dict[str, Any]]:
    found = _variable(path, "annotations")
    entries = [found] if isinstance(found, dict) else list(found)
    if not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"--source: {path.name}: annotations is no struct array")
    return entries


def _class_names(path: Path) -> list[str]:
    found = _variable(path, "class_names")
    return [found] if isinstance(found, str) else [str(name) for name in found]


def _variable(path: Path, name: str) -> Any:
    """A variable of a Matlab 5 file, as Python and NumPy values. Raises InputError."""
    # Here, because the command line asks for the names of all data sets.
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=[name], simplify_cells=True)
    except Exception as error:
        raise InputError(f"--source: {path.name} cannot be read as a Matlab 5 file: {brief(error)}") from None
    if name not in found:
        raise InputError(f"--source: {path.name} has no variable {name}")
    return found[name]


def _label(entry: dict[str, Any], count: int, where: str, findings: Findings) -> int | None:
    """The class from 0; None where the file, as the test file without labels, has none."""
    if "class" not in entry:
        return None
    number = entry["class"]
    if isinstance(number, int | float | np.number) and number in range(1, count + 1):
        return int(number) - 1
    findings.add("malformed", where, f"class {number!r} is not among the {count} of class_names")
    return None


def _box(entry: dict[str, Any], where: str, findings: Findings) -> Box | None:
    try:
        x1, y1, x2, y2 = (float(entry[corner]) for corner in CORNERS)
    except (KeyError, TypeError, ValueError):
        findings.add("malformed", where, f"no box of four numbers {', '.join(CORNERS)}")
        return None
    return checked_box((x1 - 1, y1 - 1, x2, y2), where, findings)


CARS = Dataset("cars", "boxes (devkit, or `cars_annos.mat`)", read, ("model",))
