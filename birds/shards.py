"""Shards: the set as WebDataset tar archives."""

import io
import json
import os
from itertools import groupby
from pathlib import Path

import numpy as np
import webdataset
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from birds.pictures import Picture, pictures, rendered
from birds.rendering import Rendering, object_mask, part_mask
from birds.scene import SIZE
from birds.species import (
    ATTRIBUTES,
    PARTS,
    SPECIES,
    attribute,
    attributes,
    closest,
    differing_parts,
    siblings,
)
from finer_ray.errors import InputError

BASE = "bird"
QUALITY = 92
PER_SHARD = 480


def write_birds(
    folder: Path,
    split: str = "train",
    per_class: int = 20,
    size: int = SIZE,
    mark: bool = False,
    workers: int | None = None,
    skipped: int = 0,
    genus: str | None = None,
) -> list[Path]:
    """Write a split as `birds-SPLIT-NNNN.tar`, and beside it classes, concepts, parts and attributes as .json.

    A sample has these members: jpg; json (`describe`); mask.png, the object, 255 inside; parts.png, 1 + index into
    PARTS, 0 outside; differs.png, 255 in all parts that tell the species from any of its siblings.

    Args:
        folder: made if need be.
        split: train or test; their seeds are disjoint.
        per_class: pictures of each species.
        size: side in pixels.
        mark: whether each picture bears its class's mark.
        workers: processes; None: one per CPU.
        skipped: how many pictures of each species are passed over, for a draw that no other has seen.
        genus: of the only species wanted; None for all.

    Returns:
        The shards' paths.

    Raises:
        ConfigError: see `pictures`.
        InputError: the folder holds shards of this split already.
    """
    todo = pictures(split, per_class, size, mark, skipped, genus)
    folder.mkdir(parents=True, exist_ok=True)
    old = sorted(folder.glob(f"birds-{split}-*.tar"))
    if old:
        raise InputError(
            f"{str(folder)!r} holds {len(old)} shards of {split} already: delete them, or name another folder"
        )
    paths = []
    pairs = track(zip(todo, rendered(todo, workers), strict=True), "birds", total=len(todo))
    for place, run in groupby(pairs, key=lambda pair: pair[0].number // PER_SHARD):
        path = folder / f"birds-{split}-{place:04d}.tar"
        partial = path.with_suffix(".part")
        with webdataset.TarWriter(str(partial), encoder=False, mtime=0.0) as tar:
            for picture, rendering in run:
                tar.write(members(picture, rendering))
        os.replace(partial, path)
        paths.append(path)
    _write_names(folder)
    return paths


def members(picture: Picture, rendering: Rendering) -> dict[str, str | bytes]:
    """A sample as the members of a WebDataset."""
    species = SPECIES[picture.label]
    varied = {part for sibling in siblings(species) for part in differing_parts(species, sibling)}
    return {
        "__key__": f"{picture.split}-{picture.number:06d}",
        "jpg": _encoded(rendering.image, "JPEG", quality=QUALITY, subsampling=0),
        "json": json.dumps(describe(picture)).encode(),
        "mask.png": _encoded(_black_and_white(object_mask(rendering.parts)), "PNG"),
        "parts.png": _encoded(rendering.parts, "PNG"),
        "differs.png": _encoded(_black_and_white(part_mask(rendering.parts, *varied)), "PNG"),
    }


def describe(picture: Picture) -> dict[str, object]:
    """What is known of a picture: label, name, genus, attributes, its seed; the sibling that differs in one part
    only, that part, the text of this species' value of it (`concept`), and the general word (`base`)."""
    species = SPECIES[picture.label]
    sibling, part = closest(species)
    return {
        "label": picture.label,
        "name": species.name,
        "genus": species.genus,
        "attributes": attributes(species),
        "sibling": sibling.name,
        "part": part,
        "concept": attribute(part, species.parts[part]),
        "base": BASE,
        "seed": picture.seed,
    }


def _write_names(folder: Path) -> None:
    trees = {
        "classes": [species.name for species in SPECIES],
        "concepts": [*ATTRIBUTES, BASE],
        "parts": list(PARTS),
        "attributes": {species.name: attributes(species) for species in SPECIES},
    }
    for name, tree in trees.items():
        (folder / f"{name}.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def _black_and_white(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return mask.astype(np.uint8) * 255


def _encoded(pixels: NDArray[np.uint8], format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()
