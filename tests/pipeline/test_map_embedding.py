"""Map embeddings through a whole job: what an export holds of them, and exports that were begun without."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from finer_ray.config.schema import Config
from finer_ray.errors import ExportError
from finer_ray.models import build_classifier
from finer_ray.pipeline.export import export
from finer_ray.report.photos import read_rows
from finer_ray.saliency.map_embedding import map_embedding
from finer_ray.similar import similar_images
from finer_ray.store.query import connect
from finer_ray.store.reading import open_export
from finer_ray.store.verify import verify_export
from tests.conftest import write_tar
from tests.pipeline.exports import many

Job = Callable[..., Config]


@pytest.mark.parametrize("target", ["predicted", {"top": 2}])
def test_is_of_the_stored_basis_and_of_the_model(target: object, tmp_path: Path, job: Job) -> None:
    tar = write_tar(tmp_path / "a.tar", [*many(4), ("bad.jpg", b"no photo"), *many(3, 5)])
    config = job(
        str(tar),
        input={"max_failures": 0.5},
        saliency={"target": target, "gamma": 0.9},
        output={"map_embedding": True},
    )
    export(config)
    assert verify_export(config.output.url) == []
    made = open_export(config.output.url)
    rows = made.images["row"].to_pylist()
    model = build_classifier(config.model)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.transform.mean, model.transform.std))
    images = torch.stack([torch.tensor(found.image).permute(2, 0, 1) for _, found in read_rows(made, rows, False)])
    activation = model.cut((images / 255 - mean) / std).activation
    references = torch.tensor(made.images["references"].to_pylist())
    expected = map_embedding(activation, torch.from_numpy(made.basis(rows)), references, 0.9)
    found = made.map_embedding(rows)
    assert (found.dtype, found.shape) == (np.float16, (7, activation.shape[1]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
    assert np.isnan(made.map_embedding(made.failures["row"].to_pylist())).all()
    with connect(made) as connection:
        assert connection.sql("SELECT count(map_embedding) FROM map_embeddings").fetchall() == [(7,)]
    values = found.astype(np.float64)
    assert similar_images(made, rows[0], 1, "map")["row"][0].as_py() == rows[1 + np.argmax(values[1:] @ values[0])]


def test_an_export_without_goes_on_and_is_another_with(tmp_path: Path, job: Job) -> None:
    tree = job("a.tar").model_dump(mode="json")
    del tree["output"]["map_embedding"]
    assert Config.model_validate(tree).fingerprint() == job("a.tar").fingerprint()
    write_tar(tmp_path / "in" / "a.tar", many(2))
    config = job(str(tmp_path / "in"))
    export(config)
    assert "map_embedding" not in open_export(config.output.url).tensors
    write_tar(tmp_path / "in" / "b.tar", many(2, 20))
    assert export(config).new == 2
    with pytest.raises(ExportError, match=r"output\.map_embedding not given there, True here"):
        export(job(str(tmp_path / "in"), output={"map_embedding": True}))
