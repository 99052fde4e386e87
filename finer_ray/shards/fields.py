"""Fields: where each annotation stands in a sample."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from finer_ray.errors import InputError

Format = Literal["webdataset", "parquet", "folder"]
FORMATS: tuple[Format, ...] = ("webdataset", "parquet", "folder")


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of members (WebDataset) or columns (Parquet) that hold a sample's parts.

    Each is a list of alternatives separated by ';', tried in order until one gives a value; '' switches the part
    off. In WebDataset an alternative is a member's extension, which is everything after the first dot of its base
    name, in lower case; what follows the part `json` descends into that JSON member: `json.label` is the key
    `label` of the member `.json`, `meta.json.a.b` the key `a.b` of `.meta.json`. In Parquet an alternative is a
    column, or where there is no such column, a path into a struct or into a column of JSON text; folders of the file's
    path, as `label=5`, are columns too, for label, concept and base, and for a key that is asked for.

    Attributes:
        image: the encoded image. In a folder: the extensions to take, '' for every known one.
        label: class index or class name. In a folder: 'folder' for the name of the folder below the root.
        box: four numbers in pixels of the displayed image.
        mask: an encoded image of the object, non-zero inside.
        concept, base: texts, see `Sample`; off unless named, and unknown in a folder.
        key: the sample's name. Parquet only; elsewhere the key is the path.
        box_format: 'xyxy' (corners) or 'xywh' (corner and size).
    """

    image: str = ""
    label: str = ""
    box: str = ""
    mask: str = ""
    key: str = ""
    box_format: Literal["xyxy", "xywh"] = "xyxy"
    concept: str = ""
    base: str = ""

    @classmethod
    def defaults(cls, format: str) -> Self:
        """The usual names of a format: 'webdataset', 'parquet' or 'folder'. Raises InputError for any other."""
        if format == "webdataset":
            return cls("jpg;jpeg;png;webp;bmp;gif;tif;tiff", "cls;json.label", "json.box_xyxy", "mask.png")
        if format == "parquet":
            return cls("image;jpg;jpeg;png;webp", "label;cls", "box_xyxy", "mask", "__key__;key;id")
        if format == "folder":
            return cls(label="folder")
        raise InputError(f"unknown format {format!r}; valid: {', '.join(FORMATS)}")

    @classmethod
    def with_defaults(cls, format: str, given: Mapping[str, Any]) -> Self:
        """The fields of a config: what is None there is the format's default."""
        return cls(
            **{**asdict(cls.defaults(format)), **{name: text for name, text in given.items() if text is not None}}
        )


def alternatives(field: str) -> tuple[str, ...]:
    """The alternatives of one field, in order, without blanks."""
    return tuple(part.strip() for part in field.split(";") if part.strip())
