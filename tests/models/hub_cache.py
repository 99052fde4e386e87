"""The hub's cache as huggingface_hub lays it out, filled with files of our own."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def lay_out(cache: Path, repo: str, files: Mapping[str, bytes | Path], commit: str = COMMIT, ref: str = "main") -> Path:
    """Put a repository's files into a cache: blobs by their digests, links to them in a snapshot, a ref to its commit.

    Returns:
        The folder of the snapshot.
    """
    root = cache / f"models--{repo.replace('/', '--')}"
    folder = root / "snapshots" / commit
    for name, content in files.items():
        data = content.read_bytes() if isinstance(content, Path) else content
        blob = root / "blobs" / hashlib.sha256(data).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    folder.mkdir(parents=True, exist_ok=True)
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / ref).write_text(commit)
    return folder
