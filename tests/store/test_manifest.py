"""Manifests: written while they are as they were read, which folders become exports, and what two of them differ in."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from finer_ray.config.schema import Config
from finer_ray.errors import ExportError, LeaseError
from finer_ray.images.transform import Transform
from finer_ray.store.manifest import EXPORT, PLAN, Manifest, ManifestFile, check_vacant, pending
from finer_ray.store.reading import open_export
from finer_ray.store.storage import Folder
from tests.store.exports import LAYOUT

Job = Callable[..., Config]


def manifest(config: Config, model: str = "m", head: str = "h", classes: tuple[str, ...] = ("cat", "dog")) -> Manifest:
    return Manifest(
        status="running",
        config=config.model_dump(mode="json"),
        config_fingerprint=config.fingerprint(),
        model_fingerprint=model,
        head_fingerprint=head,
        classes=list(classes),
        transform=asdict(Transform((64, 64))),
        layout=LAYOUT,
        shards=[],
        tables={},
        counts={},
        versions={},
    )


def refusal(there: Manifest, here: Manifest) -> str:
    with pytest.raises(ExportError) as caught:
        there.check_same(here)
    return str(caught.value)


def test_keys_that_differ_are_named_with_both_values(job: Job) -> None:
    there = manifest(job("a.tar"))
    here = manifest(job("b.tar", saliency={"gamma": 2.0}, input={"max_failures": 0.9, "fields": {"label": "cls"}}))
    text = refusal(there, here)
    assert "made with another config" in text
    assert there.config_fingerprint in text
    assert here.config_fingerprint in text
    assert "saliency.gamma 0.6 there, 2.0 here" in text
    assert "input.fields.label None there, 'cls' here" in text
    # What the fingerprint does not cover is no difference.
    assert "max_failures" not in text
    assert "shards" not in text
    assert "output.url '" not in text


def test_an_export_whose_maps_were_stretched_says_how_to_go_on(job: Job) -> None:
    """One of before there was a choice has no such key."""
    there = manifest(job("a.tar", saliency={"registration": "stretch"}))
    del there.config["saliency"]["registration"]
    text = refusal(there, manifest(job("a.tar")))
    assert there.config_fingerprint in text
    assert "to go on, write saliency.registration: stretch; saliency.registration" in text
    assert "'measured' here" in text
    there.check_same(manifest(job("a.tar", saliency={"registration": "stretch"})))
    # Two that differ in something else are told of that alone.
    assert "stretch" not in refusal(manifest(job("a.tar")), manifest(job("a.tar", saliency={"gamma": 2.0})))


def test_settings_of_a_method_that_only_one_uses(job: Job) -> None:
    there = manifest(job("a.tar", saliency={"maps": ["gradcam"], "rise": {"masks": 9}}))
    here = manifest(job("a.tar", saliency={"maps": ["rise"], "rise": {"masks": 9}}))
    text = refusal(there, here)
    assert "saliency.maps ['gradcam'] there, ['rise'] here" in text
    assert "saliency.rise.masks not given there, 9 here" in text
    assert "saliency.mask" not in text


def test_long_values_and_long_lists_are_cut(job: Job) -> None:
    there = manifest(job("a.tar", model={"templates": ["{} " + "x" * 3000]}))
    sections: dict[str, Any] = {
        "metrics": {"deletion": True, "insertion": True, "drops": True, "steps": 3, "fill": "black"},
        "saliency": {"gamma": 1.0, "references": 1, "aggregation": "mean_after_relu", "weighting": "probability"},
        "model": {"templates": ["{} " + "y" * 3000], "crop_pct": 0.5, "resize": "squash", "pool": "avg"},
    }
    text = refusal(there, manifest(job("a.tar", **sections)))
    assert text.count(" there, ") == 10
    assert "and 3 more" in text
    assert len(text) < 2000


def test_another_model(job: Job) -> None:
    there, other = job("a.tar"), job("a.tar", model={"weights": "other.safetensors"})
    text = refusal(manifest(there, model="m1"), manifest(other, model="m2"))
    assert "made with another model: its fingerprint is m1, this run's m2" in text
    assert "(model.weights 'random' there, 'other.safetensors' here)" in text
    assert "(the config names the same files; their contents differ)" in refusal(
        manifest(there, model="m1"), manifest(there, model="m2")
    )


def test_another_head(job: Job) -> None:
    there = job("a.tar")
    names = refusal(manifest(there, head="h1"), manifest(there, head="h2", classes=("cat", "fox", "owl")))
    assert "made with another head: its fingerprint is h1, this run's h2" in names
    assert "classes.1 'dog' there, 'fox' here; classes.2 not given there, 'owl' here" in names
    file = job("a.tar", model={"head": "probe.safetensors"})
    assert "model.head 'native' there, 'probe.safetensors' here" in refusal(
        manifest(there, head="h1"), manifest(file, head="h2")
    )
    assert "their contents differ" in refusal(manifest(there, head="h1"), manifest(there, head="h2"))


def test_a_config_from_before_a_key_was_there(job: Job, tmp_path: Path) -> None:
    there = manifest(job("a.tar"))
    del there.config["model"]["pool"], there.config["saliency"]["gem"]
    text = refusal(there.model_copy(update={"config_fingerprint": "old"}), manifest(job("a.tar")))
    assert "model.pool not given there, None here" in text


def test_of_two_runs_that_read_the_same_one_writes(demo_like: Path, tmp_path: Path) -> None:
    made = open_export(str(demo_like / "demo_export")).manifest
    folder = Folder(str(tmp_path))
    first, second = ManifestFile(folder, PLAN), ManifestFile(folder, PLAN)
    assert first.manifest is None
    first.write(made)
    with pytest.raises(LeaseError, match=r"another run has written .*plan\.json"):
        second.write(made.model_copy(update={"revision": 7}))
    # What it has read, it may write; and what it has written itself.
    second = ManifestFile(folder, PLAN)
    second.write(made.model_copy(update={"revision": 7}))
    second.write(made.model_copy(update={"revision": 8}))
    with pytest.raises(LeaseError):
        first.remove()
    second.remove()
    assert folder.read(PLAN) is None


def test_a_plan_of_another_state_is_left_over(demo_like: Path) -> None:
    made = open_export(str(demo_like / "demo_export")).manifest
    assert made.revision == 0
    plan = {base: made.model_copy(update={"base": base}) for base in (-1, 0, 1)}
    assert pending(None, made) is None
    assert pending(plan[-1], None) is plan[-1]
    assert pending(plan[-1], made) is None
    assert pending(plan[0], made) is plan[0]
    assert pending(plan[1], made) is None
    # An earlier version's plan says nothing of it, and is believed.
    assert pending(made, made) is made


def test_a_folder_becomes_an_export_if_it_is_empty_or_one(demo_like: Path, tmp_path: Path) -> None:
    check_vacant(Folder(str(demo_like / "demo_export")))
    check_vacant(Folder(str(tmp_path / "none")))
    folder = Folder(str(tmp_path))
    check_vacant(folder)
    # What a run leaves that was killed right after it began; and what people's tools leave.
    for name in ("lease/00000001.json", "lease/lock", "lease/00000002.json.0a1b2c3d.tmp", ".DS_Store"):
        folder.write(name, b"")
    check_vacant(folder)
    folder.write("lease/contract.pdf", b"")
    with pytest.raises(ExportError, match=r"holds other files \(lease/contract\.pdf\)"):
        check_vacant(folder)
    for number in range(9):
        folder.write(f"photo{number}.jpg", b"")
    with pytest.raises(ExportError, match=r"photo0\.jpg, .*, \.\.\.\).*choose an empty or new folder"):
        check_vacant(folder)
    folder.write(EXPORT, b"{}")
    with pytest.raises(ExportError, match=r"export\.json is no manifest of finer_ray"):
        check_vacant(folder)
