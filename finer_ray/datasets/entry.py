"""Entries: images of a listed data set, read, checked, and ready to be written into a shard."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finer_ray.config.messages import brief
from finer_ray.datasets.listing import Box, Findings, Record
from finer_ray.datasets.tree import Tree
from finer_ray.images.decode import open_image, orientation
from finer_ray.images.image_formats import PACKED
from finer_ray.images.sample import Sample
from finer_ray.shards import parquet
from finer_ray.shards.fields import Fields
from finer_ray.shards.shard import ShardRef

INDEXED = ("P", "L", "I", "I;16", "F")
MAX_PIXELS = 500_000_000
MAX_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Entry:
    """One image as it goes into a shard.

    Attributes:
        record: what the data set says of it.
        image: its bytes, as published.
        suffix: jpg, png, ..., of what the bytes hold, whatever the file was called.
        box: the record's, or None where it does not touch the image.
        mask: a PNG, 255 inside the object and 0 outside, as large as the image as displayed; or None.
        segmentation: the PNG that the mask was made of, as published; or None.
    """

    record: Record
    image: bytes
    suffix: str
    box: Box | None = None
    mask: bytes | None = None
    segmentation: bytes | None = None


def read_entries(source: str, records: Sequence[Record]) -> Iterator[tuple[Entry | None, Findings]]:
    """Read records' images: for each an entry, or None where it cannot be used, with what was found.

    Images are decoded once, JPEGs at an eighth of their size, so that cut ones are told here; their bytes are kept.
    """
    for record, sample, findings in _samples(source, records):
        yield _entry(record, sample, findings), findings


def _samples(source: str, records: Sequence[Record]) -> Iterator[tuple[Record, Sample, Findings]]:
    if records and records[0].row is None:
        tree = Tree(source)
        for record in records:
            findings = Findings()
            yield record, _file(tree, record, findings), findings
        return
    for url, group in groupby(records, lambda record: record.image):
        run = list(group)
        for record, sample in zip(run, _rows(url, run), strict=True):
            yield record, sample, Findings()


def _file(tree: Tree, record: Record, findings: Findings) -> Sample:
    try:
        image = tree.read(record.image)
    except OSError as error:
        return Sample(record.key, error=brief(error))
    try:
        mask = tree.read(record.mask.path) if record.mask else None
    except OSError as error:
        findings.add("unreadable", record.mask.path if record.mask else "", f"{brief(error)}; packed without it")
        mask = None
    return Sample(record.key, image, mask=mask)


def _rows(url: str, records: list[Record]) -> Iterator[Sample]:
    """Image and mask of rows of one Parquet file, in order; errors for those that it does not give."""
    numbers = [record.row or 0 for record in records]
    wanted, done, reason = set(numbers), 0, "the file has fewer rows than when it was listed"
    fields = Fields(image=parquet.FIELDS.image, mask=parquet.FIELDS.mask)
    count = numbers[-1] - numbers[0] + 1
    try:
        samples = parquet.read(ShardRef(url, "parquet"), fields, numbers[0], count, MAX_BYTES)
        for number, sample in enumerate(samples, numbers[0]):
            if number in wanted:
                yield sample
                done += 1
    except Exception as error:
        reason = brief(error)
    yield from (Sample("", error=reason) for _ in range(done, len(numbers)))


def _entry(record: Record, sample: Sample, findings: Findings) -> Entry | None:
    where = record.image if record.row is None else f"{record.image}#{record.row}"
    if sample.image is None:
        findings.add("unreadable", where, f"{sample.error or 'no image'}; left out")
        return None
    try:
        suffix, size, turned = _look(sample.image)
    except Exception as error:
        findings.add("unreadable", where, f"{brief(error)}; left out")
        return None
    box = record.box
    if box is not None and not (box[0] < size[0] and box[1] < size[1] and box[2] > 0 and box[3] > 0):
        findings.add("malformed", where, f"its box {box} lies outside of its {size[0]}x{size[1]} pixels; left out")
        box = None
    if turned and (box or sample.mask):
        findings.add("malformed", where, "its EXIF data turn it; box and mask are taken to fit the turned image")
    if sample.mask is None:
        return Entry(record, sample.image, suffix, box)
    # A row's mask already is what the readers take: any colour but black is inside.
    threshold = record.mask.threshold if record.mask else 0
    try:
        mask = _mask(sample.mask, threshold, size)
    except Exception as error:
        place = record.mask.path if record.mask else f"{where}, mask"
        findings.add("unreadable", place, f"{brief(error)}; packed without it")
        return Entry(record, sample.image, suffix, box)
    return Entry(record, sample.image, suffix, box, mask, sample.mask if record.mask else None)


def _look(data: bytes) -> tuple[str, tuple[int, int], bool]:
    """Suffix, (width, height) as displayed, and whether EXIF turns it. Raises what Pillow does for a bad image."""
    image = open_image(data, MAX_PIXELS)
    if image.format not in PACKED:
        raise ValueError(f"images in {image.format} are not packed")
    turn = orientation(image)
    size = image.size[::-1] if turn >= 5 else image.size
    image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
    image.load()
    return PACKED[image.format], size, turn > 1


def _mask(data: bytes, threshold: int, size: tuple[int, int]) -> bytes:
    """A PNG of 0 and 255 from values above a threshold; indices count as they are, colours as their grey value.

    Raises:
        ValueError: of another size than the image, or nothing is inside.
    """
    image = open_image(data, MAX_PIXELS)
    pixels: NDArray[np.generic] = np.asarray(image if image.mode in INDEXED else image.convert("L"))
    inside = pixels > threshold  # type: ignore[operator]
    if image.size != size:
        raise ValueError(f"the mask has {image.width}x{image.height} pixels, the image {size[0]}x{size[1]}")
    if not inside.any():
        raise ValueError(f"no pixel of the mask is above {threshold}")
    sink = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8) * 255).save(sink, "PNG")
    return sink.getvalue()
