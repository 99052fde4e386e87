"""The export on disk: Zarr tensors, Parquet tables, the manifest; reading them back."""

from finer_ray.store.export import Export, open_export
from finer_ray.store.verify import verify_export

__all__ = ["Export", "open_export", "verify_export"]
