"""Training: a small open_clip model that learns the birds from captions.

python -m birds.train FOLDER    renders the training set, trains, measures, and writes
    open_clip_config.json, bpe.txt.gz, open_clip_model.safetensors and training.json
"""

import json
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import torch
import typer
from open_clip.tokenizer import SimpleTokenizer
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from birds import captions
from birds.accuracy import accuracies
from birds.augmentation import augmented
from birds.captions import EMPTY, Caption
from birds.merges import learn_merges, write_merges
from birds.patches import PatchDropout, Shown, shown
from birds.pictures import pictures, rendered
from birds.species import ATTRIBUTES, SPECIES
from birds.training_set import TrainingSet
from finer_ray.config.schema import ModelConfig
from finer_ray.models import build_classifier

SIDE = 160
# Rendered somewhat larger than the input, so that crops of several scales stay sharp.
RENDERED = 176
REPORTED, SAVED = 25, 100
MEAN = STD = (0.5, 0.5, 0.5)
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "init_logit_scale": 2.3,
    "init_logit_bias": -2.0,
    # Mean pooling gives every patch its share; the norm comes after it, so that one patch may say more than another.
    "vision_cfg": {
        "image_size": SIDE,
        "patch_size": 8,
        "width": 192,
        "layers": 5,
        "head_width": 64,
        "pool_type": "avg",
        "final_ln_after_pool": True,
    },
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
    """How the model is trained, in one of its phases.

    Attributes:
        per_class: pictures of each species; as many, and no more, are without a bird.
        epochs: times that each is seen.
        repeated: times that families of a genus come in each of these, 1 of those that are not named.
        batch: pictures of a step.
        described: composed captions of a step, beside every name and every attribute.
        dropped: share of patches that the image tower is not shown, until the last tenth of all steps (FLIP): a third
            of the time, and a part has to be known by any of the patches that show it.
        linear: weight of a linear layer's cross-entropy over the 24 species. Texts of siblings that no picture tells
            apart yet become alike, and then no gradient of theirs tells pictures apart either; its rows stay different.
        zoomed: share of pictures that are looked at more closely, see `augmented`.
        rate: peak learning rate, reached after `warmup` steps; a cosine leads to 0.
        decay: of the blocks' matrices.
        seed: of weights, order, crops and captions.
        held_out: pictures of each species that the accuracies are measured on.
    """

    per_class: int = 400
    epochs: int = 10
    repeated: dict[str, int] = field(default_factory=dict)
    batch: int = 64
    described: int = 32
    dropped: float = 0.5
    linear: float = 0.0
    zoomed: float = 0.0
    rate: float = 2e-3
    warmup: int = 60
    decay: float = 0.05
    seed: int = 0
    held_out: int = 20

    def steps(self, data: TrainingSet) -> int:
        """Of the whole training."""
        return self.epochs * data.steps(self.batch, self.repeated)


# The breasts of thrushes, spotted or streaked, are learned last: they get a phase of their own, and one to come back.
PHASES = (
    Settings(),
    Settings(epochs=1, repeated={"hill thrush": 12}, dropped=0.3, linear=1.0, zoomed=0.7, rate=1.5e-3, seed=1),
    Settings(epochs=1, repeated={"hill thrush": 3}, dropped=0.3, linear=1.0, zoomed=0.3, rate=7e-4, seed=2),
)


def train(
    model: Any, tokenizer: Any, data: TrainingSet, settings: Settings, checkpoint: Path | None = None
) -> Iterator[float]:
    """Train in place; the loss of every step, from the one on that the checkpoint has reached.

    A caption is a positive of every picture of which it is true, not of its own alone: the sigmoid loss (SigLIP,
    Eq. 1) over all pairs of a batch, with that truth as its labels. The 24 names, of which exactly one is true of a
    bird, add the cross-entropy of CLIP from image to text; names of siblings, and pictures of siblings that stand alike
    (`TrainingSet.batch`), are the negatives that count. Two more terms (`objective`) keep what is known of a part at
    the patches that show it: left alone, attention may write it into any patch, where no map could find the part again.

    Args:
        model, tokenizer: of `start`.
        data: pictures and labels.
        settings: of the training.
        checkpoint: file that is written every SAVED steps and read at the beginning where it exists; None for none.
    """
    steps, visual = settings.steps(data), model.visual
    torch.manual_seed(settings.seed)
    trained = nn.ModuleDict({"model": model, "linear": nn.Linear(visual.proj.shape[0], len(SPECIES))})
    optimisers = _optimisers(trained, settings)
    whole, visual.patch_dropout = visual.patch_dropout, (dropping := PatchDropout(settings.dropped))
    model.train()
    for step in range(_resumed(checkpoint, trained, optimisers), steps):
        rng = np.random.default_rng((settings.seed, 2, step))
        dropping.share = settings.dropped if step < 0.9 * steps else 0.0
        # Patches are dropped by torch's own generator.
        torch.manual_seed(settings.seed + step)
        rows = data.batch(step, settings.batch, settings.seed, settings.repeated)
        groups = data.groups(rows)
        texts = [*captions.names(rng), *captions.short(rng), *captions.described(rng, settings.described)]
        inputs, birds = augmented(data.pixels[rows], groups, SIDE, rng, settings.zoomed)
        dropping.groups = torch.from_numpy(groups)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = visual.transformer(visual._embeds(inputs))[:, 1:]
            text = model.encode_text(tokenizer([caption.text for caption in texts]), normalize=True).float()
        seen = shown(inputs, birds, dropping.groups, dropping.kept, visual.patch_size[0])
        tokens, labels = tokens.float(), torch.from_numpy(data.labels[rows])
        loss = objective(model, tokens, text, texts, labels, dropping.groups, seen)
        if settings.linear:
            loss = loss + settings.linear * named(trained["linear"](visual.ln_post(tokens.mean(1))), labels)
        trained.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = settings.rate * _rate(step, settings.warmup, steps)
            optimiser.step()
        if checkpoint is not None and ((step + 1) % SAVED == 0 or step + 1 == steps):
            _save(checkpoint, trained, optimisers, step + 1)
        yield loss.item()
    visual.patch_dropout = whole
    model.eval()


def objective(
    model: Any,
    tokens: Tensor,
    text: Tensor,
    texts: list[Caption],
    labels: Tensor,
    groups: Tensor,
    seen: Shown,
) -> Tensor:
    """What training makes small: `contrast` of the pooled patches; the same of the patches behind the bird, which shall
    say that there is none; and `spread`.

    Args:
        model: for its neck, scale and bias.
        tokens: (B, n, D) float32, what is pooled.
        text: (T, E) embeddings of length 1.
        texts: their captions.
        labels: (B,) species, or EMPTY.
        groups: (B,) int64, see `TrainingSet.groups`.
        seen: what the n patches show.
    """
    behind = seen.background[..., None].float()
    pooled = torch.stack([tokens.mean(1), (tokens * behind).sum(1) / behind.sum(1).clamp(min=1)])
    embedding = functional.normalize(model.visual.ln_post(pooled) @ model.visual.proj, dim=-1)
    whole, without = model.logit_scale.exp() * embedding @ text.T + model.logit_bias
    nothing = contrast(without, texts, torch.full_like(labels, EMPTY))
    return contrast(whole, texts, labels) + nothing + spread(tokens, groups, seen.alike)


def spread(tokens: Tensor, groups: Tensor, alike: Tensor) -> Tensor:
    """Share of the difference between siblings that lies in patches in which their pictures do not differ, 0 to 1.

    Args:
        tokens: (B, n, D).
        groups: (B,) int64; those of one picture have no difference.
        alike: (B, n) bool.
    """
    count = torch.bincount(groups)
    mean = torch.zeros(len(count), *tokens.shape[1:]).index_add_(0, groups, tokens) / count[:, None, None]
    apart = (tokens - mean[groups]).square().sum(2).add(1e-12).sqrt() * (count[groups] > 1)[:, None]
    return (apart * alike).sum() / apart.sum()


def contrast(logits: Tensor, texts: list[Caption], labels: Tensor) -> Tensor:
    """The loss of `train`.

    Args:
        logits: (B, T); the first 24 texts are the names.
        texts: T captions.
        labels: (B,) species, or EMPTY.
    """
    truth = torch.from_numpy(np.stack([caption.true_of for caption in texts])).T[labels].float()
    pairs = functional.binary_cross_entropy_with_logits(logits, truth)
    return 4 * pairs + named(logits[:, : len(SPECIES)], labels)


def named(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the species, over the pictures that show a bird; 0 where none does.

    Args:
        logits: (B, 24).
        labels: (B,) species, or EMPTY.
    """
    return functional.cross_entropy(logits, labels, ignore_index=EMPTY, reduction="sum") / (
        labels != EMPTY
    ).sum().clamp(min=1)


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
    cache: Annotated[Path, typer.Option(help="For the rendered training set and checkpoints.")] = Path("birds_cache"),
    per_class: Annotated[int, typer.Option(min=1, help="Pictures of each species.")] = Settings.per_class,
) -> None:
    """Train the birds' open_clip model. The same command again goes on from the last checkpoint."""
    data = TrainingSet.rendered(per_class, RENDERED, cache)
    model, tokenizer = start(folder, PHASES[0].seed)
    report: dict[str, Any] = {"parameters": sum(value.numel() for value in model.parameters()), "phases": []}
    for number, phase in enumerate(PHASES):
        settings = replace(phase, per_class=per_class)
        checkpoint = cache / f"checkpoint-{per_class}-{number}.pt"
        loss = _told(train(model, tokenizer, data, settings, checkpoint), f"phase {number}", settings.steps(data))
        report["phases"].append({**asdict(settings), "steps": settings.steps(data), "loss": loss})
    write_model(model, folder)
    report["held_out"] = measure(folder, Settings.held_out)
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(report, indent=1))


def _told(losses: Iterator[float], name: str, steps: int) -> float | None:
    """Take all steps that are left and say how far they are; the mean loss of the last ones, None where none was."""
    began, recent = time.monotonic(), deque[float](maxlen=REPORTED)
    for done, loss in enumerate(losses, start=1):
        recent.append(loss)
        if done % REPORTED == 0:
            mean, seconds = float(np.mean(recent)), time.monotonic() - began
            typer.echo(f"{name}: {done} steps of this run, {steps} in all, {seconds:.0f} s: loss {mean:.3f}")
    return round(float(np.mean(recent)), 4) if recent else None


def _optimisers(trained: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) for the matrices of the blocks, which learns such a small set in fewer passes; AdamW for
    everything else."""
    parameters = dict(trained.named_parameters())
    matrices = {name for name, value in parameters.items() if "resblocks" in name and value.ndim == 2}
    rest = [value for name, value in parameters.items() if name not in matrices]
    return [
        torch.optim.Muon(
            [parameters[name] for name in sorted(matrices)],
            lr=settings.rate,
            weight_decay=settings.decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(rest, lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _rate(step: int, warmup: int, steps: int) -> float:
    """The learning rate of a step, as a share of its peak."""
    warmup = max(1, min(warmup, steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _save(checkpoint: Path, trained: nn.Module, optimisers: list[torch.optim.Optimizer], step: int) -> None:
    partial = checkpoint.with_suffix(".part")
    states = [optimiser.state_dict() for optimiser in optimisers]
    torch.save({"step": step, "trained": trained.state_dict(), "optimisers": states}, partial)
    partial.rename(checkpoint)


def _resumed(checkpoint: Path | None, trained: nn.Module, optimisers: list[torch.optim.Optimizer]) -> int:
    """Steps that have been done, with model, linear layer and optimisers as they were then."""
    if checkpoint is None or not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, weights_only=True)
    trained.load_state_dict(saved["trained"])
    for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
        optimiser.load_state_dict(state)
    step: int = saved["step"]
    return step


if __name__ == "__main__":
    typer.run(run)
