"""Training: against scikit-learn, the same bits by seed, a file that a job can use."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import Normalizer, StandardScaler

from finer_ray.models.head import LinearHead, probe_bytes, probe_metadata, read_probe
from finer_ray.probe.config import TrainingConfig
from finer_ray.probe.embeddings import Embeddings
from finer_ray.probe.training import correct, train
from tests.probe.exports import gaussians, write_export

pytestmark = pytest.mark.slow
CLASSES = 8
NAMES = [f"class {i}" for i in range(CLASSES)]


def data(
    path: Path, count: int, seed: int, per_chunk: int = 32, buffer_rows: int = 1024
) -> tuple[Embeddings, np.ndarray, np.ndarray]:
    rows, labels = gaussians(count, 24, CLASSES, seed, spread=2.0)
    # A channel that never changes, as dead ReLUs give.
    rows[:, 3] = 0.7
    export = write_export(path, rows, labels.tolist(), NAMES, per_chunk=per_chunk)
    return Embeddings([export], CLASSES, buffer_rows=buffer_rows), rows.astype(np.float16).astype(np.float32), labels


@pytest.mark.parametrize("normalize", [False, True])
def test_as_good_as_scikit_learns_logistic_regression(tmp_path: Path, normalize: bool) -> None:
    fitted, rows, labels = data(tmp_path / "train", 3000, 0)
    judged, others, truth = data(tmp_path / "test", 3000, 1)
    head = train(fitted, TrainingConfig(epochs=60, normalize=normalize))

    unit = Normalizer() if normalize else StandardScaler(with_mean=False, with_std=False)
    scaler = StandardScaler().fit(unit.fit_transform(rows))
    theirs = LogisticRegression(max_iter=1000).fit(scaler.transform(unit.transform(rows)), labels)
    for ours, features, wanted in ((fitted, rows, labels), (judged, others, truth)):
        expected = theirs.score(scaler.transform(unit.transform(features)), wanted)
        assert correct(head, ours) / len(ours) == pytest.approx(expected, abs=0.01)
        assert 0.5 < expected < 0.9
    # Almost the same probabilities too, image by image.
    ours = head(torch.from_numpy(others)).softmax(1).numpy()
    assert np.abs(ours - theirs.predict_proba(scaler.transform(unit.transform(others)))).mean() < 0.01


def test_the_same_seed_gives_the_same_bits_however_the_export_is_chunked(tmp_path: Path) -> None:
    one, _, _ = data(tmp_path / "1", 2500, 0, per_chunk=32)
    again, _, _ = data(tmp_path / "2", 2500, 0, per_chunk=128)
    settings = TrainingConfig(epochs=3)
    first, second = train(one, settings), train(again, settings)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    other = train(one, TrainingConfig(epochs=3, seed=1))
    assert not torch.equal(first.weight, other.weight)


def test_settings_do_what_they_say(tmp_path: Path) -> None:
    fitted, _, _ = data(tmp_path, 1000, 0)
    plain, decayed = (train(fitted, TrainingConfig(epochs=5, weight_decay=decay)) for decay in (0.0, 5.0))
    assert decayed.weight.norm() < plain.weight.norm()
    assert plain.weight[:, 3].abs().max() == 0


def test_a_probe_is_read_as_it_was_written(tmp_path: Path) -> None:
    head = LinearHead(torch.randn(3, 5), torch.randn(3), normalize=True)
    content = probe_bytes(head, ["x", "ä", "z"], {"seed": "0"})
    (tmp_path / "p.safetensors").write_bytes(content)
    read, names = read_probe(tmp_path / "p.safetensors")
    assert torch.equal(read.weight, head.weight)
    assert torch.equal(read.bias, head.bias)
    assert read.normalize
    assert names == ["x", "ä", "z"]
    assert probe_metadata(content)["seed"] == "0"
