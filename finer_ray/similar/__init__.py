"""Similar images of an export, by the cosine of their vectors."""

from finer_ray.similar.images import similar_images

__all__ = ["similar_images"]
