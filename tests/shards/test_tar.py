"""Headers of archives: where links lead, whichever packer wrote them."""

import io
import tarfile
from pathlib import Path

import pytest

from finer_ray.shards.tar import TarScan

LONG = "deep/" * 40 + "photo.jpg"
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
@pytest.mark.parametrize(
    ("format", "target"),
    [
        *((format, target) for format in FORMATS for target in ("a.jpg", "dir/gr\u00fcn.jpg")),
        # In ustar a link's target has room for 100 bytes.
        *((format, LONG) for format in FORMATS if format != tarfile.USTAR_FORMAT),
    ],
)
def test_links_as_tarfile_reads_them(tmp_path: Path, format: int, kind: bytes, target: str) -> None:
    info = tarfile.TarInfo("link.jpg")
    info.type, info.linkname = kind, target
    plain = tarfile.TarInfo("plain.jpg")
    plain.size = 3
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=format) as tar:
        tar.addfile(info)
        tar.addfile(plain, io.BytesIO(b"abc"))
    with path.open("rb") as file:
        link, after = TarScan(file).members()
    with tarfile.open(path) as tar:
        assert link.link == tar.getmembers()[0].linkname == target
    assert (link.name, link.size, link.regular, link.symbolic) == ("link.jpg", 0, False, kind == tarfile.SYMTYPE)
    assert (after.name, after.size, after.regular, after.link) == ("plain.jpg", 3, True, None)


def test_the_fingerprint_of_an_archive_without_links_stays(tmp_path: Path) -> None:
    """Exports made before know their shards by it; the number is of the version before links were read."""
    info = tarfile.TarInfo("a.jpg")
    info.size = 3
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"abc"))
    with path.open("rb") as file:
        scan = TarScan(file)
        assert len(list(scan.members())) == 1
    assert scan.fingerprint == "5b9b931e9c2495cb84ab714ef7962c149734fc43e90053102eb545f0d9951204"
