"""The similarity curve against all cosines at once."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.errors import ConfigError
from finer_ray.metrics import weight_similarity as module
from finer_ray.metrics.weight_similarity import most_similar, similarity_curve
from finer_ray.store.similarity import similarity_table
from finer_ray.studies.similarity_curve import classifier_weights

WEIGHT = torch.randn((23, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_is_the_sorted_cosines(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    pairs = torch.nn.functional.cosine_similarity(WEIGHT.double()[:, None], WEIGHT.double()[None], dim=2)
    ranked = torch.stack(
        [torch.cat([row[:i], row[i + 1 :]]).sort(descending=True).values for i, row in enumerate(pairs)]
    )
    curve = similarity_curve(WEIGHT)
    torch.testing.assert_close(curve.mean, ranked.mean(0))
    torch.testing.assert_close(curve.std, ranked.std(0))
    torch.testing.assert_close(curve.low, ranked.amin(0))
    torch.testing.assert_close(curve.high, ranked.amax(0))
    torch.testing.assert_close(similarity_curve(WEIGHT * 7).mean, curve.mean)


def test_twins_and_opposites() -> None:
    table = similarity_table(torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])).to_pylist()
    assert [line["rank"] for line in table] == [1, 2]
    assert table[0]["mean"] == pytest.approx((1 + 1 - 1) / 3)
    assert (table[1]["low"], table[1]["high"]) == (-1.0, -1.0)


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "probe.safetensors"
    save_file({"weight": WEIGHT}, str(file), {"classes": json.dumps([str(i) for i in range(23)])})
    result = CliRunner().invoke(app, ["study", "similarity", str(file), "--to", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert pq.read_table(tmp_path / "out" / "similarity.parquet").num_rows == 22
    assert Image.open(tmp_path / "out" / "similarity.png").size[0] > 500


def test_any_classifier_file(tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    torch.save({"state_dict": {"blocks.0.weight": torch.ones(4, 4), "fc.weight": WEIGHT, "my.weight": -WEIGHT}}, model)
    assert torch.equal(classifier_weights(model), WEIGHT)
    assert torch.equal(classifier_weights(model, "my.weight"), -WEIGHT)
    with pytest.raises(ConfigError, match=r"--tensor must name .*nearest: my\.weight.*fc\.weight, my\.weight"):
        classifier_weights(model, "my.weigt")
    unknown = tmp_path / "unknown.safetensors"
    save_file({"own.weight": WEIGHT}, str(unknown))
    assert torch.equal(classifier_weights(unknown), WEIGHT)
    save_file({"own.weight": WEIGHT, "blocks.0.weight": torch.ones(4, 4)}, str(unknown))
    with pytest.raises(ConfigError, match=r"the last matrices of the file: .*own\.weight"):
        classifier_weights(unknown)
    with pytest.raises(ConfigError, match=r"there is no file .*nearest: model\.pth"):
        classifier_weights(tmp_path / "modell.pth")


def test_the_most_similar_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 5)
    pairs = torch.nn.functional.cosine_similarity(WEIGHT[:, None], WEIGHT[None], dim=2).fill_diagonal_(-2)
    nearest, cosine = most_similar(WEIGHT)
    assert nearest.tolist() == pairs.argmax(1).tolist()
    torch.testing.assert_close(cosine, pairs.amax(1))
