"""Listings: what a published data set says about each of its images, before any image is read."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from finer_ray.config.messages import printable
from finer_ray.shards.annotation import FieldError, parse_box
from finer_ray.shards.splits import SPLITS

Box = tuple[float, float, float, float]
Kind = Literal["missing", "surplus", "malformed", "refused", "unreadable"]
MAX_KEY_LENGTH = 80
MAX_FINDINGS = 1000


class Finding(NamedTuple):
    """Something in a data set that is not as it should be; nothing of it stops a job.

    Attributes:
        kind: missing (listed, not there), surplus (there, not listed), malformed (cannot be understood), refused
            (leads out of the data set's folder), unreadable (found when the image was read).
        where: the file, with the line where there is one.
        what: in words.
    """

    kind: Kind
    where: str
    what: str

    def __str__(self) -> str:
        return " ".join(f"{self.kind}: {printable(self.where)}: {printable(self.what)}".split())


class Findings(list[Finding]):
    """Findings in the order of their discovery."""

    def add(self, kind: Kind, where: str, what: str) -> None:
        """Append one."""
        self.append(Finding(kind, where, what))

    def add_lines(self, where: str, faults: list[tuple[int, str]]) -> None:
        """Append malformed lines (number from 1, what is wrong), the first 1000 each and the rest as a count."""
        for number, what in faults[:MAX_FINDINGS]:
            self.add("malformed", f"{where}, line {number}", what)
        if len(faults) > MAX_FINDINGS:
            self.add("malformed", where, f"{len(faults) - MAX_FINDINGS} more such lines")


class Mask(NamedTuple):
    """An image whose pixels tell the object.

    Attributes:
        path: below the data set's folder.
        threshold: the value above which a pixel is inside.
        size: bytes of the file.
    """

    path: str
    threshold: int
    size: int


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set.

    Attributes:
        key: its name in the shards: letters, digits, `-` and `_`, unique in the data set, made from `image`.
        image: path below the data set's folder, as found there; or the URL of a Parquet file.
        stamp: a sign of change: bytes of the image file; for a row, the digest of its file's footer.
        split: train, val, test, ..., or None where the set is not split.
        label: class index from 0, or None where the set gives none.
        name: class name, or None.
        box: x1, y1, x2, y2 in pixels: edges, so that a box from the first pixel to itself is 0, 0, 1, 1.
        mask: where the object's mask is, or None.
        notes: further annotations, a JSON object as text.
        row: of the Parquet file, or None.
    """

    key: str
    image: str
    stamp: int | str
    split: str | None = None
    label: int | None = None
    name: str | None = None
    box: Box | None = None
    mask: Mask | None = None
    notes: str = "{}"
    row: int | None = None

    def to_json(self, box: Box | None) -> str:
        """The annotations as one JSON object, with the box as it was judged when the image was read."""
        source = self.image if self.row is None else f"{self.image.rsplit('/', 1)[-1]}#{self.row}"
        head = {"label": self.label, "name": self.name, "box_xyxy": box, "split": self.split}
        return json.dumps({**head, "image": printable(source), **json.loads(self.notes)})

    def fingerprint(self) -> bytes:
        """A digest of all that is known of the image without reading it."""
        known = (self.key, self.to_json(self.box), self.stamp, self.mask)
        return sha256(json.dumps(known).encode()).digest()


@dataclass(frozen=True)
class Listing:
    """A data set, listed.

    Attributes:
        records: its images that are there, in published order.
        classes: names by label.
        findings: what is missing, surplus, malformed or refused.
        tables: JSON files to go with the shards, by name: attributes.json has class -> {phrase: strength in [0, 1]}.
    """

    records: list[Record]
    classes: list[str]
    findings: Findings = field(default_factory=Findings)
    tables: Mapping[str, Any] = field(default_factory=dict)


def split_name(name: str) -> str:
    """A split's name as the shards have it: train, val, test; others in lower case, letters, digits, `-` and `_`."""
    plain = slug(name).lower()
    return SPLITS.get(plain, plain)


def slug(text: str) -> str:
    """Letters, digits, `-` and `_` of a text, the rest as single `_`; never empty."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", text).strip("_") or "_"


def unique_keys(paths: Iterable[str]) -> list[str]:
    """Keys for distinct paths: the path without its suffix as a slug, with a digest where that is too long or taken.

    A key depends on its own path, and on others only where two paths give the same slug.
    """
    paths = list(paths)
    slugs = [slug(re.sub(r"\.[^./]*$", "", path)) for path in paths]
    counts = Counter(slugs)
    taken: set[str] = set()
    keys = []
    for path, key in zip(paths, slugs, strict=True):
        if counts[key] > 1 or len(key) > MAX_KEY_LENGTH:
            digest = sha256(path.encode("utf-8", "surrogatepass")).hexdigest()
            key = f"{key[:MAX_KEY_LENGTH]}-{digest[:16]}"
        while key in taken:
            key += "_"
        taken.add(key)
        keys.append(key)
    return keys


def checked_box(corners: Iterable[float], where: str, findings: Findings) -> Box | None:
    """A box that the shards' readers accept, or None and a finding."""
    try:
        return parse_box("box", [float(number) for number in corners], "xyxy")
    except FieldError as error:
        findings.add("malformed", where, str(error))
        return None


def clean_names(names: Iterable[str]) -> list[str]:
    """Class names fit for a text file with one per line, in label order: none empty, none with a line break."""
    lines = (" ".join(printable(name).split()) for name in names)
    return [name or f"class {label}" for label, name in enumerate(lines)]
