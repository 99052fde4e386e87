"""A tool that maps are written for, and what it gets of each image."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from finer_ray.to.region import Region


@dataclass(frozen=True)
class Item:
    """One image, whose map lies in the folder already.

    Attributes:
        line: of the table `images`, as a dictionary.
        metrics: of the map, by name; those that the image has.
        label: name of the labelled class; None without a label.
        target: name of the class that the map explains.
        predicted: name of the predicted class.
        embedding: (E,) float16; None where none was stored, or one beyond float16's range.
        map: the map's PNG, relative to the folder.
        photo: the photo's file, relative to the folder; None where the shard no longer has it.
        scale: value of the map = grey value of the PNG * scale; 0 where the map is zero everywhere.
        region: where the map is high; None where it is zero everywhere.
    """

    line: dict[str, Any]
    metrics: dict[str, float | bool]
    label: str | None
    target: str
    predicted: str
    embedding: NDArray[np.float16] | None
    map: str
    photo: str | None
    scale: float
    region: Region | None

    @property
    def shown(self) -> str:
        """What a tool that needs an image shows: the photo, or in its place the map."""
        return self.photo or self.map


@dataclass(frozen=True)
class Made:
    """What all items share.

    Attributes:
        name: of the folder that the files will lie in.
        map: name of the map.
        threshold: share of a map's maximum from which on a pixel belongs to its region, in (0, 1].
        classes: names, in the order of their indices.
        version: fingerprints of the model and the config, which tell runs apart.
    """

    name: str
    map: str
    threshold: float
    classes: list[str]
    version: str


@dataclass(frozen=True)
class Tool:
    """A tool; one that is a line of `TOOLS` (tools.py), or defined in a plugin, can be written for.

    Attributes:
        name: by which `finer-ray to` knows it.
        write: (folder, made, items) to the tool's own files. Items are given once, one by one: each is to be written
            before the next is asked for, because there may be millions.
        next: what to do with the folder, for people; `{folder}` stands for it.
        photos: whether it wants the photos' files.
        maps: the folder of the maps' PNGs.
    """

    name: str
    write: Callable[[Path, Made, Iterator[Item]], None]
    next: str
    photos: bool = True
    maps: str = "maps"


def write_array(file: IO[str], values: Iterable[Any]) -> None:
    """Write values as a JSON array, a line each, as they come."""
    file.write("[")
    for place, value in enumerate(values):
        file.write(",\n" if place else "\n")
        file.write(json.dumps(value, ensure_ascii=False, allow_nan=False))
    file.write("\n]")
