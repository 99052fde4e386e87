"""Metrics of saliency maps, as pure tensor functions."""

from finer_ray.metrics.localisation import localisation, pointing_hit, upsample

__all__ = ["localisation", "pointing_hit", "upsample"]
