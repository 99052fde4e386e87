"""Training: against scikit-learn, the same bits by seed, a file that a job can use."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

from finer_ray.models.head import LinearHead, probe_bytes, probe_metadata, read_probe
from finer_ray.probe.config import TrainingConfig
from finer_ray.probe.embeddings import Embeddings
from finer_ray.probe.training import correct, train
from tests.probe.exports import gaussians, write_export

CLASSES = 8
NAMES = [f"class {i}" for i in range(CLASSES)]


def data(path: Path, count: int, seed: int, per_chunk: int = 32) -> tuple[Embeddings, np.ndarray, np.ndarray]:
    rows, labels = gaussians(count, 24, CLASSES, seed, spread=2.0)
    # A channel that never changes, as dead ReLUs give.
    rows[:, 3] = 0.7
    export = write_export(path, rows, labels.tolist(), NAMES, per_unit=512, per_chunk=per_chunk)
    return Embeddings([export], CLASSES), rows.astype(np.float16).astype(np.float64), labels


@pytest.mark.parametrize(("normalize", "penalty"), [(False, 1.0), (True, 1.0), (False, 100.0)])
def test_the_minimum_is_scikit_learns(tmp_path: Path, normalize: bool, penalty: float) -> None:
    """Its logistic regression of the same features, in float64 and to a tight tolerance."""
    fitted, rows, labels = data(tmp_path / "train", 5000, 0)
    judged, others, truth = data(tmp_path / "test", 3000, 1)
    head, iterations = train(fitted, TrainingConfig(normalize=normalize, penalty=penalty))
    assert iterations < TrainingConfig().iterations

    first = Normalizer() if normalize else FunctionTransformer()
    features = make_pipeline(first, StandardScaler(), LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000))
    features.fit(rows, labels)
    for ours, given, wanted in ((fitted, rows, labels), (judged, others, truth)):
        expected = features.score(given, wanted)
        assert 0.5 < expected < 0.9
        assert correct(head, ours) / len(ours) == pytest.approx(expected, abs=0.002)
        chances = head(torch.from_numpy(given).float()).softmax(1).numpy()
        assert np.abs(chances - features.predict_proba(given)).max() < 5e-3


def test_the_same_data_give_the_same_bits_however_the_export_is_chunked(tmp_path: Path) -> None:
    one, _, _ = data(tmp_path / "1", 5000, 0, per_chunk=32)
    again, _, _ = data(tmp_path / "2", 5000, 0, per_chunk=512)
    settings = TrainingConfig(iterations=10)
    (first, _), (second, _) = train(one, settings), train(again, settings)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


def test_settings_do_what_they_say(tmp_path: Path) -> None:
    fitted, _, _ = data(tmp_path, 1000, 0)
    (plain, count), (held, _) = (
        train(fitted, TrainingConfig(iterations=5, penalty=penalty)) for penalty in (1.0, 1000.0)
    )
    assert count == 5
    assert held.weight.norm() < plain.weight.norm()
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
