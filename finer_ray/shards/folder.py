"""Image files as a shard: CLASS/**/NAME.EXTENSION of a folder, and what a sheet beside them says of each."""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any

from finer_ray.config.messages import brief
from finer_ray.images.image_formats import EXTENSIONS
from finer_ray.images.sample import Sample
from finer_ray.retry import of_store
from finer_ray.shards.annotation import (
    FieldError,
    only_label,
    own_columns,
    parse_box,
    parse_json,
    parse_references,
    parse_text,
)
from finer_ray.shards.fields import Fields, alternatives
from finer_ray.shards.format import Format
from finer_ray.shards.image_files import LINK, File, Place, image_files, infos, place_of
from finer_ray.shards.shard import ShardIndex, ShardRef
from finer_ray.shards.sheets import SHEETS, Sheet, Sheets, load_sheet

OF_FOLDER = "folder"
NO_PARTS = "no part masks are read of a folder: leave out input.fields.parts, or pack photos and masks into tars"
# What an image is asked about.
ASKED: Mapping[str, Any] = {"text": parse_text, "contrast_text": parse_text, "references": parse_references}


def index(ref: ShardRef, fields: Fields, rows_per_unit: int) -> ShardIndex:
    """Count images by one listing; the fingerprint covers relative paths and sizes."""
    _, files, sheets = _listing(ref, fields)
    if wrong := sheets.missing(_needed(fields)) or (NO_PARTS if fields.parts else None):
        return ShardIndex(ref, 0, "", (), wrong)
    digest = sha256()
    for file in files:
        digest.update(f"{file.size if file.fault is None else file.fault} {file.key}\0".encode())
    problems = [*sheets.problems([file.key for file in files])]
    if not files:
        problems.append(f"no image in the folder: looked for {', '.join(_extensions(fields))}")
    starts = tuple(range(0, len(files), rows_per_unit))
    return ShardIndex(ref, len(files), digest.hexdigest(), starts, "; ".join(problems) or None)


def keys(ref: ShardRef, fields: Fields) -> Iterator[str]:
    """Relative paths of the images that `index` counts, in order."""
    yield from (file.key for file in _listing(ref, fields)[1])


def read(ref: ShardRef, fields: Fields, start: int, count: int, max_member_bytes: int) -> Iterator[Sample]:
    """Up to `count` images from an index of the listing on.

    The folder is listed again for each call, so a folder of very many files is better packed into shards.
    """
    place, files, sheets = _listing(ref, fields)
    for file in islice(files, start, start + count):
        yield _sample(place.fs, file, fields, sheets, max_member_bytes)


def class_names(shards: Sequence[ShardRef], fields: Fields) -> list[str]:
    """Names of the folders below the roots, or of the classes in their sheets, sorted."""
    found = set()
    for ref in shards:
        _, files, sheets = _listing(ref, fields)
        for file in files:
            try:
                found.add(_label(file, fields, sheets))
            except FieldError:
                continue
    return sorted(label for label in found if isinstance(label, str))


def _sample(fs: Any, file: File, fields: Fields, sheets: Sheets, limit: int) -> Sample:
    if file.fault is not None:
        return Sample(file.key, error=file.fault)
    if file.size > limit:
        return Sample(file.key, error=f"{file.size} bytes are more than the allowed {limit}")
    try:
        with fs.open(file.path, "rb") as opened:
            image = opened.read(limit + 1)
    except Exception as error:
        if of_store(error):
            raise
        return Sample(file.key, error=f"the file cannot be read: {brief(error)}")
    if len(image) > limit:
        return Sample(file.key, error=f"more than the allowed {limit} bytes")
    try:
        return Sample(file.key, image, _label(file, fields, sheets), **_annotations(file, fields, sheets))
    except FieldError as error:
        return Sample(file.key, error=str(error))


def _label(file: File, fields: Fields, sheets: Sheets) -> int | str | None:
    for alternative in alternatives(fields.label):
        if alternative == OF_FOLDER:
            if file.label is not None:
                return file.label
        elif found := sheets.typed(file.key, alternative):
            name, value = found
            return only_label(name, str(value) if isinstance(value, bool) else value)
    return None


def _annotations(file: File, fields: Fields, sheets: Sheets) -> dict[str, Any]:
    """What sheets say of a file beside its label. Raises FieldError."""
    box = sheets.value(file.key, fields.box)
    asked = {part: sheets.value(file.key, getattr(fields, part)) for part in ASKED}
    return {
        "box": box and parse_box(box[0], _from_json(*box), fields.box_format),
        **{part: found and ASKED[part](*found) for part, found in asked.items()},
        "columns": own_columns(fields.columns, lambda field: (sheets.typed(file.key, field) or ("", None))[1]),
    }


def _from_json(name: str, value: Any) -> Any:
    return parse_json(name, value) if isinstance(value, str) else value


def _needed(fields: Fields) -> Mapping[str, tuple[str, ...]]:
    """Columns by field, of which a sheet must have one."""
    labels = alternatives(fields.label)
    found = {part: alternatives(getattr(fields, part)) for part in ("box", *ASKED)}
    return {"label": () if OF_FOLDER in labels else labels, **found}


def _listing(ref: ShardRef, fields: Fields) -> tuple[Place, list[File], Sheets]:
    """The place, the images and what is asked of their sheets. Raises OSError where the place cannot be listed."""
    place = place_of(ref.url)
    images, found = image_files(place, tuple(f".{ext}" for ext in _extensions(fields)))
    asked = fields.columns or any(set(alternatives(text)) - {OF_FOLDER} for text in _texts(fields))
    return place, images, _sheets(place, images, found) if asked else Sheets({})


def _sheets(place: Place, images: Sequence[File], found: Sequence[File]) -> Sheets:
    """The list itself, or the sheets beside the images; of two in one folder the CSV."""
    if place.sheet is not None:
        return Sheets({"": place.sheet})
    by_folder: dict[str, Sheet] = {}
    paths = {file.key: None if file.fault else file.path for file in found}
    if place.names is not None:
        folders = {posixpath.dirname(file.key) for file in images} | {""}
        names = [posixpath.join(folder, name) for folder in sorted(folders) for name in SHEETS]
        paths = {name: f"{place.root}/{name}" for name in infos(place.fs, place.root, names)}
    for name, path in paths.items():
        sheet = Sheet(name, problems=[f"{name}: {LINK}"]) if path is None else load_sheet(place.fs, path, name)
        by_folder.setdefault(posixpath.dirname(name), sheet)
    return Sheets(by_folder)


def _texts(fields: Fields) -> tuple[str, ...]:
    return fields.label, fields.box, fields.text, fields.contrast_text


def _extensions(fields: Fields) -> tuple[str, ...]:
    return tuple(ext.lower().lstrip(".") for ext in alternatives(fields.image)) or EXTENSIONS


FOLDER = Format(
    name="folder",
    description="a folder, read as a whole: `CLASS/**/NAME.EXTENSION`",
    suffixes=(),
    fields=Fields(label=OF_FOLDER),
    index=index,
    keys=keys,
    read=read,
    class_names=class_names,
    folder=True,
    other_fields={
        "label": ("label", "class", "class_name", "category", "species", "category_id"),
        "box": ("box_xyxy", "box", "bbox"),
    },
)
