"""The pipeline: the only place that imports Ray Data. Units -> decode -> explain -> write."""

from finer_ray.pipeline.export import export
from finer_ray.pipeline.progress import Summary

__all__ = ["Summary", "export"]
