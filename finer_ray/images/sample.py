"""A sample: one image of the input with its annotations, as read and not yet decoded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

DIGEST_BYTES = 8
# A value of a column of the user's own.
Plain = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One image as a shard holds it.

    Attributes:
        key: name of the sample inside its shard, as the data set's author wrote it (never used as a path).
        image: the encoded image, or None where it could not be read.
        label: class index, class name, or None where the shard gives none, or a list of several.
        box: x1, y1, x2, y2 in pixels of the displayed image (after its EXIF orientation), or None.
        mask: an encoded single-channel image, non-zero inside the object, or None.
        parts: an encoded single-channel image of part ids, 0 for none, or None.
        text, contrast_text: what of the image is asked about, and what it is compared with, or None.
        references: the classes, by index or name, that the image is compared with, or None.
        columns: values of `input.columns`, by name; null where the sample has none.
        error: why the sample cannot be used, or None. Then `image` is None.
    """

    key: str
    image: bytes | None = None
    label: int | str | None = None
    box: tuple[float, float, float, float] | None = None
    mask: bytes | None = None
    text: str | None = None
    contrast_text: str | None = None
    error: str | None = None
    references: tuple[int | str, ...] | None = None
    columns: Mapping[str, Plain] = field(default_factory=dict)
    parts: bytes | None = None

    def digest(self) -> str:
        """16 hex digits of all that was read of the sample, by which a change of its shard is told."""
        digest = blake2b(digest_size=DIGEST_BYTES)
        # Parts only where there are some, and so on below: digests from before there were any stay.
        for part in (self.image, self.mask, *(() if self.parts is None else (self.parts,))):
            digest.update(b"none" if part is None else str(len(part)).encode())
            digest.update(part or b"")
        rest: tuple[object, ...] = (self.key, self.label, self.box, self.text, self.contrast_text, self.error)
        if self.references is not None:
            rest = (*rest, self.references)
        if self.columns:
            rest = (*rest, sorted(self.columns.items()))
        digest.update(repr(rest).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()
