"""Birds-525 as published: train/, valid/ and test/ with a folder per species, and birds.csv, which names them all.

With the CSV, labels are its class ids; without it, the species' alphabetical order. Names that differ in their blanks
only, of which the published CSV has some, are taken for one.
"""

import json

from finer_ray.errors import InputError
from finer_ray.shards.datasets import imagefolder
from finer_ray.shards.datasets.choice import Choice
from finer_ray.shards.datasets.lines import rows
from finer_ray.shards.datasets.listing import Findings, Listing, Record, clean_names, split_name, unique_keys
from finer_ray.shards.datasets.tree import Tree, present, report_surplus

LABELS: tuple[str, ...] = ("species",)
TASKS: tuple[str, ...] = ()
CSV = "birds.csv"
NEEDED = ("class id", "filepaths", "labels", "data set")


def read(source: str, choice: Choice) -> Listing:
    """List Birds-525. Raises InputError where birds.csv lacks a column, or there is neither it nor a split's folder."""
    tree = Tree(source)
    if not tree.has(CSV):
        listing = imagefolder.read(source, choice)
        listing.findings.add("missing", CSV, "labels follow the species' alphabetical order")
        return listing
    findings = Findings()
    lines = list(rows(tree, CSV, findings))
    absent = [name for name in NEEDED if lines and name not in lines[0][1]]
    if absent or not lines:
        raise InputError(f"--source: {CSV} has no column {', '.join(absent or NEEDED)}")
    files = {path: size for path, size in tree.files("", findings).items() if "/" in path}
    loose = {_one_blank(path): path for path in reversed(list(files))}
    species: dict[int, str] = {}
    kept: dict[str, tuple[int, dict[str, str]]] = {}
    named: set[str] = set()
    for number, row in lines:
        where = f"{CSV}, line {number}"
        owner, path = _class_id(row["class id"]), row["filepaths"]
        if path not in files and (real := loose.get(_one_blank(path))) is not None:
            findings.add("malformed", where, f"{real} differs in its blanks only; taken for the same")
            path = real
        if path in named:
            findings.add("malformed", where, f"{path} is listed again; left out")
        elif owner is None:
            findings.add("malformed", where, f"the class id {row['class id']!r} is no number; left out")
        elif present(path, files, where, findings):
            kept[path] = (owner, row)
        named.add(path)
        if owner is not None:
            species.setdefault(owner, row["labels"])
    report_surplus(files, named, findings)
    classes = clean_names(species[owner] for owner in sorted(species))
    labels = {owner: label for label, owner in enumerate(sorted(species))}
    records = []
    for (path, (owner, row)), key in zip(kept.items(), unique_keys(kept), strict=True):
        label = labels[owner]
        notes = json.dumps({"scientific_name": row.get("scientific name") or None})
        records.append(Record(key, path, files[path], split_name(row["data set"]), label, classes[label], notes=notes))
    return Listing(records, classes, findings)


def _class_id(text: str) -> int | None:
    """The CSV writes them as floats in some versions."""
    whole = text.removesuffix(".0")
    return int(whole) if whole.isascii() and whole.isdigit() and len(whole) < 10 else None


def _one_blank(path: str) -> str:
    return "/".join(" ".join(part.split()) for part in path.split("/"))
