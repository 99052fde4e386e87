"""The birds' model: the shipped weights know held-out birds; training lowers the loss."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from birds.accuracy import accuracies
from birds.captions import EMPTY, Caption
from birds.pictures import Picture
from birds.species import ATTRIBUTES, SPECIES, VARIED, attribute, values
from birds.train import Settings, augmented, contrast, start, train, training_set, write_model
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
    assert model.grid_size == (14, 14)
    found = accuracies(model, images, labels)
    report = json.loads((resources.files("finer_ray.demo") / "birds_model" / "training.json").read_text())
    for name in ("zero_shot", "within_genus", "attributes"):
        assert report["held_out"][name] > THRESHOLDS[name]
        assert found[name] > THRESHOLDS[name]
        # 96 pictures against 480: no further apart than chance allows.
        assert abs(found[name] - report["held_out"][name]) < 0.15
    shuffled = accuracies(model, images, np.roll(labels, 5))
    assert shuffled["zero_shot"] < 0.2


THRESHOLDS = {"zero_shot": 0.7, "within_genus": 0.7, "attributes": 0.7}


def test_shipped_files_are_small_and_complete() -> None:
    folder = Path(str(resources.files("finer_ray.demo") / "birds_model"))
    names = {"open_clip_config.json", "bpe.txt.gz", "open_clip_model.safetensors", "training.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000


def test_training_lowers_the_loss_and_its_model_loads(tmp_path: Path) -> None:
    settings = Settings(per_class=2, epochs=12, batch=24, described=8)
    pixels, labels = training_set(settings, tmp_path / "cache")
    assert pixels.shape == (50, 128, 128, 3)
    assert np.bincount(labels).tolist() == [2] * 25
    torch.set_num_threads(1)
    model, tokenizer = start(tmp_path / "model", seed=0)
    losses = list(train(model, tokenizer, pixels, labels, settings))
    assert len(losses) == 24
    assert np.mean(losses[-4:]) < 0.85 * np.mean(losses[:4])
    write_model(model, tmp_path / "model")
    options = {
        "backbone": f"open_clip:local-dir:{tmp_path / 'model'}",
        "weights": str(tmp_path / "model" / "open_clip_model.safetensors"),
    }
    classifier = build_classifier(shipped(**options))
    x = torch.rand((4, 3, 112, 112), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = functional.normalize(model.encode_image(x), dim=-1)
        ours = functional.normalize(classifier.cut(x).embedding, dim=-1)
    # Half precision is what was lost.
    torch.testing.assert_close(ours, expected, rtol=0, atol=0.02)


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


def test_augmentation_keeps_colours() -> None:
    plain = np.broadcast_to(np.array([200, 60, 40], dtype=np.uint8), (64, 128, 128, 3))
    inputs = augmented(plain, np.random.default_rng(0))
    assert inputs.shape == (64, 3, 112, 112)
    assert inputs.flatten(2).std(2).max() < 1e-5
    red, green, blue = (inputs.mean((2, 3)) + 1).T
    assert ((red > 2 * green) & (green > blue)).all()


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
    # Species 8 and 9 differ in their eye ring alone.
    assert found["by_part"] == {part: pytest.approx(2 / 3 if part == "eye ring" else 1.0) for part in VARIED}
    assert len(values("eye ring")) == 3
