"""Traits: what tells one class from another over all images of an export, from what is stored; no model is needed."""

from finer_ray.traits.run import all_traits, pair_traits, trait_table
from finer_ray.traits.trait import Settings, Shown, Trait

__all__ = ["Settings", "Shown", "Trait", "all_traits", "pair_traits", "trait_table"]
