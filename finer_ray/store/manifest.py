"""The manifest: what an export was made of, so that a later run can go on, and a reader can trust it."""

from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from finer_ray.config import differences, fingerprinted
from finer_ray.errors import ExportError
from finer_ray.shards import ShardIndex
from finer_ray.store.files import Folder
from finer_ray.store.layout import Layout

PLAN, EXPORT = "plan.json", "export.json"
# Keys of the section `model` by which its files are found; the fingerprints of model and head cover the contents.
MODEL_KEYS = ("backbone", "weights", "match", "seed")
HEAD_KEYS = ("head", "classes", "concepts", "templates", "weights", "seed")


class ShardEntry(BaseModel):
    """An input shard: its index, a cheap sign of change, and the unit that its first row begins."""

    model_config = ConfigDict(frozen=True)

    index: dict[str, Any]
    stamp: str | None
    first_unit: int

    @property
    def shard(self) -> ShardIndex:
        """The index as it was counted."""
        return ShardIndex.from_json(self.index)


class Retired(BaseModel):
    """Units whose shard has changed or vanished: their rows are in no table any more.

    Attributes:
        url: of the shard.
        first_unit, units: which they were.
        reason: changed or vanished.
        erased: whether their tensors are gone too, which they are one publication later, for the sake of readers.
    """

    model_config = ConfigDict(frozen=True)

    url: str
    first_unit: int
    units: int
    reason: Literal["changed", "vanished"]
    erased: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of work: the rows of one shard that fill one Zarr shard object."""

    number: int
    url: str
    format: Literal["webdataset", "parquet", "folder"]
    start: int
    first_index: int
    count: int


class Manifest(BaseModel):
    """plan.json while a run is under way, export.json once all its units are committed.

    Attributes:
        status: running or complete.
        config: of the run that wrote it.
        config_fingerprint, model_fingerprint, head_fingerprint: what every row was made with.
        classes: names, in the head's order; the last `concepts` of them are concepts, which are never predicted.
        transform: how photos became inputs.
        layout: of the Zarr group.
        shards: in the order of their rows.
        retired: units of shards that were replaced or removed.
        revision: how many times the export was published before.
        tables: Parquet files by table. A file that is listed is never written again.
        counts: images, failures.
        versions: of the packages that decide results.
    """

    status: Literal["running", "complete"]
    config: dict[str, Any]
    config_fingerprint: str
    model_fingerprint: str
    head_fingerprint: str
    classes: list[str]
    concepts: int = 0
    transform: dict[str, Any]
    layout: Layout
    shards: list[ShardEntry]
    retired: list[Retired] = []
    revision: int = 0
    tables: dict[str, list[str]]
    counts: dict[str, int]
    versions: dict[str, str]

    def units(self) -> list[Unit]:
        """All units, in the order of their rows."""
        return [unit for entry in self.shards for unit in entry_units(entry, self.layout.rows_per_unit)]

    def rows(self) -> int:
        """Length of the Zarr arrays."""
        return self.next_unit() * self.layout.rows_per_unit

    def next_unit(self) -> int:
        """The first unit number that no shard has, or ever had."""
        live = (entry.first_unit + len(entry.index["starts"]) for entry in self.shards)
        return max([0, *live, *(span.first_unit + span.units for span in self.retired)])

    def images(self) -> int:
        """Images that the shards hold, unusable ones included."""
        return sum(entry.index["count"] for entry in self.shards)

    def check_same(self, other: Self) -> None:
        """Refuse to mix rows made in different ways. Raises ExportError naming both fingerprints, and what differs."""
        for name in ("config", "model", "head"):
            ours, theirs = (getattr(manifest, f"{name}_fingerprint") for manifest in (self, other))
            if ours != theirs:
                raise ExportError(
                    f"the export was made with another {name}: its fingerprint is {ours}, this run's {theirs} "
                    f"({_difference(name, self, other)}); choose another output.url, or run the config that the export "
                    "was made with"
                )


def _difference(name: str, ours: Manifest, theirs: Manifest) -> str:
    """What made a fingerprint (config, model or head) another one, as far as the manifests tell."""
    trees = [fingerprinted(manifest.config) for manifest in (ours, theirs)]
    said = "no key of the config differs"
    if name != "config":
        keys = MODEL_KEYS if name == "model" else HEAD_KEYS
        trees = [
            {"model": {key: manifest.config["model"].get(key) for key in keys}} | classes
            for manifest, classes in ((ours, _named(ours, name)), (theirs, _named(theirs, name)))
        ]
        said = "the config names the same files; their contents differ"
    return "; ".join(differences(trees[0], trees[1], ("there", "here"))) or said


def _named(manifest: Manifest, name: str) -> dict[str, Any]:
    """The class names, which are part of the head, by their index."""
    return {"classes": {str(index): text for index, text in enumerate(manifest.classes)}} if name == "head" else {}


def entry_units(entry: ShardEntry, rows_per_unit: int) -> list[Unit]:
    """The units of one shard."""
    shard = entry.shard
    return [
        Unit(
            number=entry.first_unit + position,
            url=shard.ref.url,
            format=shard.ref.format,
            start=start,
            first_index=position * rows_per_unit,
            count=min(rows_per_unit, shard.count - position * rows_per_unit),
        )
        for position, start in enumerate(shard.starts)
    ]


def read_manifest(folder: Folder, name: str) -> Manifest | None:
    """plan.json or export.json; None where there is none. Raises ExportError where it cannot be read."""
    content = folder.read(name)
    if content is None:
        return None
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise ExportError(f"{folder.url}/{name} is no manifest of finer_ray {error.errors()[0]['loc']}") from None


def write_manifest(folder: Folder, name: str, manifest: Manifest) -> None:
    """Write plan.json or export.json as a whole."""
    folder.write(name, manifest.model_dump_json(indent=1).encode())
