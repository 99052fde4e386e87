"""`explain` against full autograd in float64, and what must hold of any explanation."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from benchmarks.operations import Operations
from finer_ray.models import plain_block
from finer_ray.models.cut import Cut
from finer_ray.models.plain_block import PlainCut
from finer_ray.saliency import AGGREGATIONS, WEIGHTINGS, MapSpec, Mask, Rise, SaliencySpec, explain
from finer_ray.saliency.methods import METHODS
from tests.saliency.models import MODELS, build, by_autograd, images

GRADS = (
    MapSpec("gradcam"),
    MapSpec("finer_gradcam", gamma=0.6),
    MapSpec("layercam", "layercam"),
    MapSpec("finer_layercam", "layercam", gamma=0.6),
)
FEW = {"settings": {"rise": Rise(masks=9), "mask": Mask(steps=3)}}
PLAIN = {"vit", "vit-avg", "registers", "registers-avg", "dinov2", "gap", "clip-tok", "clip-avg", "clip-late"}


def close(found: Tensor, expected: Tensor, bound: float = 1e-9) -> bool:
    return bool((found - expected).abs().max() <= bound * expected.abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_is_full_autograd(name: str) -> None:
    model = build(name)
    x = images(model, 2 if name in ("swin", "siglip", "gap") else 3)
    result = explain(model, x, SaliencySpec(GRADS))
    assert (type(model.cut(x[:1])) is PlainCut) == (name in PLAIN)
    classes = torch.cat([result.target[:, None], result.references], dim=1)
    activation, gradients = by_autograd(model, x, classes)
    basis = (gradients.mean((3, 4), keepdim=True) * activation[:, None]).sum(2)
    assert close(result.basis, basis)
    assert close(result.maps[:, 0], basis[:, 0].relu())
    assert close(result.maps[:, 1], (basis[:, 0] - 0.6 * basis[:, 1:].mean(1)).relu())
    finer = gradients[:, 0] - 0.6 * gradients[:, 1:].mean(1)
    for place, slope in ((2, gradients[:, 0]), (3, finer)):
        assert close(result.maps[:, place], (slope.relu() * activation).sum(1).relu())
    # The mean gradient alone takes another way than the mean of the gradients.
    assert close(explain(model, x, SaliencySpec()).basis, basis)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("swin", "siglip", "gap")])
def test_float32_is_close_to_float64_autograd(name: str) -> None:
    model = build(name)
    x = images(model).float().double()
    exact = explain(model, x, SaliencySpec(GRADS))
    activation, gradients = by_autograd(model, x, torch.cat([exact.target[:, None], exact.references], dim=1))
    basis = (gradients.mean((3, 4), keepdim=True) * activation[:, None]).sum(2)
    single = copy.deepcopy(model).float()
    found = explain(single, x.float(), SaliencySpec(GRADS), exact.target, exact.references)
    assert found.basis.dtype == found.maps.dtype == torch.float32
    assert close(found.basis.double(), basis, 1e-5)
    assert close(found.maps.double(), exact.maps, 1e-5)


@pytest.mark.parametrize("name", ["vit", "vit-avg", "resnet", "clip-resnet"])
def test_a_batch_is_its_images_one_by_one(name: str) -> None:
    model = build(name)
    x = images(model, 4)
    batch = explain(model, x, SaliencySpec(GRADS))
    for position in range(4):
        single = explain(model, x[position : position + 1], SaliencySpec(GRADS))
        torch.testing.assert_close(single.basis[0], batch.basis[position], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(single.maps[0], batch.maps[position], rtol=1e-9, atol=1e-12)
        assert single.references[0].tolist() == batch.references[position].tolist()


@pytest.mark.parametrize("name", ["vit-avg", "dinov2"])
def test_groups_of_images_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    x = images(model, 5)
    whole = explain(model, x, SaliencySpec(GRADS))
    monkeypatch.setitem(plain_block.GROUP_BYTES, "cpu", 1)
    alone = explain(model, x, SaliencySpec(GRADS))
    torch.testing.assert_close(alone.maps, whole.maps, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(explain(model, x, SaliencySpec()).basis, whole.basis, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("reverse", [False, True])
def test_layercam_by_the_formulas(aggregation: str, weighting: str, reverse: bool) -> None:
    model = build("vit")
    x = images(model)
    wanted = MapSpec("m", "layercam", 1.7, aggregation, weighting, reverse)
    result = explain(model, x, SaliencySpec((wanted,)))
    classes = torch.cat([result.target[:, None], result.references], dim=1)
    activation, gradients = by_autograd(model, x, classes)
    logits = result.logits.gather(1, result.references)
    share = torch.full_like(logits, 1 / 3) if weighting == "equal" else logits.softmax(1)
    if weighting == "probability":
        leaf = logits.clone().requires_grad_()
        (share,) = torch.autograd.grad((leaf.softmax(1) * leaf).sum(), leaf)

    def raw(slope: Tensor) -> Tensor:
        return (slope.relu() * activation).sum(1)

    target, others = gradients[:, 0], gradients[:, 1:].unbind(1)
    mean = sum(share[:, k, None, None, None] * other for k, other in enumerate(others))
    pairs = torch.stack([raw(o - 1.7 * target if reverse else target - 1.7 * o) for o in others], dim=1)
    expected = {
        "mean_before_relu": raw(mean - 1.7 * target if reverse else target - 1.7 * mean).relu(),
        "max_before_relu": pairs.amax(1).relu(),
        "mean_after_relu": (share[:, :, None, None] * pairs.relu()).sum(1),
    }[aggregation]
    assert close(result.maps[:, 0], expected)


@pytest.mark.parametrize("cam", METHODS)
def test_what_holds_of_every_cam(cam: str) -> None:
    """gamma 0 is the baseline, the order of references is nothing, and a reference listed twice is one."""
    model = next(model for model in map(build, ("resnet", "clip-tok")) if METHODS[cam].refusal(model, False) is None)
    x, target = images(model, 2), torch.tensor([4, 6])
    maps = tuple(
        MapSpec(f"{aggregation} {gamma}", cam, gamma, aggregation)
        for aggregation in AGGREGATIONS
        for gamma in (0.0, 0.7)
    )
    found = explain(model, x, SaliencySpec(maps, selection=(1, 2, 3), **FEW), target).maps
    baseline = explain(model, x, SaliencySpec((MapSpec("b", cam),), selection=(5,), **FEW), target).maps[:, 0]
    for place in (0, 2, 4):
        torch.testing.assert_close(found[:, place], baseline)
    turned = explain(model, x, SaliencySpec(maps, selection=(3, 1, 2), **FEW), target).maps
    torch.testing.assert_close(turned, found)
    twice = explain(model, x, SaliencySpec(maps, selection=(2, 2), **FEW), target).maps
    once = explain(model, x, SaliencySpec(maps, selection=(2,), **FEW), target).maps
    torch.testing.assert_close(twice, once)
    assert (found >= 0).all()


def test_is_linear_in_gamma_before_relu() -> None:
    model = build("vit-avg")
    x = images(model)
    maps = tuple(MapSpec(str(gamma), gamma=gamma) for gamma in (0.0, 1.0, 2.5))
    result = explain(model, x, SaliencySpec(maps))
    line = result.basis[:, 0] - 2.5 * result.basis[:, 1:].mean(1)
    torch.testing.assert_close(result.maps[:, 2], line.relu())
    everywhere = (result.maps > 0).all(1)
    assert everywhere.any()
    start, one, far = (result.maps[:, place][everywhere] for place in range(3))
    torch.testing.assert_close(far, start + 2.5 * (one - start))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("weighting", ["equal", "probability_detached"])
@pytest.mark.parametrize("reverse", [False, True])
def test_scorecam_by_the_formulas(aggregation: str, weighting: str, reverse: bool) -> None:
    """Channel by channel, one masked image at a time."""
    model = build("resnet")
    x, gamma = images(model, 1), 1.7
    result = explain(model, x, SaliencySpec((MapSpec("m", "scorecam", gamma, aggregation, weighting, reverse),)))
    activation = model.cut(x).activation
    classes = torch.cat([result.target[:, None], result.references], dim=1)[0]
    logits = []
    for channel in activation[0]:
        mask = nn.functional.interpolate(channel[None, None], x.shape[2:], mode="bilinear", align_corners=True)
        mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
        logits.append(model(x * mask)[0, classes])
    y = torch.stack(logits)
    share = torch.full((3,), 1 / 3, dtype=y.dtype)
    if weighting != "equal":
        share = result.logits[0, classes[1:]].softmax(0)

    def raw(score: Tensor) -> Tensor:
        return (score.softmax(0)[:, None, None] * activation[0]).sum(0)

    mean = (y[:, 1:] * share).sum(1)
    pairs = [raw(y[:, k] - gamma * y[:, 0] if reverse else y[:, 0] - gamma * y[:, k]) for k in (1, 2, 3)]
    expected = {
        "mean_before_relu": raw(mean - gamma * y[:, 0] if reverse else y[:, 0] - gamma * mean).relu(),
        "max_before_relu": torch.stack(pairs).amax(0).relu(),
        "mean_after_relu": sum(s * pair.relu() for s, pair in zip(share, pairs, strict=True)),
    }[aggregation]
    assert close(result.maps[0, 0], expected)


class Counting(nn.Module):
    """A classifier that counts the images it is shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, 0
        self.class_count, self.head, self.class_weights = model.class_count, model.head, model.class_weights

    def cut(self, x: Tensor) -> Cut:
        self.seen += len(x)
        cut: Cut = self.model.cut(x)  # type: ignore[operator]
        return cut

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        logits: Tensor = self.model(x)
        return logits


def test_scorecam_runs_its_masked_images_once() -> None:
    model = Counting(build("resnet"))
    x = images(model.model, 2)
    channels = model.model.cut(x).activation.shape[1]  # type: ignore[operator]
    names = [MapSpec(f"{gamma} {a}", "scorecam", gamma, a) for gamma in (0, 0.6, 2) for a in AGGREGATIONS]
    many = explain(model, x, SaliencySpec(tuple(names)))
    assert model.seen == 2 + 2 * channels
    small = explain(model, x, SaliencySpec(tuple(names), memory=1))
    torch.testing.assert_close(small.maps, many.maps)
    few = explain(model, x, SaliencySpec(GRADS))
    assert model.seen == 2 * (2 + 2 * channels) + 2
    assert few.maps.shape[1] == 4


@pytest.mark.parametrize(("name", "bound"), [("vit", 0.95), ("clip-tok", 0.81), ("registers", 0.94), ("dinov2", 1.17)])
def test_operations_counted(name: str, bound: float) -> None:
    """With a class token an explanation with all its derivatives takes fewer operations than a plain forward pass."""
    model = build(name)
    x = images(model)
    with Operations() as plain:
        model.head(model.split(x)) if MODELS[name].get("head") else model.split(x)
    with Operations() as ours:
        explain(model, x, SaliencySpec(GRADS[:2]))
    assert ours.count <= bound * plain.count


def test_threads_do_not_disturb_each_other() -> None:
    models = [build(name) for name in ("vit", "vit-avg", "resnet")]
    inputs = [(model, images(model, 6)[i : i + 2]) for model in models for i in (0, 2, 4)]
    alone = [explain(model, x, SaliencySpec(GRADS)) for model, x in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: explain(pair[0], pair[1], SaliencySpec(GRADS)), inputs * 3))
    for one, other in zip(alone * 3, together, strict=True):
        torch.testing.assert_close(one.maps, other.maps, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["vit", "vit-avg", "clip-late", "resnet", "siglip"])
def test_callers_modes_do_not_matter(name: str) -> None:
    model = build(name)
    x = images(model, 1)
    plain = explain(model, x, SaliencySpec(GRADS))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            inside = explain(model, x.clone(), SaliencySpec(GRADS))
        torch.testing.assert_close(inside.maps, plain.maps)


def test_leaves_nothing_behind() -> None:
    model = build("vit")
    model.zero_grad()  # other tests' gradients
    x = images(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [(module.training, len(module.__dict__)) for module in model.modules()]
    first = explain(model, x, SaliencySpec(GRADS))
    explain(model, images(model, 1), SaliencySpec())
    again = explain(model, x, SaliencySpec(GRADS))
    assert torch.equal(first.maps, again.maps)
    assert modes == [(module.training, len(module.__dict__)) for module in model.modules()]
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert not module._forward_pre_hooks
    for parameter in model.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    tensors = (first.embedding, first.logits, first.basis, first.maps)
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in tensors)


@pytest.mark.parametrize("name", ["vit", "vit-avg", "clip-tok", "resnet", "siglip"])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_results_close_to_it(name: str, precision: torch.dtype) -> None:
    model = copy.deepcopy(build(name)).float()
    x = images(model, 2).float()
    full = explain(model, x, SaliencySpec(GRADS))
    with torch.autocast("cpu", precision):
        half = explain(model, x, SaliencySpec(GRADS), full.target, full.references)
    for values in (half.basis, half.maps, half.logits, half.embedding):
        assert values.dtype == torch.float32
        assert values.isfinite().all()
    assert (half.maps - full.maps).norm() < 0.1 * full.maps.norm()
    correlation = torch.corrcoef(torch.stack([half.basis.flatten(), full.basis.flatten()]))[0, 1]
    assert correlation > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "vit-avg", "resnet"])
def test_compiled_models(name: str) -> None:
    model = copy.deepcopy(build(name)).float()
    if hasattr(model.split.encoder, "blocks"):
        # All blocks but the last are alike, and the compiler takes its time for each.
        model.split.encoder.blocks = model.split.encoder.blocks[-2:]
    x = images(model, 2).float()
    plain = explain(model, x, SaliencySpec(GRADS))
    model.split.trunk = torch.compile(model.split.trunk)  # type: ignore[method-assign]
    compiled = explain(model, x, SaliencySpec(GRADS), plain.target, plain.references)
    assert close(compiled.maps, plain.maps, 1e-4)
    assert close(torch.compile(explain)(model, x, SaliencySpec(GRADS)).maps, plain.maps, 1e-4)


def test_targets_selections_and_few_classes() -> None:
    model = build("resnet")
    x = images(model)
    logits = model(x)
    target = torch.tensor([4, 7, 11])
    by_logit = explain(model, x, SaliencySpec(references=2), target)
    assert by_logit.target.tolist() == [4, 7, 11]
    assert by_logit.predicted.tolist() == logits.argmax(1).tolist()
    for row, c in enumerate(target):
        distance = (logits[row] - logits[row, c]).abs()
        distance[c] = torch.inf
        assert by_logit.references[row].tolist() == distance.argsort()[:2].tolist()
    by_weight = explain(model, x, SaliencySpec(references=2, selection="weight"), target)
    unit = nn.functional.normalize(model.head.weight, dim=1)
    for row, c in enumerate(target):
        cosine = unit @ unit[c]
        cosine[c] = -torch.inf
        assert by_weight.references[row].tolist() == cosine.argsort(descending=True)[:2].tolist()
    every = tuple(
        MapSpec(f"{cam} {a} {w} {r}", cam, 0.6, a, w, r)  # type: ignore[arg-type]
        for cam in ("gradcam", "layercam", "scorecam", "rise", "mask")
        for a in AGGREGATIONS
        for w in WEIGHTINGS
        for r in (False, True)
    )
    listed = explain(model, x, SaliencySpec(every, selection=(7, 1), **FEW), target)
    assert listed.references.tolist() == [[7, 1], [-1, 1], [7, 1]]
    assert listed.basis[1, 1].isnan().all()
    assert listed.maps.isfinite().all()
    alone = explain(model, x[1:2], SaliencySpec(every, selection=(1,), **FEW), target[1:2])
    torch.testing.assert_close(alone.maps[0], listed.maps[1])
    none = explain(model, x, SaliencySpec(every, references=0, **FEW), target)
    assert none.basis.shape[1] == 1
    assert (none.maps[:, 1] == 0).all()
    assert torch.equal(none.maps[:, 0], none.basis[:, 0].relu())
    assert SaliencySpec(references=3).reference_count(3) == 2


def test_pairs_follow_the_predicted_class() -> None:
    model = build("clip-tok")
    x = images(model)
    pairs = tuple((index, (index + 2) % 7) for index in range(7))
    result = explain(model, x, SaliencySpec(pairs=pairs))
    assert result.target.tolist() == result.predicted.tolist()
    assert result.references.tolist() == [[(c + 2) % 7] for c in result.predicted.tolist()]
