"""Fields: where each annotation stands in a sample."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of members (WebDataset) or columns (Parquet) that hold a sample's parts.

    Each is a list of alternatives separated by ';', tried in order until one gives a value; '' switches the part
    off. In WebDataset an alternative is a member's extension, which is everything after the first dot of its base
    name, in lower case; what follows the part `json` descends into that JSON member: `json.label` is the key
    `label` of the member `.json`, `meta.json.a.b` the key `a.b` of `.meta.json`. In Parquet an alternative is a
    column, or where there is no such column, a path into a struct or into a column of JSON text; folders of the file's
    path, as `label=5`, are columns too, for label, text and contrast_text, and for a key that is asked for.

    Attributes:
        image: the encoded image. In a folder: the extensions to take, '' for every known one.
        label: class index or class name. In a folder: 'folder' for the name of the folder below the root.
        box: four numbers in pixels of the displayed image.
        mask: an encoded image of the object, non-zero inside.
        parts: an encoded image of part ids, 0 for none; off unless named, and not read in a folder.
        text, contrast_text, references: see `Sample`; off unless named, and unknown in a folder.
        key: the sample's name. Parquet only; elsewhere the key is the path.
        box_format: 'xyxy' (corners) or 'xywh' (corner and size).
        columns: (name, field) of each column of the user's own, where the field is as those above.
    """

    image: str = ""
    label: str = ""
    box: str = ""
    mask: str = ""
    key: str = ""
    box_format: Literal["xyxy", "xywh"] = "xyxy"
    text: str = ""
    contrast_text: str = ""
    references: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    parts: str = ""


def alternatives(field: str) -> tuple[str, ...]:
    """The alternatives of one field, in order, without blanks."""
    return tuple(part.strip() for part in field.split(";") if part.strip())


@dataclass(frozen=True, slots=True)
class Source:
    """One alternative of a field, as a format reads it.

    Attributes:
        place: a member's extension, or a column.
        path: keys that lead into it, where it is JSON or a struct.
        constant: a tuple of the value of all samples, where the place is a folder of the shard's path; else None.
    """

    place: str
    path: tuple[str, ...] = ()
    constant: tuple[int | str | None] | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        return ".".join((self.place, *self.path))
