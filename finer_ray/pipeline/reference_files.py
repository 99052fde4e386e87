"""Reference files: whom classes are compared with, of what taxon they are, and what parts are called; read once, and
kept in the config."""

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finer_ray.config.messages import nearest, shown
from finer_ray.config.schema import ClassReferences, Config, Within
from finer_ray.errors import ConfigError
from finer_ray.models import ClassNames
from finer_ray.models.classes import read_names
from finer_ray.saliency.parts import MOST_PARTS
from finer_ray.shards.annotation import MAX_REFERENCES

MAX_FILE_BYTES = 2**30
MAX_NAMED = 3
DIGITS = re.compile("[0-9]{1,18}")


def with_references(config: Config, classes: ClassNames) -> Config:
    """The config with what its files of references and of taxa hold, so that manifest and actors have it, and its
    fingerprint covers it; the config itself where it names none, or has it.

    Args:
        config: of a job.
        classes: of its model.

    Raises:
        ConfigError: a file cannot be read, or names what is no class; with file, key and what is right.
    """
    saliency = config.saliency
    found: dict[str, Any] = {}
    if isinstance(saliency.selection, ClassReferences) and saliency.selection.classes is None:
        held = _references(Path(str(saliency.selection.file)).expanduser())
        found["selection"] = saliency.selection.model_copy(update={"classes": held})
    if saliency.within is not None and saliency.within.taxa is None:
        taxa = _taxa(Path(str(saliency.within.file)).expanduser(), saliency.within.level, classes)
        found["within"] = saliency.within.model_copy(update={"taxa": taxa})
    return config.model_copy(update={"saliency": saliency.model_copy(update=found)}) if found else config


def with_part_names(config: Config) -> Config:
    """The config with the part names that its file holds, for the same reasons; itself where it names none.

    Raises:
        ConfigError: the file cannot be read, or holds no list of 1 to 255 names.
    """
    place = config.input.part_names
    if not isinstance(place, str):
        return config
    where = f"input.part_names: {place!r}"
    names = read_names(place, where)
    if len(names) > MOST_PARTS:
        raise ConfigError(f"{where} holds {len(names)} names; 1 to {MOST_PARTS} are right")
    return config.model_copy(update={"input": config.input.model_copy(update={"part_names": list(names)})})


def references_by_class(selection: ClassReferences, classes: ClassNames) -> NDArray[np.int64]:
    """The references of each class, (C, K) int64, -1 for none; K is the length of the longest list.

    Raises:
        ConfigError: an unknown class, one that is named twice or compared with itself, or more than 64.
    """
    where = _where("saliency.selection", selection.file)
    lists: dict[int, list[int]] = {}
    for name, others in (selection.classes or {}).items():
        index = _index(name, classes, where)
        if index in lists:
            raise ConfigError(f"{where}: the class {shown(name)} has two lists")
        lists[index] = [_index(other, classes, f"{where}: of {shown(name)}") for other in others]
        if index in lists[index] or len(set(lists[index])) < len(others):
            raise ConfigError(f"{where}: {shown(name)} is compared with itself, or with a class twice")
    count = max(map(len, lists.values()), default=0)
    if not 1 <= count <= MAX_REFERENCES:
        raise ConfigError(f"{where}: the longest list has {count} references; 1 to {MAX_REFERENCES} are right")
    table = np.full((len(classes), count), -1, np.int64)
    for index, others_of in lists.items():
        table[index, : len(others_of)] = others_of
    return table


def taxa_by_class(within: Within, classes: ClassNames) -> NDArray[np.int64]:
    """The number of each class's taxon, (C,) int64, -1 for none.

    Raises:
        ConfigError: an unknown class, one of two taxa, or no taxon of two classes.
    """
    where = _where("saliency.within", within.file)
    found = np.full(len(classes), -1, np.int64)
    for number, (taxon, members) in enumerate((within.taxa or {}).items()):
        for name in members:
            index = _index(name, classes, f"{where}: of {shown(taxon)}")
            if found[index] not in (-1, number):
                raise ConfigError(f"{where}: the class {shown(name)} is of two taxa, one of them {shown(taxon)}")
            found[index] = number
    if not (np.bincount(found[found >= 0], minlength=1) > 1).any():
        raise ConfigError(f"{where}: no {shown(within.level)} has two classes, so none has a reference")
    return found


def _references(path: Path) -> dict[str, list[str | int]]:
    where = f"saliency.selection.file: {str(path)!r}"

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
            raise ConfigError(f"{where} has the key {shown(twice)} twice")
        return found

    try:
        tree = json.loads(_text(path, where), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON: {error}") from None
    if not isinstance(tree, dict) or not tree:
        raise ConfigError(f"{where} must be a JSON object, {{class: [classes it is compared with]}}")
    for name, others in tree.items():
        if not isinstance(others, list) or not all(isinstance(one, str) or type(one) is int for one in others):
            raise ConfigError(f"{where}: of {shown(name)}, expected a list of names or indices, got {shown(others)}")
    return tree


def _taxa(path: Path, level: str, classes: ClassNames) -> dict[str, list[int]]:
    """Indices of the model's classes by taxon; lines of other classes are left out."""
    where = f"saliency.within.file: {str(path)!r}"
    lines = csv.reader(_text(path, where).splitlines(), delimiter="\t" if path.suffix == ".tsv" else ",")
    try:
        header = [name.strip() for name in next(lines, [])]
        if level not in header[1:]:
            raise ConfigError(
                f"{where} has no column {shown(level)} beside the first, which names the classes"
                f"{nearest(level, header[1:])}; its columns: {shown(header)}"
            )
        place = header.index(level, 1)
        taxon = _lines(lines, place, where)
    except csv.Error as error:
        raise ConfigError(f"{where} is not CSV, line {lines.line_num}: {error}") from None
    # Beside names, what else a class may be called: an alias, or its index.
    other = {classes.aliases.get(name, int(name) if DIGITS.fullmatch(name) else -1): name for name in taxon}
    found: dict[str, list[int]] = {}
    missing = []
    for number, name in enumerate(classes.names):
        known = name if name in taxon else other.get(number)
        if known is None:
            missing.append(name)
        elif label := taxon[known]:
            found.setdefault(label, []).append(number)
    if missing:
        raise ConfigError(
            f"{where} has no line for {len(missing)} of the model's {len(classes)} classes ("
            f"{', '.join(shown(name) for name in missing[:MAX_NAMED])}{', ...' * (len(missing) > MAX_NAMED)}); its "
            f"first column, {shown(header[0])}, must name them; leave {level} empty where a class has none"
        )
    return found


def _lines(lines: Iterable[list[str]], place: int, where: str) -> dict[str, str]:
    """The taxon of each name in the first column, '' for none."""
    taxon: dict[str, str] = {}
    for line in lines:
        if not line:
            continue
        name, label = ClassNames((line[0],)).names[0], line[place].strip() if len(line) > place else ""
        if taxon.setdefault(name, label) != label:
            raise ConfigError(f"{where}: {shown(name)} is of two taxa, {shown(taxon[name])} and {shown(label)}")
    return taxon


def _text(path: Path, where: str) -> str:
    if not path.is_file():
        siblings = [entry.name for entry in path.parent.glob("*")] if path.parent.is_dir() else []
        raise ConfigError(f"{where} is no file{nearest(path.name, siblings)}")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{where} has more than {MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where} cannot be read: {error}") from None


def _index(name: str | int, classes: ClassNames, where: str) -> int:
    """The index of a class; the keys of JSON are texts, so that one of digits may be an index, too."""
    try:
        return classes.index(
            int(name) if isinstance(name, str) and DIGITS.fullmatch(name) and name not in classes else name
        )
    except LookupError as error:
        raise ConfigError(f"{where}: {error.args[0]}") from None


def _where(key: str, file: str | None) -> str:
    return key if file is None else f"{key}.file: {file!r}"
