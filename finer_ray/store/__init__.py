"""The export on disk: Zarr tensors, Parquet tables, the manifest; reading them back.

Nothing is imported here: decoding and writing workers use single modules, and must not load torch for it.
"""
