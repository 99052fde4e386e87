"""The birds' model: the shipped weights know held-out birds; training lowers the loss."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from torch.nn import functional

from birds.accuracy import accuracies
from birds.augmentation import augmented
from birds.captions import EMPTY, Caption
from birds.patches import PatchDropout, shown
from birds.pictures import Picture
from birds.species import ATTRIBUTES, PARTS, SPECIES, VARIED, attribute, differing_parts, values
from birds.train import RENDERED, SIDE, Settings, contrast, spread, start, train, write_model
from birds.training_set import TrainingSet
from finer_ray.config.schema import ModelConfig
from finer_ray.models import build_classifier

pytestmark = pytest.mark.slow
MODEL = "package:finer_ray/demo/birds_model"


def shipped(**options: object) -> ModelConfig:
    base: dict[str, object] = {
        "head": "text",
        "classes": [species.name for species in SPECIES],
        "concepts": [*ATTRIBUTES, "bird"],
    }
    place = {"backbone": f"open_clip:local-dir:{MODEL}", "weights": f"{MODEL}/open_clip_model.safetensors"}
    return ModelConfig.model_validate({**place, **base, **options})


def test_shipped_weights_know_held_out_birds() -> None:
    todo = [Picture("test", 500 * 24 + number) for number in range(96)]
    images, labels = [picture.render().image for picture in todo], np.array([picture.label for picture in todo])
    model = build_classifier(shipped())
    assert model.grid_size == (20, 20)
    found = accuracies(model, images, labels)
    report = json.loads((resources.files("finer_ray.demo") / "birds_model" / "training.json").read_text())
    assert all(value >= 0.9 for value in report["held_out"]["by_genus"].values())
    for name in ("zero_shot", "within_genus", "attributes"):
        assert report["held_out"][name] > THRESHOLDS[name]
        assert found[name] > THRESHOLDS[name]
        # 96 pictures against 480: no further apart than chance allows.
        assert abs(found[name] - report["held_out"][name]) < 0.15
    shuffled = accuracies(model, images, np.roll(labels, 5))
    assert shuffled["zero_shot"] < 0.2


THRESHOLDS = {"zero_shot": 0.9, "within_genus": 0.9, "attributes": 0.9}


def test_shipped_files_are_small_and_complete() -> None:
    folder = Path(str(resources.files("finer_ray.demo") / "birds_model"))
    names = {"open_clip_config.json", "bpe.txt.gz", "open_clip_model.safetensors", "training.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12_000_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return TrainingSet.rendered(per_class=2, size=RENDERED, cache=tmp_path_factory.mktemp("cache"))


def test_siblings_stand_alike_and_share_a_batch(data: TrainingSet) -> None:
    assert data.pixels.shape == (50, RENDERED, RENDERED, 4)
    assert np.bincount(data.labels).tolist() == [2] * 25
    for step in range(2 * data.steps(24)):
        rows = data.batch(step, 24, seed=0)
        assert len(set(rows.tolist())) == len(rows) == 21
        groups = data.groups(rows)
        families = [rows[groups == number] for number in range(groups.max() + 1)]
        assert sorted(map(len, families)) == [1, *[4] * 5]
        for family in families:
            kinds = SPECIES[data.labels[family[0]] : data.labels[family[-1]] + 1]
            assert len(family) == 1 or len({species.genus for species in kinds}) == 1
    first, second = data.pixels[0], data.pixels[1]
    # Red and yellow bill: the same birds but for the bill or the wing bar.
    parts = [1 + PARTS.index(part) for part in differing_parts(SPECIES[0], SPECIES[1])]
    differs = (first[..., :3] != second[..., :3]).any(-1)
    assert differs.any()
    inside = np.isin(first[..., 3], parts)
    # Edges of a part are blended with what is beside it.
    assert differs[binary_dilation(inside, iterations=2)].sum() == differs.sum()


def test_every_family_comes_once_in_a_pass(data: TrainingSet) -> None:
    rows = np.concatenate([data.batch(step, 13, seed=3) for step in range(data.steps(13))])
    birds = rows[data.labels[rows] != EMPTY]
    assert sorted(birds.tolist()) == sorted(set(birds.tolist()))
    assert len(birds) == 48


def test_training_lowers_the_loss_and_its_model_loads(data: TrainingSet, tmp_path: Path) -> None:
    settings = Settings(per_class=2, epochs=12, batch=24, described=8)
    torch.set_num_threads(1)
    model, tokenizer = start(tmp_path / "model", seed=0)
    losses = list(train(model, tokenizer, data, settings))
    assert len(losses) == settings.steps(data) == 24
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    write_model(model, tmp_path / "model")
    options = {
        "backbone": f"open_clip:local-dir:{tmp_path / 'model'}",
        "weights": str(tmp_path / "model" / "open_clip_model.safetensors"),
    }
    classifier = build_classifier(shipped(**options))
    x = torch.rand((4, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = functional.normalize(model.encode_image(x), dim=-1)
        ours = functional.normalize(classifier.cut(x).embedding, dim=-1)
    # Half precision is what was lost.
    torch.testing.assert_close(ours, expected, rtol=0, atol=0.02)


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(
    data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("birds.train.SAVED", 2)
    torch.set_num_threads(1)
    settings = Settings(per_class=2, epochs=2, batch=24, described=4)
    whole = list(train(*start(tmp_path / "whole", seed=0), data, settings))
    checkpoint = tmp_path / "checkpoint.pt"
    stopped = train(*start(tmp_path / "stopped", seed=0), data, settings, checkpoint)
    before = [next(stopped), next(stopped)]
    stopped.close()
    after = list(train(*start(tmp_path / "again", seed=1), data, settings, checkpoint))
    np.testing.assert_allclose([*before, *after], whole, rtol=1e-3)


def test_spread_and_what_patches_show_by_hand() -> None:
    """Two families of two, four patches each; what differs lies in one patch of the first, in all of the second."""
    inputs, birds = torch.zeros(4, 3, 4, 4), torch.zeros(4, 1, 4, 4)
    inputs[1, 0, 0, 0], birds[:, :, 2:, 2:] = 1, 1
    inputs[3] = 1
    groups = torch.tensor([0, 0, 1, 1])
    kept = torch.tensor([[0, 1, 2, 3]] * 2 + [[3, 2, 1, 0]] * 2)
    seen = shown(inputs, birds, groups, kept, size=2)
    assert seen.alike.tolist() == [[False, True, True, True]] * 2 + [[False] * 4] * 2
    assert seen.background.tolist() == [[True, True, True, False]] * 2 + [[False, True, True, True]] * 2
    tokens = torch.zeros(4, 4, 2)
    tokens[1, 0, 0], tokens[1, 1, 1], tokens[2, 3, 0] = 6, 2, 4
    # Of 12 in all, 2 lie where the pictures are alike.
    assert spread(tokens, groups, seen.alike).item() == pytest.approx(2 / 12, abs=1e-5)


def test_patches_are_dropped_alike_in_a_group() -> None:
    dropping = PatchDropout(0.5)
    dropping.groups = torch.tensor([0, 0, 1])
    tokens = torch.arange(1 + 10.0)[None, :, None].expand(3, -1, 4)
    kept = dropping(tokens)
    assert kept.shape == (3, 6, 4)
    assert (kept[:, 0] == 0).all()
    torch.testing.assert_close(kept[:, 1:, 0], 1.0 + dropping.kept)
    assert torch.equal(dropping.kept[0], dropping.kept[1])
    assert (dropping.kept.diff(dim=1) > 0).all()


def test_the_loss_by_hand() -> None:
    rng = np.random.default_rng(0)
    texts = [Caption("", rng.random(EMPTY + 1) < 0.3) for _ in range(30)]
    labels, logits = np.array([3, EMPTY, 20]), rng.normal(size=(3, 30))
    pairs = [
        np.log1p(np.exp(-z if texts[column].true_of[label] else z))
        for label, row in zip(labels, logits, strict=True)
        for column, z in enumerate(row)
    ]
    named = [
        np.log(np.exp(row[:24]).sum()) - row[label] for label, row in zip(labels, logits, strict=True) if label != EMPTY
    ]
    ours = contrast(torch.from_numpy(logits), texts, torch.from_numpy(labels))
    assert ours.item() == pytest.approx(4 * np.mean(pairs) + np.mean(named))


def test_augmentation_keeps_the_birds_colours_and_treats_a_group_alike() -> None:
    plain = np.zeros((64, 40, 40, 4), dtype=np.uint8)
    plain[..., :3], plain[:, 10:30, 10:30, 3] = (200, 60, 40), 1
    groups = np.arange(64) // 2
    inputs, birds = augmented(plain, groups, 32, np.random.default_rng(0))
    assert inputs.shape == (64, 3, 32, 32)
    torch.testing.assert_close(inputs[::2], inputs[1::2])
    whole = birds[:, 0] > 0.999
    red, green, blue = (
        torch.stack([image[:, where].mean(1) for image, where in zip(inputs, whole, strict=True)]) + 1
    ).T
    assert ((red > 2 * green) & (green > blue)).all()
    edges = torch.stack([image[:, ~(bird > 0)].mean(1) for image, bird in zip(inputs, birds[:, 0], strict=True)])
    # Half of the backgrounds have another hue.
    assert 20 < int(((edges - edges.median(0).values).abs().amax(1) > 0.25).sum()) < 50


def test_accuracies_by_hand() -> None:
    """A classifier that answers by the first pixel: right for species 0 and 5, wrong for 9."""

    class Fake(torch.nn.Module):
        transform = build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random")).transform

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            label = (images[:, 0, 0, 0] * self.transform.std[0] + self.transform.mean[0]).mul(255).round().long()
            names = functional.one_hot(label, 24).float()
            texts = [[text in attribute_texts(i) for text in ATTRIBUTES] for i in label.tolist()]
            return torch.cat([names, torch.tensor(texts).float()], dim=1)

    def attribute_texts(label: int) -> set[str]:
        return {attribute(part, value) for part, value in SPECIES[label].parts.items()}

    images = [np.full((64, 64, 3), label, dtype=np.uint8) for label in (0, 5, 8)]
    found = accuracies(Fake(), images, np.array([0, 5, 9]))  # type: ignore[arg-type]
    assert found["zero_shot"] == found["within_genus"] == pytest.approx(2 / 3)
    assert found["genus"] == 1.0
    assert found["by_genus"] == {"reed finch": 1.0, "willow warbler": 1.0, "hill thrush": 0.0}
    # Species 8 and 9 differ in their eye ring alone.
    assert found["by_part"] == {part: pytest.approx(2 / 3 if part == "eye ring" else 1.0) for part in VARIED}
    assert len(values("eye ring")) == 3
