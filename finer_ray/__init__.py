"""Finer-CAM saliency for every image of a data set: `open_export` reads what the job wrote."""

from typing import TYPE_CHECKING, Any

from finer_ray.version import __version__

if TYPE_CHECKING:
    from finer_ray.store.reading import Export, open_export

__all__ = ["Export", "__version__", "open_export"]


def __getattr__(name: str) -> Any:
    # Imported on first use: decoding workers import this package too, and need neither zarr nor torch.
    if name in ("Export", "open_export"):
        from finer_ray.store import reading

        return getattr(reading, name)
    raise AttributeError(f"module 'finer_ray' has no attribute {name!r}")
