"""Tar: the members of an archive, header by header, with every fault reported.

The standard library's tarfile ends silently at garbage, and trusts the sizes it reads; counting images needs
neither. Only headers are read here; bodies are left to the caller.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import BinaryIO

from finer_ray.config.messages import brief
from finer_ray.shards.files import size_of

BLOCK = tarfile.BLOCKSIZE
MAX_EXTENSION_LENGTH = 2**20
MAX_LENGTH_DIGITS = 20
EXTENSIONS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
BODILESS = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive.

    Attributes:
        name: path in the archive; bytes that are not UTF-8 become backslash escapes.
        start: offset of its first header (an extension header where the name is long).
        body: offset of its contents.
        size: bytes of its contents.
        regular: whether it is a plain file.
        link: of a hard or symbolic link, the name it leads to; None for all else.
        symbolic: whether that name is relative to the link's own folder; a hard link's is one of the archive's.
    """

    name: str
    start: int
    body: int
    size: int
    regular: bool
    link: str | None = None
    symbolic: bool = False


@dataclass(frozen=True, slots=True)
class _Given:
    """What extension headers say of the member after them; None where they say nothing."""

    name: str | None = None
    size: int | None = None
    link: str | None = None

    def over(self, before: "_Given") -> "_Given":
        """Of two extension headers of one member, the later one counts."""
        return _Given(
            self.name or before.name,
            before.size if self.size is None else self.size,
            before.link if self.link is None else self.link,
        )


class TarFault(Exception):
    """The archive cannot be followed further.

    Attributes:
        at: offset of the fault.
        reason: what is wrong, in words.
        name: the member whose body is cut off, where that is the fault.
    """

    def __init__(self, at: int, reason: str, name: str | None = None) -> None:
        super().__init__(at, reason, name)
        self.at, self.reason, self.name = at, reason, name


class TarScan:
    """A walk over an open archive's headers.

    After the walk, `fingerprint` covers the file's size and every header passed: names, sizes, times, offsets and
    checksums of the members, but not their bodies.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = size_of(file)
        self._digest = sha256(str(self._size).encode())

    @property
    def fingerprint(self) -> str:
        """Hex digest of the headers passed so far."""
        return self._digest.hexdigest()

    def members(self, start: int = 0) -> Iterator[Member]:
        """Members from the one whose first header lies at `start`, to the archive's end.

        The caller may move the file's position between members. An archive cut off right after a member is
        told from a whole one by its missing closing block.

        Raises:
            TarFault: truncated, garbage, sparse members, or data after the end.
            OSError: the file cannot be read.
        """
        at = start
        while at < self._size:
            header = self._header(at)
            if header is None:
                self._check_end(at)
                return
            member = self._member(at, header)
            yield member
            at = member.body + _padded(member.size)
        raise TarFault(at, "truncated: the closing zero block is missing, and with it perhaps more samples")

    def _member(self, start: int, header: tarfile.TarInfo) -> Member:
        given = _Given()
        at = start
        while header.type in (*EXTENSIONS, tarfile.XGLTYPE):
            given = self._extension(at, header).over(given)
            at += BLOCK + _padded(header.size)
            following = self._header(at) if at < self._size else None
            if following is None:
                raise TarFault(at, "truncated")
            header = following
        name = header.name if given.name is None else given.name
        size = header.size if given.size is None else given.size
        link = header.linkname if given.link is None else given.link
        return self._checked(Member(name, start, at + BLOCK, size, header.isreg()), header, link)

    def _checked(self, member: Member, header: tarfile.TarInfo, link: str) -> Member:
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise TarFault(member.start, f"member {member.name!r} is sparse (pack without --sparse)", member.name)
        if header.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            return replace(member, size=0, link=link, symbolic=header.type == tarfile.SYMTYPE)
        if header.type in BODILESS:
            return replace(member, size=0)
        if member.body + member.size > self._size:
            raise TarFault(member.start, f"truncated inside member {member.name!r}", member.name)
        return member

    def _header(self, at: int) -> tarfile.TarInfo | None:
        """The header block at an offset; None for a block of zeros."""
        block = self._read(at, BLOCK)
        self._digest.update(block)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.TarError as error:
            if not block.strip(b"\0"):
                return None
            raise TarFault(at, _not_a_header(at, block, error)) from None
        if header.size < 0:
            raise TarFault(at, "damaged: a negative size")
        return header

    def _extension(self, at: int, header: tarfile.TarInfo) -> "_Given":
        """What an extension header gives to the next member."""
        if header.size > MAX_EXTENSION_LENGTH:
            raise TarFault(at, f"damaged: an extension header of {header.size} bytes")
        text = self._read(at + BLOCK, header.size)
        self._digest.update(text)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            return _Given(name=_text(text.rstrip(b"\0")))
        if header.type == tarfile.GNUTYPE_LONGLINK:
            return _Given(link=_text(text.rstrip(b"\0")))
        if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            return self._pax(at, text)
        return _Given()

    def _pax(self, at: int, text: bytes) -> "_Given":
        try:
            records = _pax_records(text)
            path, link, size = (records.get(key) for key in (b"path", b"linkpath", b"size"))
            if any(key.startswith(b"GNU.sparse.") for key in records):
                raise TarFault(at, "a member is sparse (pack without --sparse)")
            length = None if size is None else int(size)
        except ValueError:
            raise TarFault(at, "damaged: a pax header that cannot be parsed") from None
        if length is not None and length < 0:
            raise TarFault(at, "damaged: a negative size")
        return _Given(None if path is None else _text(path), length, None if link is None else _text(link))

    def _check_end(self, at: int) -> None:
        """Refuse anything but zeros after the closing block."""
        here = at
        while here < self._size:
            piece = self._read(here, min(self._size - here, 2**16))
            if piece.strip(b"\0"):
                here += len(piece) - len(piece.lstrip(b"\0"))
                reason = f"zeros, as at an archive's end, yet data from byte {here} on (damaged or concatenated)"
                raise TarFault(at, reason)
            here += len(piece)

    def _read(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        block = self._file.read(size)
        if len(block) < size:
            raise TarFault(at, "truncated")
        return block


def _not_a_header(at: int, block: bytes, error: tarfile.TarError) -> str:
    if at > 0:
        return f"damaged: no member header where one must be ({brief(error)})"
    packer = COMPRESSED.get(block[:2])
    return f"not a tar archive but {packer}: unpack it first" if packer else "not a tar archive"


def _pax_records(text: bytes) -> dict[bytes, bytes]:
    """Records of the form b'LENGTH KEY=VALUE\\n'. Raises ValueError."""
    records: dict[bytes, bytes] = {}
    text, at = text.rstrip(b"\0"), 0
    while at < len(text):
        space = text.find(b" ", at, at + MAX_LENGTH_DIGITS)
        end = at + int(text[at:space]) if space > 0 else 0
        key, equals, value = text[space + 1 : end - 1].partition(b"=")
        if not equals or not space + 1 < end <= len(text):
            raise ValueError(text[at:space])
        records[key] = value
        at = end
    return records


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
