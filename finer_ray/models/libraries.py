"""The libraries of backbones."""

from finer_ray.models.library import Library
from finer_ray.plugins import table

LIBRARIES = table(
    Library,
    (
        Library(
            "timm",
            usage="timm:NAME | timm:hf-hub:ORG/NAME[@REVISION] | timm:local-dir:FOLDER",
            supported="timm CNNs, ViTs and most other models of tokens",
            module="finer_ray.models.timm_backbone",
            native_head=True,
        ),
        Library(
            "open_clip",
            usage="open_clip:NAME | open_clip:hf-hub:ORG/NAME[@REVISION] | open_clip:local-dir:FOLDER with an "
            "open_clip_config.json, where FOLDER may be package:NAME/FOLDER",
            supported="open_clip's ViTs, ResNets and timm towers of these kinds",
            module="finer_ray.models.openclip_backbone",
            text_tower=True,
        ),
        Library(
            "torchvision",
            usage="torchvision:NAME",
            supported="torchvision's classifiers (not GoogLeNet, Inception and SqueezeNet)",
            module="finer_ray.models.torchvision_backbone",
            native_head=True,
        ),
        Library(
            "transformers",
            usage="transformers:ORG/NAME[@REVISION] | transformers:local-dir:FOLDER",
            supported="transformers' ViTs with a norm before attention, ConvNeXt, ResNet, RegNet, Swin, EfficientNet, "
            "MobileNetV2",
            module="finer_ray.models.transformers_backbone",
            native_head=True,
            repositories=True,
        ),
    ),
)
