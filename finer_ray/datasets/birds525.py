"""Birds-525 as published: train/, valid/ and test/ with a folder per species, and birds.csv, which names them all.

With the CSV, labels are its class ids; without it, the species' alphabetical order. Names that differ in their blanks
only, of which the published CSV has some, are taken for one. So are a species without files and a folder without lines
of the same split that have the same file names: the published CSV misspells one.
"""

import json
from collections.abc import Iterable
from posixpath import basename, dirname

from finer_ray.datasets import imagefolder
from finer_ray.datasets.dataset import Choice, Dataset
from finer_ray.datasets.lines import rows
from finer_ray.datasets.listing import Findings, Listing, Record, clean_names, split_name, unique_keys
from finer_ray.datasets.tree import Tree, present, report_surplus
from finer_ray.errors import InputError

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
    joined = _misspelt((row["filepaths"] for _, row in lines), loose, findings)
    species: dict[int, str] = {}
    kept: dict[str, tuple[int, dict[str, str]]] = {}
    named: set[str] = set()
    for number, row in lines:
        where = f"{CSV}, line {number}"
        owner, path = _class_id(row["class id"]), row["filepaths"]
        if path not in files and (real := loose.get(_one_blank(path))) is not None:
            findings.add("malformed", where, f"{real} differs in its blanks only; taken for the same")
            path = real
        elif path not in files and (folder := joined.get(dirname(_one_blank(path)))) is not None:
            path = loose[f"{folder}/{basename(_one_blank(path))}"]
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


def _misspelt(listed: Iterable[str], there: Iterable[str], findings: Findings) -> dict[str, str]:
    """Folders of the CSV that are not there, each with the folder that must be meant: the only one of its split that
    the CSV does not name and that holds the same file names. Blanks are as `_one_blank` leaves them."""
    lines, files = _by_folder(map(_one_blank, listed)), _by_folder(there)
    lost = _by_content({folder: names for folder, names in lines.items() if folder not in files})
    spare = _by_content({folder: names for folder, names in files.items() if folder not in lines})
    joined = {}
    for content, folders in lost.items():
        real = spare.get(content, [])
        if len(folders) == len(real) == 1:
            joined[folders[0]] = real[0]
            what = f"no file lies in {folders[0]}, and no line names {real[0]}, which has its file names; taken for it"
            findings.add("malformed", CSV, what)
    return joined


def _by_folder(paths: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in paths:
        found.setdefault(dirname(path), set()).add(basename(path))
    return found


def _by_content(folders: dict[str, set[str]]) -> dict[tuple[str, frozenset[str]], list[str]]:
    """Folders by their split and the names of their files."""
    found: dict[tuple[str, frozenset[str]], list[str]] = {}
    for folder, names in folders.items():
        found.setdefault((dirname(folder), frozenset(names)), []).append(folder)
    return found


def _one_blank(path: str) -> str:
    return "/".join(" ".join(part.split()) for part in path.split("/"))


BIRDS525 = Dataset("birds525", "scientific names; with `birds.csv` or folders alone", read, ("species",))
