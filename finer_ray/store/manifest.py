"""The manifest: what an export was made of, so that a later run can go on, and a reader can trust it."""

import re
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from finer_ray.config.messages import differences
from finer_ray.errors import ExportError
from finer_ray.shards import ShardIndex
from finer_ray.shards.parquet import FIELDS, FIRST_KEY
from finer_ray.store.layout import Layout
from finer_ray.store.storage import Folder

PLAN, EXPORT = "plan.json", "export.json"
LEASE_FILE = re.compile(r"lock|\d{8,}\.json(\..*)?")
MAX_NAMED = 5
# Keys of the section `model` by which its files are found; the fingerprints of model and head cover the contents.
MODEL_KEYS = ("backbone", "weights", "match", "seed", "kwargs")
HEAD_KEYS = ("head", "head_scale", "classes", "concepts", "templates", "weights", "seed")


class ShardEntry(BaseModel):
    """An input shard: its index, a cheap sign of change, the unit that its first row begins, and a digest of what was
    read for each of its published units ('' where an earlier version read it; see `Sample.digest`)."""

    model_config = ConfigDict(frozen=True)

    index: dict[str, Any]
    stamp: str | None
    first_unit: int
    digests: list[str] = []

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
    format: str
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
        columns: kinds of the user's own columns of `images` by name, see `finer_ray.store.columns`.
        usual_key: where rows of Parquet shards have their keys while `input.fields.key` is null: what was usual when
            the export was begun.
        shards: in the order of their rows.
        retired: units of shards that were replaced or removed.
        revision: how many times the export was published before.
        base: of a plan, the revision of the state that it continues, -1 where nothing was published; a plan of another
            state is left over. None in a published state, and in plans of earlier versions.
        tables: Parquet files by table. A file that is listed is never written again.
        obsolete: table files that this run, or one before it, has written or was about to write, and that `tables` does
            not list. When the state is published they go to `retired/`, and are deleted at the next publication.
        counts: images, failures.
        versions: of the packages that decide results; commits of repositories that the model comes from.
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
    columns: dict[str, str] = {}
    usual_key: str = FIRST_KEY
    shards: list[ShardEntry]
    retired: list[Retired] = []
    revision: int = 0
    base: int | None = None
    tables: dict[str, list[str]]
    obsolete: list[str] = []
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

    def fields(self) -> dict[str, Any]:
        """`input.fields` of the config, by which samples get the keys that they have in this export."""
        given: dict[str, Any] = self.config["input"]["fields"]
        keep = given.get("key") is None and self.usual_key != FIELDS.key
        return {**given, "key": self.usual_key} if keep else given

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
    # Imported here: readers start without the config's schema.
    from finer_ray.config.schema import fingerprinted

    trees = [fingerprinted(manifest.config) for manifest in (ours, theirs)]
    said = "no key of the config differs"
    if name != "config":
        keys = MODEL_KEYS if name == "model" else HEAD_KEYS
        trees = [
            {"model": {key: manifest.config["model"].get(key) for key in keys}} | classes
            for manifest, classes in ((ours, _named(ours, name)), (theirs, _named(theirs, name)))
        ]
        said = "the config names the same files; their contents differ"
    found = differences(trees[0], trees[1], ("there", "here")) or [said]
    asks = ["registration" in tree.get("saliency", {}) for tree in trees]
    if asks == [False, True]:
        found = ["its maps were stretched over the input: to go on, write saliency.registration: stretch", *found]
    return "; ".join(found)


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


class ManifestFile:
    """plan.json or export.json, as a run reads and writes it: only while it is as this run has read or written it.

    Attributes:
        manifest: as read or written last; None where there is none.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        """Read it. Raises ExportError where it cannot be read."""
        self._folder, self._name = folder, name
        self._content = folder.read(name)
        self.manifest = None if self._content is None else _parsed(folder, name, self._content)

    def write(self, manifest: Manifest) -> None:
        """Write it as a whole. Raises LeaseError where another run has written it."""
        content = manifest.model_dump_json(indent=1).encode()
        self._folder.replace(self._name, content, self._content)
        self._content, self.manifest = content, manifest

    def remove(self) -> None:
        """Remove it. Raises LeaseError where another run has written it."""
        self._folder.replace(self._name, None, self._content)
        self._content = self.manifest = None


def read_manifest(folder: Folder, name: str) -> Manifest | None:
    """plan.json or export.json; None where there is none. Raises ExportError where it cannot be read."""
    content = folder.read(name)
    return None if content is None else _parsed(folder, name, content)


def pending(planned: Manifest | None, published: Manifest | None) -> Manifest | None:
    """The plan, where there is one that is not published yet; None where what is left of it is an ended run's."""
    if planned is None or planned.base is None:
        return planned
    return planned if planned.base == (-1 if published is None else published.revision) else None


def check_vacant(folder: Folder) -> None:
    """Refuse to write an export into a folder that holds anything else: only what an export's own manifest lists is
    ever moved or deleted, but its files might be taken for others', or others' for its own.

    Raises:
        ExportError: with the names of what is there.
    """
    if any(read_manifest(folder, name) is not None for name in (EXPORT, PLAN)):
        return
    leases = folder.names("lease", "")
    foreign = [name for name in folder.names("", "") if not name.startswith(".") and name != "lease"]
    foreign += [f"lease/{name}" for name in leases if not LEASE_FILE.fullmatch(name)]
    if foreign:
        few = ", ".join(foreign[:MAX_NAMED]) + (", ..." if len(foreign) > MAX_NAMED else "")
        raise ExportError(
            f"output.url: {folder.url} holds other files ({few}) and no {EXPORT}: choose an empty or new folder. (If "
            f"they are what is left of an export whose {EXPORT} was removed, remove them, too)"
        )


def _parsed(folder: Folder, name: str, content: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise ExportError(f"{folder.url}/{name} is no manifest of finer_ray {error.errors()[0]['loc']}") from None
