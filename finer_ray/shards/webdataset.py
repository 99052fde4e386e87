"""WebDataset shards: tar archives whose consecutive members with one base name are one sample."""

import errno
import posixpath
import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from finer_ray.config.messages import clipped, short_key
from finer_ray.images.image_formats import EXTENSIONS
from finer_ray.images.sample import Sample
from finer_ray.shards.annotation import (
    FieldError,
    descend,
    only_label,
    own_columns,
    parse_box,
    parse_json,
    parse_references,
    parse_text,
    text_label,
)
from finer_ray.shards.fields import Fields, Source, alternatives
from finer_ray.shards.files import open_read, open_scan
from finer_ray.shards.format import Format
from finer_ray.shards.shard import ShardIndex, ShardRef
from finer_ray.shards.tar import Member, TarFault, TarScan

MAX_NAME_LENGTH = 40
MAX_PATH_LENGTH = 200
# Of links that lead to links; of a path, as file systems have it; and of members that links and keys are looked up
# among, whose names are held in memory.
MAX_LINKS = 40
MAX_PATH = 4096
MAX_MEMBERS = 10**6
HIDDEN = re.compile(r"(^|/)\.(?!\.?/)")
SPLIT = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)


def split_name(path: str) -> tuple[str, str] | None:
    """Key and extension of a member: the path up to the first dot of its base name, and the rest in lower case.

    None for members that belong to no sample: hidden ones (`.x`, `._x`, `.dir/x`) and those without extension.
    """
    match = None if HIDDEN.search(path) else SPLIT.fullmatch(path)
    return (match[1], match[2].lower()) if match else None


@dataclass(slots=True)
class Run:
    """Consecutive members with one key."""

    key: str
    start: int
    members: list[tuple[str, Member]] = field(default_factory=list)


class Layout:
    """Fields, as members of a tar archive."""

    def __init__(self, fields: Fields) -> None:
        self.images = sources(fields.image)
        self.labels = sources(fields.label)
        self.boxes = sources(fields.box)
        self.masks = sources(fields.mask)
        self.parts = sources(fields.parts)
        self.texts = sources(fields.text)
        self.contrast_texts = sources(fields.contrast_text)
        self.references = sources(fields.references)
        self.box_format = fields.box_format
        # No member is a sample for their sake.
        self.own = tuple((name, sources(text)) for name, text in fields.columns)
        asked = self.texts, self.contrast_texts, self.references
        parts = self.images, self.labels, self.boxes, self.masks, self.parts, *asked
        self.known = {source.place for part in parts for source in part}

    def is_sample(self, run: Run) -> bool:
        """Whether members with one key are a sample: one of them is known, or at least called an image."""
        return any(ext in self.known for ext, _ in run.members) or bool(self.unknown_images(run))

    def unknown_images(self, run: Run) -> list[str]:
        """Extensions of members that end as images do, but that no field names: `final.jpg` of `a.final.jpg`."""
        return [ext for ext, _ in run.members if ext not in self.known and ext.rpartition(".")[2] in EXTENSIONS]


def sources(text: str) -> tuple[Source, ...]:
    """The alternatives of a field: all up to a part `json` is the extension, what follows is the path into it."""
    found = []
    for alternative in alternatives(text):
        parts = alternative.split(".")
        cut = next((i + 1 for i, part in enumerate(parts) if part.lower() == "json"), len(parts))
        found.append(Source(".".join(parts[:cut]).lower(), tuple(parts[cut:])))
    return tuple(found)


def index(ref: ShardRef, fields: Fields, rows_per_unit: int) -> ShardIndex:
    """Count a tar shard from its headers. Raises only where the file cannot be opened or read."""
    count, starts, problem = 0, [], None
    unused: set[str] = set()
    layout = Layout(fields)
    with open_scan(ref.url) as file:
        scan = TarScan(file)
        last = ""
        try:
            for run in _grouped(scan.members()):
                if not layout.is_sample(run):
                    unused.update(ext for ext, _ in run.members)
                    continue
                if count % rows_per_unit == 0:
                    starts.append(run.start)
                count, last = count + 1, run.key
        except TarFault as fault:
            problem = _describe(fault, count, last)
    if not count and not problem and unused:
        problem = f"no sample: members end in {_some(unused)}; looked for {_some(layout.known)}"
    return ShardIndex(ref, count, scan.fingerprint, tuple(starts), problem)


def keys(ref: ShardRef, fields: Fields) -> Iterator[str]:
    """Keys of the samples that `index` counts, in order."""
    layout = Layout(fields)
    with open_scan(ref.url) as file:
        try:
            yield from (short_key(run.key) for run in _grouped(TarScan(file).members()) if layout.is_sample(run))
        except TarFault:
            return


def read(ref: ShardRef, fields: Fields, start: int, count: int, max_member_bytes: int) -> Iterator[Sample]:
    """Up to `count` samples from a byte offset on. Raises OSError where the file cannot be opened or read."""
    layout = Layout(fields)
    directory = Directory(ref, layout)
    with open_read(ref.url) as file:
        runs = (run for run in _grouped(TarScan(file).members(start)) if layout.is_sample(run))
        try:
            for run in islice(runs, count):
                yield _sample(file, run, layout, directory, max_member_bytes)
        except TarFault:
            return


def _grouped(members: Iterator[Member]) -> Iterator[Run]:
    """Runs of members with one key; a fault is raised after the last run whose members are whole."""
    run: Run | None = None
    try:
        for member in members:
            name = split_name(member.name) if member.regular or member.link is not None else None
            if name is None:
                continue
            key, ext = name
            if run is None or run.key != key:
                if run:
                    yield run
                run = Run(key, member.start)
            run.members.append((ext, member))
    except TarFault as fault:
        # The sample into which the fault falls has lost a part, which must not pass for an absent label or mask.
        broken = split_name(fault.name) if fault.name else None
        if run and (broken is None or broken[0] != run.key):
            yield run
        raise
    if run:
        yield run


class Counted(NamedTuple):
    """A sample as `index` counts it: its number in the shard from 0, and whether it has an image."""

    number: int
    has_image: bool


class Directory:
    """What an archive holds, by name and by key; read from its headers only when it is first asked for."""

    def __init__(self, ref: ShardRef, layout: Layout) -> None:
        self._ref, self._layout = ref, layout
        self._members: dict[str, list[Member]] | None = None
        self._samples: dict[str, list[Counted]] = {}

    def target(self, member: Member) -> Member:
        """The file that a member is, or that it links to.

        Raises:
            FieldError: it is a link to something that is no file of this archive.
        """
        found: Member | None = member
        for _ in range(MAX_LINKS):
            if found is None or found.link is None:
                break
            found = self._linked(found)
        if found is not None and found.regular:
            return found
        link, name = clipped(member.link or "", MAX_PATH_LENGTH), clipped(member.name, MAX_PATH_LENGTH)
        raise FieldError(
            f"member {name!r} is a link to {link!r}, which is no file of this archive (pack with tar "
            f"{'--dereference, -h' if member.symbolic else '--hard-dereference'})"
        )

    def image_of(self, key: str) -> int | None:
        """The number of the first sample with that key that has an image; None where there is none."""
        self._load()
        return next((sample.number for sample in self._samples.get(key, ()) if sample.has_image), None)

    def _linked(self, link: Member) -> Member | None:
        """The member that a link names: of several with that name the last, but for a hard link the last before it."""
        folder = posixpath.dirname(link.name) if link.symbolic else ""
        path = posixpath.join(folder, link.link or "")
        named = self._load().get(posixpath.normpath(path), []) if len(path) <= MAX_PATH else []
        count = len(named) if link.symbolic else bisect_left(named, link.start, key=lambda member: member.start)
        return named[count - 1] if count else None

    def _load(self) -> dict[str, list[Member]]:
        if self._members is None:
            self._members = {}
            with open_scan(self._ref.url) as file:
                self._fill(self._members, TarScan(file))
        return self._members

    def _fill(self, members: dict[str, list[Member]], scan: TarScan) -> None:
        def noted() -> Iterator[Member]:
            for member in islice(scan.members(), MAX_MEMBERS):
                if len(member.name) > MAX_PATH:
                    continue
                members.setdefault(posixpath.normpath(member.name), []).append(member)
                yield member

        images = {source.place for source in self._layout.images}
        with suppress(TarFault):
            for number, run in enumerate(filter(self._layout.is_sample, _grouped(noted()))):
                has_image = any(ext in images for ext, _ in run.members)
                self._samples.setdefault(run.key, []).append(Counted(number, has_image))


def _sample(file: BinaryIO, run: Run, layout: Layout, directory: Directory, limit: int) -> Sample:
    key = short_key(run.key)
    try:
        parts = _Parts(file, run, layout, directory, limit)
        return Sample(
            key,
            parts.image(),
            parts.first(layout.labels, only_label),
            parts.first(layout.boxes, partial(parse_box, box_format=layout.box_format)),
            parts.encoded(layout.masks),
            parts.first(layout.texts, parse_text),
            parts.first(layout.contrast_texts, parse_text),
            references=parts.first(layout.references, parse_references),
            columns=own_columns(layout.own, parts.plain),
            parts=parts.encoded(layout.parts),
        )
    except FieldError as error:
        return Sample(key, error=str(error))


class _Parts:
    """The members of one sample, read on demand and each once."""

    def __init__(self, file: BinaryIO, run: Run, layout: Layout, directory: Directory, limit: int) -> None:
        self._file, self._run, self._layout, self._directory, self._limit = file, run, layout, directory, limit
        self._members: dict[str, Member] = {}
        self._trees: dict[str, Any] = {}
        for ext, member in run.members:
            if ext in self._members and ext in layout.known:
                raise FieldError(f"{ext}: two members of one sample end in .{ext}")
            self._members[ext] = member

    def image(self) -> bytes:
        for source in self._layout.images:
            if source.place in self._members:
                return self._body(source.place)
        raise FieldError(self._no_image())

    def _no_image(self) -> str:
        looked = _some(source.place for source in self._layout.images)
        reason = f"no image member: found {_some(self._members)}; looked for {looked}"
        if (number := self._directory.image_of(self._run.key)) is not None:
            return (
                f"the members of this key do not lie together: its image is sample {number} of the shard, and is read "
                f"without {_some(self._members)}; pack with tar --sort=name"
            )
        if unknown := self._layout.unknown_images(self._run):
            return (
                f"no image member: a key ends at the first dot of a file's name, so that this one's extension is "
                f"'.{clipped(unknown[0], MAX_NAME_LENGTH)}': rename the file (dots to underscores), or name the "
                "extension in input.fields.image where it is always the same"
            )
        return reason

    def encoded(self, alternatives: tuple[Source, ...]) -> bytes | None:
        """The first alternative that there is, a mask."""
        ext = next((source.place for source in alternatives if source.place in self._members), None)
        return None if ext is None else self._body(ext)

    def first(self, alternatives: tuple[Source, ...], parse: Any) -> Any:
        """The first alternative that has a value, parsed."""
        for source in alternatives:
            if source.place not in self._members:
                continue
            if not source.path:
                return self._whole(source, parse)
            value = descend(source.place, self._tree(source.place), source.path)
            if value is not None:
                return parse(source.name, value)
        return None

    def plain(self, alternatives: tuple[Source, ...]) -> Any:
        """The first alternative that has a value, as it is: of a member without JSON, its text."""
        for source in alternatives:
            if source.place not in self._members:
                continue
            if source.place.split(".")[-1] != "json":
                return self._body(source.place).decode("utf-8", "backslashreplace").strip()
            value = descend(source.place, self._tree(source.place), source.path)
            if value is not None:
                return value
        return None

    def _whole(self, source: Source, parse: Any) -> Any:
        """A member that is one value: text for a label or a concept, JSON for a box."""
        if parse in (only_label, parse_text, parse_references) and source.place.split(".")[-1] != "json":
            read = text_label if parse is only_label else parse
            return read(source.name, self._body(source.place))
        value = self._tree(source.place)
        return None if value is None else parse(source.name, value)

    def _tree(self, ext: str) -> Any:
        if ext not in self._trees:
            self._trees[ext] = parse_json(ext, self._body(ext))
        return self._trees[ext]

    def _body(self, ext: str) -> bytes:
        member = self._directory.target(self._members[ext])
        if member.size > self._limit:
            raise FieldError(f"{ext}: {member.size} bytes are more than the allowed {self._limit}")
        self._file.seek(member.body)
        body = self._file.read(member.size)
        if len(body) < member.size:
            raise OSError(errno.EIO, f"{ext}: the shard was cut off while it was read")
        return body


def _describe(fault: TarFault, count: int, last: str) -> str:
    if fault.at == 0:
        return fault.reason
    after = f"after {count} samples at byte {fault.at}"
    if fault.reason.startswith("truncated"):
        return f"truncated {after}{fault.reason.removeprefix('truncated')}"
    hint = f"; the last sample, {last!r}, may lack members" if count and not fault.name else ""
    return f"{after}: {fault.reason}{hint}"


def _some(names: Any) -> str:
    """A few names for a message."""
    listed = sorted(set(names))
    return (
        ", ".join(clipped(name, MAX_NAME_LENGTH) for name in listed[:8]) + (", ..." if len(listed) > 8 else "")
        if listed
        else "nothing"
    )


WEBDATASET = Format(
    name="webdataset",
    description="a tar; consecutive members `KEY.EXTENSION` are one sample",
    suffixes=(".tar",),
    fields=Fields(";".join(EXTENSIONS), "cls;json.label", "json.box_xyxy", "mask.png"),
    index=index,
    keys=keys,
    read=read,
    other_fields={
        "label": ("json.class", "json.class_name", "json.category", "json.species", "json.category_id", "txt"),
        "box": ("json.box", "json.bbox"),
        "mask": ("seg.png", "segmentation.png"),
    },
)
