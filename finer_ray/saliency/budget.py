"""Memory budget of masked images: how many of them may be in flight at a time."""

from finer_ray.lazy import Tensor

# Bytes, where nothing else is said.
MASKED_MEMORY = 2**30
# What an image in flight takes at its peak, weights aside, as a multiple of its own bytes: from 5 (ViT-Ti/16) over 20
# (ViT-B/16) and 26 (ResNet-50) to 28 (EfficientNet-Lite0, ConvNeXt-T) were measured, in float32 on a CPU.
FOOTPRINT = 32
# The same with the graph of a full backward pass: from 47 (ViT-Ti/16) over 140 to 155 (ConvNeXt-T, ResNet-50,
# EfficientNet-Lite0) to 183 (ViT-B/16).
GRAPH_FOOTPRINT = 192
# On a CPU larger batches are no faster: EfficientNet-Lite0 takes 18 ms an image at both 8 and 32 (one thread, freed
# memory kept; given back to the system, 31 and 52), ViT-B/16 about 170 ms at both 8 and 32.
CPU_BATCH = 8


def in_flight(images: Tensor, memory: int, footprint: int = FOOTPRINT) -> int:
    """How many masked images to run through a model together; one at least.

    Args:
        images: (B, 3, H, W), of which masked copies are made.
        memory: bytes that they may take, with all that the model makes of them. On a CPU no more than `CPU_BATCH`
            images whatever the memory.
        footprint: what that is, as a multiple of their own bytes; `GRAPH_FOOTPRINT` where there is a backward pass.
    """
    fitting = max(1, memory // (footprint * images[0].numel() * images.element_size()))
    return min(fitting, CPU_BATCH) if images.device.type == "cpu" else fitting
