"""GEM (Bousselham et al. 2024): patches of a CLIP ViT against texts, after attention of like to like.

Beside the last blocks of the ViT runs a second stream of tokens, z, that begins with those of its first such block.
With x the normalised tokens of the usual stream, n(.) to unit length, and for each u of q, k and v of x, by head:

    u <- softmax(n(u) n(u)^T / tau) n(u)                `iterations` times
    o_u = softmax(n(u) n(u)^T / tau) v
    z <- z + out((o_q + o_k + o_v) / 3)                 no MLP (Fig. 2)
    tau = sqrt(d) / mean length of the image's x        (adaptive temperature)

The final norm and projection make an embedding of every patch, and the head its logits, M_j (for a text head a scaled
cosine). map = min-max normalised sum_j a_j M_j: for a single text this is the authors' map, but for their stretching
it to the image before it is normalised.
"""

from functools import partial
from typing import Annotated

from pydantic import Field

from finer_ray.config.section import AboveZero, NonNegative, Section
from finer_ray.lazy import Tensor, functional, torch
from finer_ray.saliency.aggregation import linear
from finer_ray.saliency.method import BatchContext, Cam, Method
from finer_ray.saliency.objective import wide
from finer_ray.saliency.split_classifier import SplitClassifier


class Gem(Section):
    """GEM (Bousselham et al. 2024): patches of an open_clip ViT against texts."""

    # Defaults of the authors' code.
    depth: Annotated[int, Field(ge=2)] = Field(7, description="the last depth - 1 blocks have self-self attention")
    iterations: NonNegative = Field(1, description="of each self-self attention")
    temperature: AboveZero | None = Field(None, description="null: by the length of the tokens")

    def attention(self, tokens: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> Tensor:
        """Mean over q, k and v of their self-self attention.

        Args:
            tokens: x, (B, T, D).
            weight, bias: (3D, D) and (3D,) or None, rows of q, k, v.
            heads: number of attention heads.

        Returns:
            (B, T, D), before the output projection.
        """
        batch, length, width = tokens.shape
        parts = functional.linear(tokens, weight, bias).reshape(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        values = parts[2].expand_as(parts)
        sharpness = self._sharpness(tokens, width // heads)
        for _ in range(self.iterations):
            unit = functional.normalize(parts, dim=-1)
            parts = _attend(unit, unit, sharpness)
        mixed = _attend(functional.normalize(parts, dim=-1), values, sharpness).mean(0)
        return mixed.transpose(1, 2).reshape(tokens.shape)

    def _sharpness(self, tokens: Tensor, size: int) -> Tensor:
        """1 / tau, (B, 1, 1, 1); `size` is d, the channels of a head."""
        if self.temperature is not None:
            return tokens.new_full((len(tokens), 1, 1, 1), 1 / self.temperature)
        lengths = torch.linalg.vector_norm(tokens, dim=-1).mean(1)
        sharpness: Tensor = lengths * size**-0.5
        return sharpness[:, None, None, None]


def gem_basis(model: SplitClassifier, images: Tensor, classes: Tensor, grid: tuple[int, int], settings: Gem) -> Tensor:
    """The logits M_j of every patch.

    Args:
        model: with a side stream (`finer_ray.models.split.Split.side_blocks`).
        images: (B, 3, H, W), normalised.
        classes: (B, J) int64; -1 means none.
        grid: (h, w) of the patches.
        settings: of the second stream.

    Returns:
        (B, J, h, w) float32 (float64 for float64 images).
    """
    patches = wide(model.patch_embeddings(images, settings.attention, settings.depth - 1))
    # Image by image: with many classes the logits of all patches of a batch would fill the memory.
    found = [model.head(own)[:, wanted] for own, wanted in zip(patches, classes.clamp(min=0), strict=True)]
    return torch.stack(found).to(patches.dtype).transpose(1, 2).reshape(*classes.shape, *grid)


def gem(basis: Tensor, coefficients: Tensor) -> Tensor:
    """GEM's map of an objective.

    Args:
        basis: what `gem_basis` gives, (B, J, h, w).
        coefficients: a_j, (B, S, J).

    Returns:
        (B, S, h, w) in [0, 1], from the lowest patch to the highest; zero where all are alike.
    """
    return spread(linear(basis, coefficients))


def spread(maps: Tensor) -> Tensor:
    """Maps (B, S, h, w) with their lowest cell at 0 and their highest at 1; zero where all are alike."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def _attend(unit: Tensor, values: Tensor, sharpness: Tensor) -> Tensor:
    """softmax(u u^T / tau) values; all (3, B, heads, T, d)."""
    shape = unit.shape
    query, key, value = ((unit * sharpness).flatten(0, 1), unit.flatten(0, 1), values.flatten(0, 1))
    return functional.scaled_dot_product_attention(query, key, value, scale=1.0).reshape(shape)


def prepare(context: BatchContext, settings: Gem) -> Cam:
    """The second stream."""
    basis = context.by_class(
        "gem", lambda whole: gem_basis(whole.model, whole.images, whole.classes, whole.grid, settings)
    )
    # No derivative is taken: with `weighting: probability`, too, the shares are constants.
    return Cam(partial(gem, basis), context.weights("probability_detached"))


def refusal(classifier: SplitClassifier, concepts: bool) -> str | None:
    """Why GEM cannot explain a classifier; concepts are texts whatever the classes are."""
    if not classifier.side_blocks:
        return "gem needs one of open_clip's own ViTs, with class-token or mean pooling"
    if not (concepts or classifier.compares_directions):
        return (
            "gem compares patches with texts, and model.head is none of texts: use head: text, a probe on normalised "
            "embeddings, or target: concept"
        )
    return None


GEM = Method(
    "gem",
    "cosines of patch embeddings from self-self attention with a text",
    prepare,
    Gem(),
    cost="open_clip ViTs",
    refusal=refusal,
)
