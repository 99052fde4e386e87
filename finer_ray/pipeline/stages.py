"""The stages of an export: load, explain, write; what each needs is declared, and an executor runs them."""

from functools import partial

from finer_ray.config.schema import Config
from finer_ray.metrics.table import OF_REGION
from finer_ray.models import Classifier
from finer_ray.pipeline.executor import Executor
from finer_ray.pipeline.explaining import Explainer
from finer_ray.pipeline.stage import Stage
from finer_ray.pipeline.unit_loading import Loader
from finer_ray.pipeline.unit_tables import WRITTEN, explained_schema, metric_shapes
from finer_ray.pipeline.writing import write
from finer_ray.saliency.parts import PartGrid
from finer_ray.store.layout import Layout

# After so many units a loading process is replaced, whatever its image libraries have leaked.
UNITS_PER_PROCESS = 512


def export_stages(config: Config, classifier: Classifier, layout: Layout, url: str, executor: Executor) -> list[Stage]:
    """What every unit of an export goes through.

    Args:
        config: of the job.
        classifier: that is explained.
        layout: of the Zarr arrays.
        url: of the export's folder.
        executor: that will run them, whose resources they share.
    """
    share, seconds = executor.resources(config.compute), config.compute.retry_seconds
    size = classifier.transform.size
    parts = PartGrid(layout.grid, size, layout.registration) if layout.parts else None
    region = any(getattr(config.metrics, metric.switch.name) for metric in OF_REGION.values())
    loader = Loader(config.input, classifier.transform, region, seconds, parts)
    model = executor.share(classifier)
    explained = explained_schema(layout, metric_shapes(config.metrics, layout))
    return [
        Stage(
            name="load",
            build=lambda: loader,
            takes=None,
            gives=loader.gives,
            rows=layout.rows_per_unit,
            processes=(1, share.decoders),
            cpus=config.compute.decode_cpus,
            max_calls=UNITS_PER_PROCESS,
        ),
        Stage(
            name="explain",
            build=lambda: Explainer(model.get(), config, layout, share),
            takes=loader.gives,
            gives=explained,
            rows=layout.rows_per_unit,
            processes=(share.actors_min, share.actors_max),
            keeps=True,
            calls=share.units,
            cpus=share.cpus,
            gpus=share.gpus,
        ),
        Stage(
            name="write",
            build=lambda: partial(write, url, layout, seconds),
            takes=explained,
            gives=WRITTEN,
            rows=1,
            processes=(1, share.writers),
            # Else writing waits until loading leaves it a CPU, and commits come late.
            cpus=0.0,
        ),
    ]
