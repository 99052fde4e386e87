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
from finer_ray.store.similarity import classes_of, similarity_table
from finer_ray.store.storage import Folder
from finer_ray.store.tables import SIMILARITY
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


def test_many_classes_are_a_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of more classes than are compared with all others, some are drawn, and with these all others are compared."""
    weight = torch.randn((300, 8), generator=torch.Generator().manual_seed(1))
    whole = similarity_curve(weight)
    monkeypatch.setattr(module, "ALL_UP_TO", 299)
    monkeypatch.setattr(module, "RANKS", 20)
    for drawn, chunk in ((300, 2**25), (40, 700)):
        monkeypatch.setattr(module, "DRAWN", drawn)
        monkeypatch.setattr(module, "MAX_COSINES", chunk)
        curve = similarity_curve(weight)
        ranks = curve.ranks.tolist()
        assert curve.drawn == drawn
        assert ranks == sorted({*range(1, 21), *ranks})
        assert (ranks[-1], 30 < len(ranks) <= 40) == (299, True)
        unit = torch.nn.functional.normalize(weight, dim=1)
        classes = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:drawn]
        each = (
            (unit[classes] @ unit.T)
            .scatter(1, classes[:, None], -2)
            .sort(1, descending=True)
            .values[:, curve.ranks - 1]
        )
        torch.testing.assert_close(curve.mean.float(), each.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(curve.std.float(), each.std(0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(curve.low.float(), each.amin(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(curve.high.float(), each.amax(0), rtol=1e-5, atol=1e-6)
        if drawn == 300:
            torch.testing.assert_close(curve.mean, whole.mean[curve.ranks - 1], rtol=1e-5, atol=1e-6)
    assert torch.equal(similarity_curve(weight).mean, curve.mean)
    table = similarity_table(weight)
    assert set(table["drawn"].to_pylist()) == {40}
    assert classes_of(table) == "40 of 300 classes (drawn at random)"
    # Readers know the column; files of fewer classes are as they always were.
    folder = Folder(str(tmp_path))
    folder.write_table("drawn.parquet", table)
    assert folder.read_table("drawn.parquet", SIMILARITY).equals(table)
    monkeypatch.setattr(module, "ALL_UP_TO", 300)
    folder.write_table("all.parquet", similarity_table(weight))
    assert pq.read_schema(tmp_path / "all.parquet").names == ["rank", "mean", "std", "low", "high"]
    read = folder.read_table("all.parquet", SIMILARITY)
    assert read["drawn"].null_count == 299
    assert classes_of(read) == "300 classes"


def test_the_self_entry_of_equations_11_and_12() -> None:
    """Read literally they sort a 0 for the class itself among the cosines; up to it the ranks are the same."""
    curve = similarity_curve(WEIGHT)
    pairs = torch.nn.functional.cosine_similarity(WEIGHT.double()[:, None], WEIGHT.double()[None], dim=2)
    literal = pairs.fill_diagonal_(0).sort(dim=1, descending=True).values.mean(0)
    positive = int((pairs > 0).sum(1).min())
    torch.testing.assert_close(curve.mean[:positive], literal[:positive])
    # Of all classes the 0 lies behind the rank; so from there on theirs are ours, one rank later.
    negative = int((pairs < 0).sum(1).min())
    torch.testing.assert_close(curve.mean[len(curve.mean) - negative :], literal[len(literal) - negative :])
