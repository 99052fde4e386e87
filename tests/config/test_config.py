"""The config: refused with place and nearest names, overridden, fingerprinted."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from finer_ray.config.loading import load_config, parse_config, parse_section
from finer_ray.config.schema import Config, SaliencyConfig, fingerprinted
from finer_ray.errors import ConfigError
from finer_ray.probe.config import ProbesConfig
from finer_ray.saliency.spec import baselines

GOOD: dict[str, Any] = {
    "input": {"shards": "a.tar"},
    "model": {"backbone": "timm:resnet18", "weights": "random"},
    "output": {"url": "out"},
}


def write(tmp_path: Path, tree: Any) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_overrides_are_yaml(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD), ["saliency.gamma=2", "saliency.maps=[gradcam]", "input.shards=b-*.tar"])
    assert config.saliency.gamma == 2.0
    assert config.saliency.maps == ["gradcam"]
    assert config.input.shards == ["b-*.tar"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("saliency.gama=1", r"saliency\.gama: unknown key \(nearest: gamma"),
        ("saliency.maps=[finer_gradcm]", r"saliency\.maps\.0: .*nearest: finer_gradcam"),
        ("saliency.maps=[gradcam, gradcam]", "names a map twice"),
        ("saliency.gamma=.nan", r"saliency\.gamma"),
        ("sailency.gamma=1", r"sailency: unknown key \(nearest: saliency"),
        ("input.max_failures=2", r"input\.max_failures"),
        ("output.rows_per_chunk=33", "must divide"),
        ("compute.actors_min=3", None),
        ("compute={compile: max-autotune, units_per_actor: 2}", "CUDA graphs"),
        ("compute={compile: true, units_per_actor: 2}", None),
        ("model.head=text", r"model: head: text needs model\.classes"),
        ("model.backbone=resnet18", r"model\.backbone"),
        ("saliency.rise.maks=10", r"saliency\.rise\.maks: unknown key \(nearest: masks"),
        ("saliency.rise.keep=0", r"saliency\.rise\.keep"),
        ("saliency.mask.steps=0", r"saliency\.mask\.steps"),
        ("saliency.gem.depth=1", r"saliency\.gem\.depth"),
        ("nonsense", "must have the form a.b=c"),
        ("input.shards.x=1", "shards is a value"),
    ],
)
def test_faults_name_their_place(tmp_path: Path, override: str, message: str | None) -> None:
    if message is None:
        load_config(write(tmp_path, GOOD), [override])
        return
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, GOOD), [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.image_size=1000"],
            "output.rows_per_unit: 512 images of up to 1000x1000 pixels .* must be 357 at most",
        ),
        (["model.image_size=[500,1000]", "output.rows_per_unit=1024"], "1024 images of up to 1000x500 .*715 at most"),
        (["model.crop_pct=0.9"], "crop_pct goes with a crop"),
        (["compute.compile=true"], "compute.compile compiles for one size"),
    ],
)
def test_native_sizes_have_conditions(tmp_path: Path, overrides: list[str], message: str) -> None:
    job = write(tmp_path, GOOD)
    with pytest.raises(ConfigError, match=message):
        load_config(job, ["model.resize=native", *overrides])
    allowed = ["model.resize=native", "model.image_size=1000", "output.rows_per_unit=256"]
    assert load_config(job, allowed).model.resize == "native"


def test_every_fault_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"input": {"shards": []}, "model": {"backbone": "timm:x"}, "compute": {"batch_size": 0}})
    for place in ("input.shards", "model.weights", "compute.batch_size", "output"):
        assert f"{place}:" in str(caught.value)


def test_no_file_and_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="must be a mapping"):
        load_config(write(tmp_path, [1]))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(tmp_path / "bad.yaml")


def changed(**sections: dict[str, Any]) -> Config:
    return parse_config({**GOOD, **{name: {**GOOD.get(name, {}), **values} for name, values in sections.items()}})


def test_the_fingerprint_covers_what_decides_a_row_and_nothing_else() -> None:
    base = changed().fingerprint()
    for same in (
        changed(input={"shards": ["b.tar"], "max_failures": 0.5}),
        changed(output={"url": "elsewhere"}),
        changed(compute={"batch_size": 4, "actors_max": 2}),
        changed(saliency={"rise": {"masks": 10}, "mask": {"steps": 10}, "gem": {"depth": 3}}),
    ):
        assert same.fingerprint() == base
    others = [
        changed(saliency={"gamma": 0.7}),
        changed(saliency={"target": "label"}),
        changed(output={"rows_per_unit": 64}),
        changed(compute={"precision": "bf16"}),
        changed(input={"fields": {"label": "cls"}}),
        changed(model={"image_size": 96}),
        changed(saliency={"registration": "stretch"}),
    ]
    assert len({base, *(other.fingerprint() for other in others)}) == 8


@pytest.mark.parametrize(
    ("sections", "fingerprint"),
    [
        ({}, "5bcf840f57c70a8e"),
        ({"saliency": {"maps": ["rise", "finer_mask"]}}, "a42d2395cace2e28"),
        ({"input": {"decoder": "cpu"}}, "5bcf840f57c70a8e"),
        ({"model": {"backbone": "open_clip:local-dir:/a/b"}}, "c8454f312e2821df"),
    ],
)
def test_fingerprints_of_exports_that_are_there_already(sections: dict[str, Any], fingerprint: str) -> None:
    """As version 0.1 wrote them into manifests: maps were stretched."""
    sections = {**sections, "saliency": {**sections.get("saliency", {}), "registration": "stretch"}}
    assert changed(**sections).fingerprint() == fingerprint


SECRET = "https://me:S3CR3T@host/x"


@pytest.mark.parametrize(
    "sections",
    [
        {"input": {"shards": SECRET}},
        {"input": {"shards": {"a": SECRET}}},
        {"input": {"format": SECRET}},
        {"model": {"backbone": SECRET}},
        {"model": {"backbone": f"open_clip:local-dir:{SECRET}"}},
        {"model": {"weights": SECRET}},
        {"model": {"head": SECRET}},
        {"model": {"classes": SECRET}},
        {"model": {"concepts": SECRET}},
        {"output": {"url": SECRET}},
        {"compute": {"batch_size": SECRET}},
        {"saliency": {SECRET: 1}},
    ],
)
def test_no_message_repeats_a_secret(sections: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        changed(**sections)
    assert "S3CR3T" not in str(caught.value)
    assert "S3CR3T" not in repr(caught.value)
    [(section, values)] = sections.items()
    [(key, value)] = values.items()
    for override in (f"{section}.{key}={json.dumps(value)}", SECRET):
        with pytest.raises(ConfigError) as caught:
            load_config(write(tmp_path, GOOD), [override])
        assert "S3CR3T" not in str(caught.value)


def test_a_probing_job_holds_no_secret_either() -> None:
    tree: dict[str, Any] = {
        "backbones": [{"backbone": "timm:x", "weights": "random"}],
        "datasets": [{"name": "a", "classes": ["a", "b"], "train": {"shards": "a.tar"}}],
        "output": {"url": "probes"},
    }
    parse_section(ProbesConfig, tree)
    for wrong in (
        {"output": {"url": SECRET}},
        {"backbones": [{"backbone": "timm:x", "weights": SECRET}]},
        {"datasets": [{"name": "a", "classes": SECRET, "train": {"shards": "a.tar"}}]},
        {"datasets": [{"name": "a", "train": {"export": SECRET}}]},
    ):
        with pytest.raises(ConfigError, match="must not hold a password") as caught:
            parse_section(ProbesConfig, {**tree, **wrong})
        assert "S3CR3T" not in str(caught.value)


def test_every_comparing_map_finds_its_baseline() -> None:
    maps = [
        "finer_gradcam",
        {"name": "plain", "cam": "gradcam", "gamma": 0},
        "gradcam",
        {"name": "far", "cam": "gradcam", "gamma": 2.0},
        {"name": "usual", "cam": "layercam"},
        {"name": "against", "cam": "gradcam", "reverse": True},
        "finer_scorecam",
        "layercam",
    ]
    found = baselines(SaliencyConfig.model_validate({"maps": maps}).specs())
    assert found == {"finer_gradcam": "plain", "far": "plain", "usual": "layercam"}
    assert baselines(SaliencyConfig.model_validate({"maps": maps, "gamma": 0}).specs()) == {"far": "finer_gradcam"}


RENAMED = {
    "input": {"shards": "a.tar", "fields": {"concept": "json.a", "base": "json.b"}},
    "compute": {"runner": "inline", "patience": 5},
}


def test_keys_are_taken_by_the_names_that_they_had_and_the_file_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **RENAMED}))
    config = load_config(path)
    assert (config.input.fields.text, config.input.fields.contrast_text) == ("json.a", "json.b")
    assert (config.compute.executor, config.compute.retry_seconds) == ("inline", 5)
    said = capsys.readouterr().err
    for old, new in (("concept", "text"), ("base", "contrast_text"), ("runner", "executor"), ("patience", "retry_sec")):
        assert f"note: {path}: the key {old} is called {new}" in said
    # As a manifest has them, nobody is told, and what was exported under the old names goes on.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_config({**GOOD, **RENAMED}) == config
    assert fingerprinted({**config.model_dump(mode="json")})["input"]["fields"]["concept"] == "json.a"


def test_a_key_by_both_of_its_names_is_refused() -> None:
    with pytest.raises(ConfigError, match="runner is the old name of executor"):
        parse_config({**GOOD, "compute": {"runner": "inline", "executor": "ray"}})
