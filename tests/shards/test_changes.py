"""Signs of change on the Hugging Face Hub: its own file system, which a small server answers in the Hub's form."""

import hashlib
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub.constants
import pytest
from huggingface_hub import HfFileSystem

from finer_ray.config.schema import Config
from finer_ray.errors import ExportError
from finer_ray.pipeline import planning
from finer_ray.pipeline.export import export
from finer_ray.shards import ShardRef, stamps
from finer_ray.shards.changes import is_tag
from tests.conftest import photo, sample, write_tar

Job = Callable[..., Config]
FILES: dict[str, bytes] = {}


class Hub(BaseHTTPRequestHandler):
    """A Hub with one repository: its revision, its tree, and its files."""

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        _, marked, name = place.path.partition("/resolve/main/")
        if marked:
            self.answer(FILES[name], name)
            return
        _, marked, folder = place.path.partition("/tree/main")
        if not marked:
            self.answer(json.dumps({"id": "me/birds", "sha": "0" * 40, "siblings": []}).encode())
            return
        found = list(tree(folder.strip("/"), "recursive=true" in place.query.lower()))
        self.answer(json.dumps(found).encode() if found else None)

    def answer(self, body: bytes | None, name: str = "") -> None:
        whole = body or b""
        first, last = 0, len(whole) - 1
        if wanted := self.headers.get("Range"):
            first, last = (int(text or last) for text in wanted.removeprefix("bytes=").split("-"))
        self.send_response(404 if body is None else 206 if wanted else 200)
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        part = whole[first : last + 1]
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *args: Any) -> None:
        pass


def tree(folder: str, recursive: bool) -> Iterator[dict[str, Any]]:
    """What the Hub says of what is in a folder; of a large file, its blob is a pointer to it."""
    start = f"{folder}/" if folder else ""
    inside = {name[len(start) :]: body for name, body in FILES.items() if name.startswith(start)}
    for name in sorted({name.split("/")[0] for name in inside if "/" in name}):
        yield {"type": "directory", "oid": "0" * 40, "size": 0, "path": start + name}
    for name, body in inside.items():
        if recursive or "/" not in name:
            sha = hashlib.sha256(body).hexdigest()
            lfs = {"oid": sha, "size": len(body), "pointerSize": 134}
            blob = hashlib.sha256(f"oid sha256:{sha}".encode()).hexdigest()[:40]
            yield {"type": "file", "oid": blob, "size": len(body), "lfs": lfs, "path": start + name}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    url, path = f"http://127.0.0.1:{server.server_port}", "{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{path}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    HfFileSystem.clear_instance_cache()
    yield
    server.shutdown()
    thread.join()
    server.server_close()
    FILES.clear()
    HfFileSystem.clear_instance_cache()


def put(name: str, content: bytes) -> None:
    FILES[name] = content
    # As a process that starts sees it.
    HfFileSystem.clear_instance_cache()


@pytest.mark.parametrize("repository", ["datasets/me/birds", "datasets/me/birds@main", "me/birds", "models/me/birds"])
def test_a_file_is_known_by_its_blob(hub: None, repository: str) -> None:
    ref = ShardRef(f"hf://{repository}/data/a.tar", "webdataset")
    put("data/b.tar", b"other")
    assert stamps([ref]) == {}
    put("data/a.tar", b"one")
    before = stamps([ref])
    assert is_tag(before[ref.url])
    put("data/b.tar", b"changed")
    assert stamps([ref]) == before
    put("data/a.tar", b"two")
    assert stamps([ref]) != before


def test_a_folder_of_images_is_known_by_theirs(hub: None) -> None:
    ref = ShardRef("hf://datasets/me/birds/photos", "folder")
    put("photos/a/1.jpg", photo(1))
    put("other.jpg", photo(2))
    before = stamps([ref])
    assert is_tag(before[ref.url])
    put("other.jpg", photo(3))
    assert stamps([ref]) == before
    put("photos/a/1.jpg", photo(4))
    assert stamps([ref]) != before


def test_a_second_run_counts_nothing_anew(hub: None, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    put("data/a.tar", write_tar(tmp_path / "a.tar", [*sample("a", 1), *sample("b", 2)]).read_bytes())
    config = job("hf://datasets/me/birds/data/*.tar")
    assert export(config).new == 2
    counted: list[str] = []
    monkeypatch.setattr(planning, "index_shard", _noting(planning.index_shard, counted))
    put("data/a.tar", FILES["data/a.tar"])
    assert export(config).new == 0
    assert counted == []
    put("data/b.tar", write_tar(tmp_path / "b.tar", sample("c", 3)).read_bytes())
    assert export(config).new == 1
    assert counted == ["hf://datasets/me/birds/data/b.tar"]
    put("data/a.tar", write_tar(tmp_path / "a.tar", [*sample("a", 1), *sample("b", 4)]).read_bytes())
    with pytest.raises(ExportError, match="1 changed"):
        export(config)


def _noting(index: Callable[..., Any], counted: list[str]) -> Callable[..., Any]:
    def noted(ref: ShardRef, *args: Any) -> Any:
        counted.append(ref.url)
        return index(ref, *args)

    return noted
