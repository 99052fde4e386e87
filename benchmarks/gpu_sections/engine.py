"""Plain forward pass and engine, on the same batches, in every number format and compiled, and where time goes."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_sections.clock import Run, rates, seconds_of
from benchmarks.gpu_sections.setting import Record, Setting
from finer_ray.models import Classifier
from finer_ray.models.preparing import autocast, compiled, prepare
from finer_ray.saliency import SaliencySpec, explain

TOP = 15
PROFILED = 5


def rates_of_models(setting: Setting, record: Record, found: Record) -> None:
    """Images per second by model: batch sizes in bf16, then at the best of them the other formats; and a CNN."""
    for name, options in setting.models.items():
        part: Record = {}
        found[name] = part
        part["batches"] = sweep(setting, options)
        part["best batch"] = batch = _best(part["batches"])
        part["formats"] = {form: formats(setting, options, batch, form) for form in ("fp32", "tf32", "bf16", "fp16")}
    found["CNN"] = channels_last(setting, setting.cnn)


def rates_compiled(setting: Setting, record: Record, found: Record) -> None:
    """The same in bf16, compiled, by mode and model, at the batch that was best before."""
    for mode in setting.compile:
        for name, options in setting.models.items():
            found.setdefault(name, {})[str(mode)] = compiling(setting, options, best_batch(setting, record, name), mode)


def best_batch(setting: Setting, record: Record, name: str) -> int:
    """Of a model, where it was measured."""
    found: int = record.get("rates", {}).get(name, {}).get("best batch") or max(setting.batches)
    return found


def _best(batches: Record) -> int:
    """The batch at which the plain forward pass is fastest, in whichever form."""
    fitting = {size: max(plain(result).values()) for size, result in batches.items() if "error" not in result}
    return int(max(fitting, key=lambda size: fitting[size]))


def plain(result: Record) -> dict[str, float]:
    """Medians of the plain forward passes in a result of `sweep` or `compiling`."""
    return {name: values["median"] for name, values in result.items() if name.startswith("plain")}


def sweep(setting: Setting, options: dict[str, Any]) -> Record:
    """bf16, by batch size; one that does not fit into memory is recorded as that."""
    found: Record = {}
    for batch in setting.batches:
        try:
            found[str(batch)] = formats(setting, options, batch, "bf16")
        except torch.OutOfMemoryError as error:
            found[str(batch)] = {"error": str(error)}
    return found


def formats(setting: Setting, options: dict[str, Any], batch: int, precision: str) -> Record:
    """Plain forward passes (autocast; weights and input in half precision) and the engine, in one number format."""
    runs = dict(runs_of(setting, options, batch, precision))
    with _convolutions(precision):
        return rates(setting, runs, batch)


def runs_of(setting: Setting, options: dict[str, Any], batch: int, precision: str) -> Iterator[tuple[str, Run]]:
    """What is timed, by name."""
    classifier = setting.load(options)
    images = torch.randn((batch, 3, *classifier.transform.size), device=setting.device)
    yield "plain", forward(setting, copy.deepcopy(classifier).to(setting.device), images, precision)
    if precision in ("bf16", "fp16"):
        half = copy.deepcopy(classifier).to(setting.device, torch.bfloat16 if precision == "bf16" else torch.float16)
        yield "plain, all in half", forward(setting, half, images.to(next(half.split.parameters()).dtype), "fp32")
    yield "engine", engine(setting, prepare(classifier, setting.device, precision), images, precision)


def forward(setting: Setting, classifier: Classifier, images: Tensor, precision: str) -> Run:
    """The library's own forward pass, to logits."""
    whole = library(classifier)

    def run() -> Tensor:
        with torch.inference_mode(), autocast(setting.device, precision):
            return whole(images)

    return run


def library(classifier: Classifier) -> Callable[[Tensor], Tensor]:
    """Images to logits without any of this project's cuts."""
    encoder: Any = classifier.split.encoder
    head: Any = classifier.head
    if encoder.num_classes > 0:
        return lambda images: encoder(images)
    return lambda images: head(encoder(images).to(head.weight.dtype))


def engine(setting: Setting, classifier: Classifier, images: Tensor, precision: str) -> Run:
    """An explanation with the default maps, as the job's actor asks for it."""

    def run() -> Any:
        with autocast(setting.device, precision):
            return explain(classifier, images, SaliencySpec())

    return run


@contextmanager
def _convolutions(precision: str) -> Iterator[None]:
    """TF32 where it is what is measured, nowhere else; afterwards as before."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def compiling(setting: Setting, options: dict[str, Any], batch: int, mode: Literal[True] | str) -> Record:
    """Both in bf16, compiled; and the seconds that compiling took."""
    # Else graphs of other models and modes are looked through, and at the eighth nothing more is compiled.
    torch.compiler.reset()
    classifier = setting.load(options)
    images = torch.randn((batch, 3, *classifier.transform.size), device=setting.device)
    half = copy.deepcopy(classifier).to(setting.device, torch.bfloat16)
    half.split.encoder.compile(mode=mode if isinstance(mode, str) else None, dynamic=False)
    whole = prepare(classifier, setting.device, "bf16")
    whole.split.trunk = compiled(whole.split.trunk, mode)  # type: ignore[method-assign,assignment]
    runs = {
        "plain, all in half": forward(setting, half, images.bfloat16(), "fp32"),
        "engine": engine(setting, whole, images, "bf16"),
    }
    seconds = {f"{name}, seconds of the first run": seconds_of(setting, run) for name, run in runs.items()}
    return {"batch": batch, **rates(setting, runs, batch), **seconds}


def channels_last(setting: Setting, options: dict[str, Any]) -> Record:
    """A CNN in bf16, channels first and last: forward pass and engine."""
    batch = max(setting.batches)
    runs: dict[str, Run] = {}
    for name, layout in (("first", torch.contiguous_format), ("last", torch.channels_last)):
        classifier = prepare(setting.load(options), setting.device, "bf16")
        classifier.split.to(memory_format=layout)  # type: ignore[call-overload]
        images = torch.randn((batch, 3, *classifier.transform.size), device=setting.device)
        images = images.to(memory_format=layout)
        runs[f"plain, channels {name}"] = forward(setting, classifier, images, "bf16")
        runs[f"engine, channels {name}"] = engine(setting, classifier, images, "bf16")
    return {"model": options["backbone"], "batch": batch, **rates(setting, runs, batch)}


def profiled(setting: Setting, record: Record, found: Record) -> None:
    """Where the time goes, by kernel (on a CPU: by operation), for each ViT: engine and plain forward pass in bf16."""
    for name, options in setting.models.items():
        batch = best_batch(setting, record, name)
        runs = dict(runs_of(setting, options, batch, "bf16"))
        for run in ("engine", "plain, all in half"):
            found[f"{name}, {run}"] = {"batch": batch, **_profile(setting, runs[run])}


def _profile(setting: Setting, run: Run) -> Record:
    seconds_of(setting, run, 2)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.cuda else [])]
    with profile(activities=activities) as watched:
        wall = seconds_of(setting, run, PROFILED) * PROFILED
    kind = DeviceType.CUDA if setting.cuda else DeviceType.CPU
    field = "self_device_time_total" if setting.cuda else "self_cpu_time_total"
    events = [event for event in watched.key_averages() if event.device_type == kind]
    total = sum(getattr(event, field) for event in events)
    events.sort(key=lambda event: -getattr(event, field))
    host = sum(
        event.self_cpu_time_total
        for event in watched.key_averages()
        if event.device_type == DeviceType.CPU and "Synchronize" not in event.key
    )
    return {
        "seconds per batch": wall / PROFILED,
        # The host's operations overlap the device's; waiting for it is none.
        "device busy": total / 1e6 / wall,
        "host busy": host / 1e6 / wall,
        "top": [
            {"name": event.key[:100], "share": getattr(event, field) / total, "calls a batch": event.count / PROFILED}
            for event in events[:TOP]
        ],
    }
