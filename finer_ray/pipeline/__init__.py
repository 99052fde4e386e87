"""The pipeline: the only place that imports Ray Data. Units -> decode -> explain -> write.

Nothing is imported here: decoding and writing workers use single modules, and must not load torch for it.
"""
