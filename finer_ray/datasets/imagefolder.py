"""Image folders: CLASS/**/image, or SPLIT/CLASS/**/image where every folder on top has the name of a split.

Classes are the folders' names in alphabetical order, over all splits.
"""

from finer_ray.datasets.dataset import Choice, Dataset
from finer_ray.datasets.listing import Findings, Listing, Record, clean_names, split_name, unique_keys
from finer_ray.datasets.tree import Tree
from finer_ray.errors import InputError
from finer_ray.shards.splits import is_split


def read(source: str, choice: Choice) -> Listing:
    """List an image folder. Raises InputError where it holds no folder with images."""
    tree = Tree(source)
    findings = Findings()
    files = tree.files("", findings)
    tops = {path.split("/")[0] for path in files if "/" in path}
    split = bool(tops) and all(map(is_split, tops))
    depth = 2 if split else 1
    kept = {path: path.split("/") for path in files if path.count("/") >= depth}
    if not kept:
        raise InputError(
            f"--source: no folder with images in {str(tree.root)!r}; expected CLASS/NAME.jpg or train/CLASS/NAME.jpg"
        )
    for path in files:
        if path not in kept:
            findings.add("surplus", path, "it lies in no class's folder")
    names = sorted({parts[depth - 1] for parts in kept.values()})
    labels = {name: label for label, name in enumerate(names)}
    classes = clean_names(names)
    records = []
    for (path, parts), key in zip(kept.items(), unique_keys(kept), strict=True):
        label = labels[parts[depth - 1]]
        side = split_name(parts[0]) if split else None
        records.append(Record(key, path, files[path], side, label, classes[label]))
    return Listing(records, classes, findings)


IMAGEFOLDER = Dataset("imagefolder", "`CLASS/**/image`, or `train/CLASS/**/image`", read)
