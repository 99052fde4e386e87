"""The table of CAM methods: what each entry promises, and what follows from it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config, SaliencyConfig
from finer_ray.errors import ConfigError
from finer_ray.saliency.method import Method
from finer_ray.saliency.methods import METHODS
from finer_ray.starter import inspect_data, job_text
from tests.conftest import sample, write_tar

ROOT = Path(__file__).parents[2]
EVERY = pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
SETTABLE = {name: method.settings for name, method in METHODS.items() if method.settings}


def config(**saliency: Any) -> Config:
    model = {"backbone": "timm:resnet18", "weights": "random"}
    return parse_config({"input": {"shards": "a.tar"}, "model": model, "saliency": saliency, "output": {"url": "out"}})


@EVERY
def test_a_config_may_ask_for_it(method: Method) -> None:
    names = [method.name, f"finer_{method.name}"]
    assert config(maps=names).saliency.maps == names
    maps = config(maps=[*names, {"name": "own", "cam": method.name, "gamma": 2}]).saliency.specs()
    assert [(wanted.cam, wanted.gamma) for wanted in maps] == [(method.name, gamma) for gamma in (0.0, 0.6, 2.0)]
    with pytest.raises(ConfigError, match=rf"saliency\.maps\.0: .*nearest: (\w+, )*{names[1]}"):
        config(maps=[f"{names[1]}s"])


@EVERY
def test_it_is_described(method: Method) -> None:
    """In its module's docstring, in docs/method.md, in the example of docs/saliency.md and in what `init` writes."""
    module = sys.modules[method.prepare.__module__]
    assert module.__doc__
    assert re.search(r"\([A-Z][^()]+ \d{4}\)", module.__doc__), "its source"
    assert "map" in module.__doc__, "its formula"
    assert f"\n| {method.name} | {method.formula} | {method.cost} |\n" in (ROOT / "docs" / "method.md").read_text()
    assert re.search(rf"\b{method.name}\b", (ROOT / "docs" / "saliency.md").read_text())


def test_the_table_of_the_documentation_has_nothing_else() -> None:
    text = (ROOT / "docs" / "method.md").read_text().partition("| cam | map before ReLU | |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (\w+) \|", text, re.MULTILINE) == list(METHODS)


def test_the_starter_names_every_method(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", sample("a", 0, 1))
    text = job_text(inspect_data(str(tar)))
    assert all(re.search(rf"\b{name}\b", text) for name in METHODS)


@pytest.mark.parametrize("name", SETTABLE)
def test_settings_are_a_section_that_counts_where_a_map_uses_it(name: str) -> None:
    """And every key says what it means."""
    settings = SETTABLE[name]
    assert getattr(SaliencyConfig(), name) == settings
    assert all(field.description for field in type(settings).model_fields.values())
    unused = config().fingerprint()
    for key, value in settings.model_dump().items():
        changed = {name: {key: 0.25 if value is None else value / 2 if isinstance(value, float) else value + 1}}
        assert config(**changed).fingerprint() == unused
        for maps in ([name], [f"finer_{name}"], [{"name": "own", "cam": name}]):
            assert config(maps=maps, **changed).fingerprint() != config(maps=maps).fingerprint(), key


def test_names_that_would_be_ambiguous_are_refused() -> None:
    for name in ("finer_mine", "a-b", ""):
        with pytest.raises(ConfigError, match="a CAM method cannot be called"):
            Method(name, "", METHODS["gradcam"].prepare)


def test_the_tables_are_read_without_torch_and_ray() -> None:
    """By the config, and by whatever reads an export's tables."""
    modules = "finer_ray.config.schema, finer_ray.saliency.methods, finer_ray.saliency, finer_ray.store.tables"
    code = f"import {modules}, json, sys; print(json.dumps(list(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert not {"torch", "ray", "duckdb"} & set(json.loads(run.stdout))
