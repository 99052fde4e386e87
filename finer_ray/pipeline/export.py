"""The export, as a recipe: plan, explain, publish."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Self

from finer_ray.config.messages import brief
from finer_ray.config.schema import Config
from finer_ray.errors import FinerRayError, InputError, LeaseError, StoreError
from finer_ray.models import build_classifier
from finer_ray.pipeline.cluster import check_device
from finer_ray.pipeline.executor import executor_of
from finer_ray.pipeline.planning import as_begun, check_places, draft, make_plan, units_left
from finer_ray.pipeline.precision import with_precision
from finer_ray.pipeline.progress import Progress, Summary, late_bar, run_bar
from finer_ray.pipeline.reference_files import with_part_names, with_references
from finer_ray.pipeline.revision import erase_retired, has_news, kept_tables, with_stamps
from finer_ray.pipeline.stages import export_stages
from finer_ray.pipeline.targets import check_saliency
from finer_ray.pipeline.writing import unknown_label_note
from finer_ray.store import derived
from finer_ray.store.failures import over_limit, too_many
from finer_ray.store.lease import Lease, acquire
from finer_ray.store.manifest import EXPORT, PLAN, Manifest, ManifestFile, Unit, check_vacant, pending
from finer_ray.store.parts import clean_up, committed, failure_count, publish
from finer_ray.store.reading import Export
from finer_ray.store.similarity import write_similarity
from finer_ray.store.storage import Folder
from finer_ray.store.tensors import create_tensors

OnUnit = Callable[[Progress], None]


def export(config: Config, on_unit: OnUnit = lambda progress: None) -> Summary:
    """Explain every image of the config's shards; what an earlier run has committed is not done again.

    Args:
        config: of the job.
        on_unit: called after each unit of work with how far the run is, for those who watch it.

    Raises:
        ConfigError: the config asks for something that cannot be done; before any work.
        InputError: no images, or more failures than `input.max_failures` allows (commits are kept).
        ExportError: `output.url` holds an export of another config, model or head, or of shards that have changed; or
            what is no export.
        LeaseError: another run writes to it.
        StoreError: a store refuses, or does not answer for longer than `compute.retry_seconds` (commits are kept).

    >>> from finer_ray.config.loading import parse_config
    >>> model = {"backbone": "timm:test_resnet", "weights": "random", "image_size": 64}
    >>> job = {"input": {"shards": "in/b.tar"}, "model": model, "output": {"url": "another"}}
    >>> export(parse_config({**job, "compute": {"executor": "inline"}})).images
    1
    """
    with Run(config, on_unit) as run:
        run.plan()
        run.explain()
        return run.publish()


class Run(ExitStack):
    """A run of an export, in three verbs; a context that holds the output's lease and the executor.

    Args:
        config: of the job.
        on_unit: called after each unit of work with how far the run is.

    Attributes:
        left: units of work that nothing has committed, once they are planned.
        notes: what the user should know.
    """

    def __init__(self, config: Config, on_unit: OnUnit = lambda progress: None) -> None:
        super().__init__()
        self._config, self._on_unit, self._start = config, on_unit, time.monotonic()
        self.left: list[Unit] = []
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        """Check everything that can be checked before any work, and acquire the lease."""
        self._bar = self.enter_context(run_bar())
        self._config = config = with_part_names(self._config)
        check_device(config.compute)
        self._folder = folder = Folder(config.output.url, config.compute.retry_seconds)
        check_places(config.input.shards, folder)
        check_vacant(folder)
        self._bar.announce("loading the model")
        self._classifier = build_classifier(config.model)
        self._config = config = with_references(config, self._classifier.classes)
        check_saliency(config, self._classifier)
        self._lease = self.enter_context(acquire(folder, config.output.lease_seconds))
        self._executor = self.enter_context(executor_of(config.compute, config.output.url))
        self._config, self.notes = with_precision(config, self._classifier, self._executor)
        self.enter_context(_lost_lease_first(folder, self._lease))
        return self

    def plan(self) -> None:
        """Find the shards, divide them into units of work, and say in plan.json what will be done."""
        self._plan_file, self._export_file = ManifestFile(self._folder, PLAN), ManifestFile(self._folder, EXPORT)
        self._published = published = self._export_file.manifest
        planned = pending(self._plan_file.manifest, published)
        if published is not None and planned is None and self._plan_file.manifest is not None:
            clean_up(self._folder, self._plan_file, self._export_file)
        self._bar.announce("counting the images")
        empty = draft(self._config, self._classifier, planned or published)
        plan, notes = make_plan(self._config, empty, planned, published, self._folder, self._executor.map)
        self._plan, self.notes = plan, self.notes + notes
        self.left, self._unpublished = units_left(plan, published, self._folder)
        if self._is_current():
            return
        self._lease.confirm_held()
        tables = kept_tables(self._classifier, published)
        self._plan = erase_retired(plan, published, self._folder).model_copy(update={"tables": tables})
        self._plan_file.write(self._plan)
        if published is None:
            write_similarity(self._folder, self._classifier.class_weights())
        create_tensors(self._folder, plan.layout, plan.rows())

    def explain(self) -> None:
        """Take the units that are left through the stages."""
        if self._is_current():
            return
        plan, total = self._plan, self._plan.images()
        failures = plan.counts["failures"] + failure_count(self._folder, self._unpublished)
        progress = Progress(total, total - sum(unit.count for unit in self.left), failures)
        self._check(progress)
        if not self.left:
            return
        reasons = Counter[str]()
        stages = export_stages(
            as_begun(self._config, plan), self._classifier, plan.layout, self._folder.url, self._executor
        )
        self._bar.announce("loading the model where it explains")
        for line in self._executor.run(self.left, stages):
            progress = progress.advanced(line["images"] + line["failures"], line["failures"])
            self._bar.show(progress)
            self._lease.report_progress(**progress.numbers())
            self._on_unit(progress)
            self._check(progress)
            reasons.update(dict(line["unknown_labels"]))
        self._bar.stop()
        self.notes += [unknown_label_note(reasons)] if reasons else []

    def publish(self) -> Summary:
        """Make tables of what is committed, and name them in export.json."""
        if self._published is not None and self._is_current():
            made = self._refreshed(self._published)
        else:
            missing, unpublished = units_left(self._plan, self._published, self._folder)
            self._lease.confirm_held()
            if missing:
                raise StoreError(
                    f"{len(missing)} of {len(self.left)} units that this run has committed to {self._folder.url}/parts "
                    "are not there any more; nothing is published. Run the same command again"
                )
            # Again, in case a run that stood still has come between.
            create_tensors(self._folder, self._plan.layout, self._plan.rows())
            files, mapper = (self._plan_file, self._export_file), self._executor.map
            made = publish(self._folder, unpublished, *files, mapper, self._lease.confirm_held)
        self._derive(made)
        if empty := [name for name, kind in made.columns.items() if kind == "null"]:
            self.notes.append(
                f"input.columns: {', '.join(empty)} has no value in any image: is it called so in the shards? (in JSON "
                "members of a tar: json.NAME)"
            )
        new, seconds = sum(unit.count for unit in self.left), time.monotonic() - self._start
        return Summary(**made.counts, new=new, notes=self.notes, seconds=seconds)

    def _derive(self, made: Manifest) -> None:
        """Make the tables that are computed from what is published. It stays published where that fails."""
        if not self._config.output.pairs:
            return
        # DuckDB, once imported, may print of leaks in a process that is interrupted: a long run does without it.
        from finer_ray.pairs import table as pairs

        made_export, weight = Export(self._folder, made), self._classifier.class_weights().detach().cpu().numpy()
        try:
            with late_bar(made.counts["images"], "pairs") as watch:
                table = pairs.news(made_export, weight, watch)
            self._lease.confirm_held()
            if table is not None:
                derived.write(made_export, pairs.NAME, table)
        except LeaseError:
            # What is published stands, and whoever has taken over makes the table of what comes after.
            return
        except Exception as error:
            reason = str(error) if isinstance(error, FinerRayError) else brief(error)
            self.notes.append(
                f"output.pairs: the export is whole, but has no table of pairs yet: {reason}. "
                f"`finer-ray pairs {self._folder.url}` makes it, without the cosines of weights"
            )

    def _is_current(self) -> bool:
        """Whether what is published is all that there is to do."""
        done = not self.left and not self._unpublished
        return self._published is not None and done and not has_news(self._plan, self._published)

    def _refreshed(self, published: Manifest) -> Manifest:
        """What is published, after what earlier runs left behind is cleared up."""
        # Also the late commits of a run that stood still while another published.
        if self._plan_file.manifest is not None or committed(self._folder):
            clean_up(self._folder, self._plan_file, self._export_file)
        if (stamped := with_stamps(published, self._plan)) != published:
            # Shards that were read again and are the same have other times now: once is enough.
            self._export_file.write(stamped)
        return published

    def _check(self, progress: Progress) -> None:
        """Raises LeaseError where another run has taken over, InputError where too many images have failed."""
        self._lease.raise_if_lost()
        limit = self._config.input.max_failures
        if too_many(progress.failures, progress.total, limit):
            raise InputError(over_limit(self._folder, progress.failures, progress.total, limit))


@contextmanager
def _lost_lease_first(folder: Folder, lease: Lease) -> Iterator[None]:
    """Raise LeaseError, where the lease is lost, in place of what that has led to: whoever has taken over may have
    cleared up what this run was about to read or write."""
    try:
        yield
    except (StoreError, FileNotFoundError) as error:
        with suppress(StoreError):
            lease.confirm_held()
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{folder.url}: a file is gone ({error}); run the same command again") from error
