"""Revisions of an export: what the one that is published leaves to the one that is planned."""

from finer_ray.models import Classifier
from finer_ray.store.manifest import Manifest
from finer_ray.store.similarity import similarity_files
from finer_ray.store.storage import Folder
from finer_ray.store.tensors import erase_units


def has_news(plan: Manifest, published: Manifest) -> bool:
    """Whether the plan has shards, if only damaged ones, that the published manifest lacks, or lacks some of its."""
    return len(published.shards) != len(plan.shards) or len(published.retired) != len(plan.retired)


def with_stamps(published: Manifest, plan: Manifest) -> Manifest:
    """The published manifest with the plan's signs of change for the shards that have rows."""
    stamps = {entry.first_unit: entry.stamp for entry in plan.shards if entry.index["starts"]}
    shards = [
        entry.model_copy(update={"stamp": stamps.get(entry.first_unit, entry.stamp)})
        if entry.index["starts"]
        else entry
        for entry in published.shards
    ]
    return published.model_copy(update={"shards": shards})


def kept_tables(classifier: Classifier, published: Manifest | None) -> dict[str, list[str]]:
    """Tables that come of no unit: the similarity, which the first run writes; a later one has the same head."""
    if published is None:
        return {"similarity": similarity_files(classifier.class_weights())}
    # Exports of earlier versions have no such table.
    return {"similarity": published.tables.get("similarity", [])}


def erase_retired(plan: Manifest, published: Manifest | None, folder: Folder) -> Manifest:
    """The plan, after tensors that an earlier publication retired are erased; readers had one publication's time."""
    before = [] if published is None else published.retired
    due = [span for span in plan.retired if span in before and not span.erased]
    for span in due:
        erase_units(folder, plan.layout, range(span.first_unit, span.first_unit + span.units))
    retired = [span.model_copy(update={"erased": True}) if span in due else span for span in plan.retired]
    return plan.model_copy(update={"retired": retired})
