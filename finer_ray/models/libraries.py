"""The libraries of backbones."""

from finer_ray.models.library import Library
from finer_ray.plugins import table

LIBRARIES = table(
    Library,
    (
        Library(
            "timm",
            usage="timm:NAME",
            supported="timm CNNs, ViTs and most other models of tokens",
            module="finer_ray.models.timm_backbone",
            native_head=True,
        ),
        Library(
            "open_clip",
            usage="open_clip:NAME | open_clip:local-dir:FOLDER with an open_clip_config.json, where FOLDER may be "
            "package:NAME/FOLDER",
            supported="open_clip's ViTs, ResNets and timm towers of these kinds",
            module="finer_ray.models.openclip_backbone",
            text_tower=True,
        ),
    ),
)
