"""The notebooks of examples/: each runs as a whole in an empty folder, offline, and shows pictures."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.pages import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# Pictures that each shows at least, and files that it makes.
SHOWN = {"explain_a_folder": 1, "ask_an_export": 3}
MADE = {
    "explain_a_folder": ("photos_export/export.json", "photos_export/report/index.html"),
    "ask_an_export": ("birds_export/export.json", "what_tells.png"),
}


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_without_outputs(path: Path) -> None:
    """What it shows depends on the machine; and a difference of two versions is one of their texts."""
    book = read(path)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    book = read(path)
    NotebookClient(book, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= SHOWN[path.stem]
    assert [name for name in MADE[path.stem] if not (tmp_path / name).is_file()] == []
    said = "".join(output.get("text", "") for output in outputs)
    # A command of a shell (`!`) that fails is no error of the notebook.
    assert all(word not in said for word in ("Error", "error:", "not found"))
    if path.stem == "ask_an_export":
        assert "yellow-billed white-barred reed finch: bill" in said
