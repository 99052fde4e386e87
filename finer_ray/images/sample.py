"""A sample: one image of the input with its annotations, as read and not yet decoded."""

from dataclasses import dataclass
from hashlib import blake2b

DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """One image as a shard holds it.

    Attributes:
        key: name of the sample inside its shard, as the data set's author wrote it (never used as a path).
        image: the encoded image, or None where it could not be read.
        label: class index, class name, or None where the shard gives none, or a list of several.
        box: x1, y1, x2, y2 in pixels of the displayed image (after its EXIF orientation), or None.
        mask: an encoded single-channel image, non-zero inside the object, or None.
        text, contrast_text: what of the image is asked about, and what it is compared with, or None.
        references: the classes, by index or name, that the image is compared with, or None.
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

    def digest(self) -> str:
        """16 hex digits of all that was read of the sample, by which a change of its shard is told."""
        digest = blake2b(digest_size=DIGEST_BYTES)
        for part in (self.image, self.mask):
            digest.update(b"none" if part is None else str(len(part)).encode())
            digest.update(part or b"")
        rest: tuple[object, ...] = (self.key, self.label, self.box, self.text, self.contrast_text, self.error)
        if self.references is not None:
            # Only then, so that digests from before there were any stay.
            rest = (*rest, self.references)
        digest.update(repr(rest).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()
