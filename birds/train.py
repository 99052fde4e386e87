"""Training: a small open_clip model that learns the birds from captions.

python -m birds.train FOLDER    renders the training set, trains, measures, and writes
    open_clip_config.json, bpe.txt.gz, open_clip_model.safetensors and training.json
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import torch
import typer
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from birds import captions
from birds.accuracy import accuracies
from birds.captions import EMPTY, Caption
from birds.merges import learn_merges, write_merges
from birds.pictures import Picture, pictures, rendered
from birds.species import ATTRIBUTES, SPECIES
from finer_ray.config.schema import ModelConfig
from finer_ray.models import build_classifier

SIDE = 112
# Rendered somewhat larger than the input, so that crops of several scales stay sharp.
RENDERED = 128
REPORTED = 25
MEAN = STD = (0.5, 0.5, 0.5)
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "init_logit_scale": 2.3,
    "init_logit_bias": -2.0,
    "vision_cfg": {"image_size": SIDE, "patch_size": 8, "width": 192, "layers": 5, "head_width": 64},
    "text_cfg": {"context_length": 32, "vocab_size": 0, "width": 128, "heads": 2, "layers": 2},
}
PREPROCESS = {
    "size": SIDE,
    "mode": "RGB",
    "mean": MEAN,
    "std": STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
TEMPLATES = ["a photo of a {}.", "a {}", "a picture of a {}"]


@dataclass(frozen=True)
class Settings:
    """How the model is trained.

    Attributes:
        per_class: pictures of each species; as many, and no more, are without a bird.
        epochs: times that each is seen.
        batch: pictures of a step.
        described: composed captions of a step, beside every name and every attribute.
        rate: peak learning rate, reached after `warmup` steps; a cosine leads to 0.
        decay: of the blocks' matrices.
        seed: of weights, order, crops and captions.
        held_out: pictures of each species that the accuracies are measured on.
    """

    per_class: int = 400
    epochs: int = 6
    batch: int = 64
    described: int = 64
    rate: float = 2e-3
    warmup: int = 60
    decay: float = 0.05
    seed: int = 0
    held_out: int = 20


def training_set(settings: Settings, cache: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (N, 128, 128, 3), memory-mapped, and labels (N,); EMPTY where there is no bird. Rendered once."""
    birds = pictures("train", settings.per_class, RENDERED)
    first = len(birds)
    empty = [Picture("train", first + number, RENDERED, empty=True) for number in range(settings.per_class)]
    path = cache / f"birds-{settings.per_class}-{RENDERED}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        todo = [*birds, *empty]
        sheet = open_memmap(partial, "w+", np.uint8, (len(todo), RENDERED, RENDERED, 3))
        for place, rendering in enumerate(track(rendered(todo), "rendering", total=len(todo))):
            sheet[place] = rendering.image
        sheet.flush()
        partial.rename(path)
    labels = [picture.label for picture in birds] + [EMPTY] * len(empty)
    return np.load(path, mmap_mode="r"), np.array(labels)


def train(
    model: Any, tokenizer: Any, pixels: NDArray[np.uint8], labels: NDArray[np.int64], settings: Settings
) -> Iterator[float]:
    """Train in place; the loss of every step.

    A caption is a positive of every picture of which it is true, not of its own alone: the sigmoid loss (SigLIP,
    Eq. 1) over all pairs of a batch, with that truth as its labels. The 24 names, of which exactly one is true of a
    bird, add the cross-entropy of CLIP from image to text.
    """
    rng = np.random.default_rng(settings.seed)
    optimisers = _optimisers(model, settings)
    schedules = [_schedule(optimiser, settings, _steps(len(labels), settings)) for optimiser in optimisers]
    model.train()
    for rows in _batches(rng, len(labels), settings):
        texts = [*captions.names(rng), *captions.short(rng), *captions.described(rng, settings.described)]
        inputs = augmented(pixels[rows], rng)
        with torch.autocast("cpu", torch.bfloat16):
            image = model.encode_image(inputs, normalize=True)
            text = model.encode_text(tokenizer([caption.text for caption in texts]), normalize=True)
        logits = model.logit_scale.exp() * image.float() @ text.float().T + model.logit_bias
        loss = contrast(logits, texts, torch.from_numpy(labels[rows]))
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        yield loss.item()
    model.eval()


def contrast(logits: Tensor, texts: list[Caption], labels: Tensor) -> Tensor:
    """The loss of `train`.

    Args:
        logits: (B, T); the first 24 texts are the names.
        texts: T captions.
        labels: (B,) species, or EMPTY.
    """
    truth = torch.from_numpy(np.stack([caption.true_of for caption in texts])).T[labels].float()
    pairs = functional.binary_cross_entropy_with_logits(logits, truth)
    birds = labels != EMPTY
    return 4 * pairs + functional.cross_entropy(logits[birds, : len(SPECIES)], labels[birds])


def augmented(pixels: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """Pictures (B, 128, 128, 3) as inputs (B, 3, 112, 112): mirrored, shifted and scaled a little, and slightly
    lighter or darker. Nothing here moves a hue."""
    count = len(pixels)
    scale, flip = rng.uniform(0.93, 1.05, count), rng.choice([-1.0, 1.0], count)
    shift = rng.uniform(-0.06, 0.06, (count, 2))
    affine = np.zeros((count, 2, 3), dtype=np.float32)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = scale * flip, scale, shift
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    grid = functional.affine_grid(torch.from_numpy(affine), [count, 3, SIDE, SIDE], align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, (count, 1, 1, 1)).astype(np.float32))
    lift = torch.from_numpy(rng.uniform(-0.08, 0.08, (count, 1, 1, 1)).astype(np.float32))
    return (moved * gain + lift).clamp(-1, 1)


def write_model(model: Any, folder: Path) -> None:
    """The weights in half precision, beside the config and the merges."""
    state = {name: value.half().contiguous() for name, value in model.state_dict().items() if value.is_floating_point()}
    save_file(state, str(folder / "open_clip_model.safetensors"))


def start(folder: Path, seed: int) -> tuple[Any, Any]:
    """A new model with its tokenizer, whose config and merges are written to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_merges(learn_merges(captions.vocabulary()), folder / "bpe.txt.gz")
    text = CONFIG["text_cfg"]
    tokenizer = SimpleTokenizer(str(folder / "bpe.txt.gz"), context_length=text["context_length"])
    config = {**CONFIG, "text_cfg": {**text, "vocab_size": tokenizer.vocab_size}}
    tree = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    torch.manual_seed(seed)
    return open_clip.create_model(f"local-dir:{folder}", load_weights=False), tokenizer


def measure(folder: Path, held_out: int) -> dict[str, Any]:
    """Accuracies of the written model on held-out pictures, by the way that a job takes: at 224, then resized."""
    config = ModelConfig(
        backbone=f"open_clip:local-dir:{folder}",
        weights=str(folder / "open_clip_model.safetensors"),
        head="text",
        classes=[species.name for species in SPECIES],
        concepts=list(ATTRIBUTES),
        templates=TEMPLATES,
    )
    todo = pictures("test", held_out)
    images = [rendering.image for rendering in track(rendered(todo), "held out", total=len(todo))]
    labels = np.array([picture.label for picture in todo])
    return {"images": len(todo), "templates": TEMPLATES, **accuracies(build_classifier(config), images, labels)}


def run(
    folder: Annotated[Path, typer.Argument(help="Where the model goes.")],
    cache: Annotated[Path, typer.Option(help="Where the rendered training set is kept.")] = Path("birds_cache"),
    per_class: Annotated[int, typer.Option(min=1)] = Settings.per_class,
    epochs: Annotated[int, typer.Option(min=1)] = Settings.epochs,
    seed: Annotated[int, typer.Option()] = Settings.seed,
) -> None:
    """Train the birds' open_clip model."""
    settings = Settings(per_class=per_class, epochs=epochs, seed=seed)
    pixels, labels = training_set(settings, cache)
    model, tokenizer = start(folder, seed)
    began = time.monotonic()
    losses = []
    for loss in train(model, tokenizer, pixels, labels, settings):
        losses.append(loss)
        if len(losses) % REPORTED == 0:
            recent = float(np.mean(losses[-REPORTED:]))
            seconds = time.monotonic() - began
            typer.echo(f"step {len(losses)} of {_steps(len(labels), settings)}, {seconds:.0f} s: loss {recent:.3f}")
    seconds = time.monotonic() - began
    write_model(model, folder)
    report = {
        "settings": asdict(settings),
        "parameters": sum(value.numel() for value in model.parameters()),
        "steps": len(losses),
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "loss": {"first": round(losses[0], 4), "last": round(float(np.mean(losses[-REPORTED:])), 4)},
        "held_out": measure(folder, settings.held_out),
    }
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(report, indent=1))


def _batches(rng: np.random.Generator, count: int, settings: Settings) -> Iterator[NDArray[np.int64]]:
    for _ in range(settings.epochs):
        order = rng.permutation(count)
        for begin in range(0, count - settings.batch + 1, settings.batch):
            # In ascending order, as a memory-mapped file likes it.
            yield np.sort(order[begin : begin + settings.batch])


def _steps(count: int, settings: Settings) -> int:
    return settings.epochs * (count // settings.batch)


def _optimisers(model: Any, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) for the matrices of the blocks, which learns such a small set in fewer passes; AdamW for
    everything else."""
    named = dict(model.named_parameters())
    matrices = {name for name, value in named.items() if "resblocks" in name and value.ndim == 2}
    rest = [value for name, value in named.items() if name not in matrices]
    return [
        torch.optim.Muon(
            [named[name] for name in sorted(matrices)],
            lr=settings.rate,
            weight_decay=settings.decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(rest, lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _schedule(optimiser: torch.optim.Optimizer, settings: Settings, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    warmup = max(1, min(settings.warmup, steps // 10))

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, share)


if __name__ == "__main__":
    typer.run(run)
