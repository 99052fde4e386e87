"""On a device that is not the CPU nothing is left behind on the CPU, nothing waits, and number formats fit under CUDA's
rules of autocast: on a pretended one, which computes with the real values. What only a GPU can show (kernels, streams,
speed) this does not."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import backend_registration

from finer_ray.config.schema import MetricsConfig
from finer_ray.models import Classifier
from finer_ray.models.preparing import autocast, prepare
from finer_ray.pipeline import executor
from finer_ray.pipeline.device_transfer import fetch
from finer_ray.pipeline.export import export
from finer_ray.pipeline.resources import Resources
from finer_ray.pipeline.results import model_outputs
from finer_ray.pipeline.scoring import Scorer
from finer_ray.saliency import Explanation, MapSpec, Mask, Rise, SaliencySpec, explain
from finer_ray.store.reading import open_export
from tests.conftest import jobs_in, photo, write_tar
from tests.pipeline.exports import many
from tests.saliency.models import build

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices written in Python",
)
CAMS = ("gradcam", "layercam", "scorecam", "rise", "mask")
# Of CLIP, and of a ViT with its own head.
OF_VITS = {"clip-tok": ("gem", "legrad", "chefer"), "vit": ("legrad", "chefer")}
SELECTIONS: dict[str, Any] = {"clip-tok": "weight", "resnet": (1, 2)}
METRICS = MetricsConfig(deletion=True, insertion=True, drops=True, steps=2, insert_into="blur")


@pytest.fixture(scope="module")
def apart() -> Iterator[ProcessPoolExecutor]:
    """A process in which a device may be registered."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield pool


def every_map(name: str) -> SaliencySpec:
    cams = (*CAMS, *OF_VITS.get(name, ()))
    weightings = ("equal", "probability")
    maps = [MapSpec(f"{cam}_{by}", cam, 0.6, weighting=by) for cam in cams for by in weightings]
    maps += [MapSpec(by, gamma=0.6, aggregation=by) for by in ("max_before_relu", "mean_after_relu")]
    maps += [MapSpec("reverse", gamma=0.6, reverse=True)]
    settings = {"rise": Rise(masks=4), "mask": Mask(steps=2)}
    selection = SELECTIONS.get(name, "logit")
    return SaliencySpec(maps=tuple(maps), references=2, selection=selection, settings=settings, patches=4)


def agree_on_a_batch(name: str, precision: str) -> None:
    from tests.pretend import DEVICE, pretend

    classifier: Classifier = build(name).float()
    if hasattr(classifier.split.encoder, "blocks"):
        # All blocks are alike, and each operation takes its time here.
        classifier.split.encoder.blocks = classifier.split.encoder.blocks[-3:]
    spec = every_map(name)
    images = torch.randn((2, 3, *classifier.transform.size), generator=torch.Generator().manual_seed(0))
    region = torch.zeros((2, *classifier.transform.size), dtype=torch.bool)
    region[:, :20, :30] = True
    here = explain(classifier, images, spec)
    wanted = Scorer(METRICS, classifier, torch.device("cpu"), 2**26)(images, here, region)
    wanted |= model_outputs(here, classifier)
    with pretend() as waits:
        model = prepare(deepcopy(classifier), DEVICE, precision)
        scorer = Scorer(METRICS, model, DEVICE, 2**26)
        sent, area = images.to(DEVICE), region.to(DEVICE)
        same = Explanation(**{field: values.to(DEVICE) for field, values in vars(here).items() if values is not None})
        waits.clear()
        with autocast(DEVICE, precision):
            # In half precision of the same classes, and metrics of the same maps: what is nearly equal may swap places.
            given = () if precision == "fp32" else (same.target, same.references)
            there = explain(model, sent, spec, *given)
            scores = scorer(sent, same, area)
        results = fetch(model_outputs(there, model)), fetch(scores)
        assert waits == [], waits
        found = {key: torch.from_numpy(values) for result in results for key, values in result().items()}
    if precision == "fp32":
        for key, values in wanted.items():
            torch.testing.assert_close(found[key], values, atol=1e-4, rtol=1e-3, equal_nan=True, msg=key)
        return
    assert {values.dtype for values in found.values()} == {values.dtype for values in wanted.values()}
    # Mask descends, step by step, to wherever a small change may lead it.
    steady = [place for place, of in enumerate(spec.maps) if of.cam != "mask"]
    maps, exact = found["maps"][:, steady], wanted["maps"][:, steady]
    assert ((maps - exact).abs().amax((2, 3)) <= 0.1 * exact.amax((2, 3))).all()
    torch.testing.assert_close(found["deletion_curve"], wanted["deletion_curve"], atol=0.05, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, "fp32") for name in ("vit-avg", "clip-tok", "resnet")),
        *((name, "bf16") for name in ("vit", "qk-norm", "clip-tok", "clip-resnet", "resnet")),
    ],
)
def test_every_map_and_metric(name: str, precision: str, apart: ProcessPoolExecutor) -> None:
    apart.submit(agree_on_a_batch, name, precision).result()


def notice_what_is_wrong() -> None:
    from tests.pretend import DEVICE, pretend

    with pretend() as waits:
        square = torch.eye(2, device=DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            product = square @ square
            assert (product.dtype, product.sum().dtype) == (torch.bfloat16, torch.float32)
        with pytest.raises(RuntimeError, match="same dtype"):
            product @ square
        far = torch.ones(3, device=DEVICE)
        with pytest.raises(RuntimeError, match="on the CPU"):
            far + torch.ones(3)
        assert waits == []
        # In this order.
        bool(far.sum() > 0)
        far[torch.tensor([0, 1])]
        far.cpu()
        torch.ones(3).to(DEVICE)
        far.nonzero()
        torch.tensor([1.0], device=DEVICE)
        far.new_tensor([1.0])
        numbers = (far.requires_grad_() * 2).sum()
        (gradient,) = torch.autograd.grad(numbers, far)
        assert gradient.device == DEVICE
        assert fetch({"gradient": gradient})()["gradient"].tolist() == [2, 2, 2]
        kinds = [
            "aten::_local_scalar_dense",
            "an index copied there",
            "aten::_to_copy, blocking",
            "aten::_to_copy, blocking",
            "aten::nonzero",
            "numbers copied there",
            "numbers copied there",
        ]
        assert waits == kinds, waits


def test_the_device_notices(apart: ProcessPoolExecutor) -> None:
    """A test that cannot fail would show nothing."""
    apart.submit(notice_what_is_wrong).result()


def agree_on_an_export(folder: Path) -> None:
    from tests.pretend import DEVICE, pretend

    others = [("bad.jpg", b"no photo"), ("cut.jpg", photo(1)[:900]), ("flat.png", photo(2, format="PNG"))]
    tar = str(write_tar(folder / "a.tar", [*many(9), *others, *many(3, 20)]))
    maps: list[Any] = ["gradcam", "finer_gradcam", "finer_layercam"]
    sections: dict[str, Any] = {"saliency": {"maps": maps}, "metrics": METRICS.model_dump()}
    sections["input"] = {"max_failures": 0.5}
    jobs = [jobs_in(folder)(tar, output={"url": str(folder / place)}, **sections) for place in ("here", "there")]
    assert export(jobs[0]).images == 13
    share = executor.own_resources(jobs[1].compute)
    with pytest.MonkeyPatch.context() as patch, pretend():
        patch.setattr(executor, "own_resources", lambda _: Resources(**vars(share) | {"device": DEVICE.type}))
        export(jobs[1])
    here, there = (open_export(job.output.url) for job in jobs)
    assert there.failures.equals(here.failures)
    assert there.images["key"].equals(here.images["key"])
    rows = here.images["row"].to_pylist()
    for name in here.manifest.layout.maps:
        torch.testing.assert_close(*(torch.from_numpy(of.maps(rows, name)) for of in (here, there)))
    for name in ("localisation", "pointing_hit"):
        assert there.metrics[name].equals(here.metrics[name])


def test_an_export(tmp_path: Path, apart: ProcessPoolExecutor) -> None:
    apart.submit(agree_on_an_export, tmp_path).result()
