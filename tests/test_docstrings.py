"""Examples in docstrings are run as they stand, in a folder with the shards `in` and the export `demo_export`."""

import doctest
import importlib
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "finer_ray").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
# What a newcomer calls first.
PUBLIC = {
    "finer_ray.store.reading": {"open_export", "Export.maps", "Export.contrast"},
    "finer_ray.store.query": {"connect"},
    "finer_ray.pipeline.export": {"export"},
    "finer_ray.models.classifier": {"build_classifier"},
    "finer_ray.saliency.explanation": {"explain"},
    "finer_ray.saliency.aggregation": {"contrast"},
    "finer_ray.shards.find": {"find_shards"},
    "finer_ray.similar.images": {"similar_images"},
    "finer_ray.traits.run": {"pair_traits"},
}


@pytest.fixture
def folder(demo_like: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(demo_like, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_the_main_functions_have_an_example(name: str) -> None:
    found = doctest.DocTestFinder().find(importlib.import_module(name))
    with_example = {test.name.removeprefix(f"{name}.") for test in found if test.examples}
    assert PUBLIC[name] <= with_example
