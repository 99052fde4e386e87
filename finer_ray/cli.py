"""The command line: `finer-ray export | status | verify | table | report | query | show | study | ...`."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from finer_ray.datasets.catalogue import DATASETS
from finer_ray.datasets.writers import WRITERS
from finer_ray.to.tools import TOOLS
from finer_ray.urls import NO_SECRETS, holds_secret
from finer_ray.version import __version__

if TYPE_CHECKING:
    from finer_ray.config.schema import Config
    from finer_ray.pipeline.progress import Summary

app = typer.Typer(
    help="Explain a whole data set: Finer-CAM saliency for every image.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
ERRORS = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a key of the config; repeatable.")
]
# Headings of the list of commands.
EXPLAIN, LOOK, DATA, MORE = "Explain", "Look at an export", "Make shards", "More"
Format = Literal["table", "csv", "json", "parquet"]
To = Annotated[Path, typer.Option(help="The folder to write to.")]
By = Annotated[Literal["embedding", "map"], typer.Option(help="Of the whole image, or pooled by the finer map.")]


def _checked(url: str | None) -> str | None:
    """A URL as given. Raises BadParameter, which does not repeat it, where it holds a secret."""
    if url is not None and holds_secret(url):
        raise typer.BadParameter(NO_SECRETS)
    return url


ExportUrl = Annotated[str, typer.Argument(help="The export's folder or URL.", callback=_checked)]


studies = typer.Typer(help="Run a study of the paper: a Parquet table and a figure each.", no_args_is_help=True)
app.add_typer(studies, name="study", rich_help_panel=LOOK)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(rich_help_panel=EXPLAIN)
def export(
    config: Annotated[Path, typer.Argument(help="The job's YAML file.")],
    set_: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, from a trial in memory.")] = False,
    date: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="What {date} in the config means; today, in UTC.")
    ] = None,
    and_verify: Annotated[
        bool, typer.Option("--verify", help="Prove the export whole at the end; else exit 4.")
    ] = False,
) -> None:
    """Explain every image of the config's shards.

    Running it again does only what is missing. On the Ray cluster that
    RAY_ADDRESS names (HOST:6379, auto; a job that `ray job submit` has started
    knows its own), else on this machine.
    """
    # Before torch and Ray are imported, which takes seconds.
    from finer_ray.config.loading import load_config

    job = load_config(config, set_ or [], {"date": f"{date or datetime.now(UTC):%Y-%m-%d}"})
    if dry_run:
        from finer_ray.shards import find_shards
        from finer_ray.store.manifest import check_vacant
        from finer_ray.store.storage import Folder

        # Places that are wrong are refused before that, too.
        find_shards(job.input.shards, job.input.format)
        check_vacant(Folder(job.output.url, job.compute.retry_seconds))
        from finer_ray.pipeline.forecast import forecast, forecast_lines

        for line in forecast_lines(forecast(job)):
            typer.echo(line)
        return
    summary = _exported(job)
    for note in summary.notes:
        ERRORS.print(note)
    if and_verify:
        from finer_ray.errors import ExportError
        from finer_ray.store.verify import verify_export

        # Keys are not compared again: shards may have been archived since.
        if findings := verify_export(job.output.url, keys=False):
            raise ExportError(f"{job.output.url} is not whole: {'; '.join(findings)}")
    typer.echo(
        f"{summary.images} images explained, {summary.failures} failures, {summary.new} of them in this run, "
        f"{summary.seconds:.0f} s: {job.output.url}"
    )


def _exported(job: "Config") -> "Summary":
    """An export with one bar from the beginning, and what libraries print apart."""
    from finer_ray.pipeline.progress import run_bar
    from finer_ray.pipeline.running import running

    with running(job.output.url), run_bar() as bar:
        bar.announce("loading libraries")
        from finer_ray.pipeline.export import export as run

        return run(job)


@app.command(rich_help_panel=EXPLAIN)
def fetch(
    config: Annotated[Path, typer.Argument(help="The job's YAML file.")],
    set_: Overrides = None,
) -> None:
    """Fetch what a job's model needs, for machines without a network.

    Says what was fetched, how large it is, and which folders a job needs
    elsewhere.
    """
    from finer_ray.config.loading import load_config

    job = load_config(config, set_ or [])
    from finer_ray.models.fetching import fetch as run

    for line in run(job.model).lines():
        typer.echo(line)


@app.command(rich_help_panel=EXPLAIN)
def probe(
    config: Annotated[Path, typer.Argument(help="The probing job's YAML file.")],
    set_: Overrides = None,
) -> None:
    """Train a linear probe for every backbone and data set.

    Running it again does only what is missing.
    """
    from finer_ray.config.loading import load_section
    from finer_ray.probe.config import ProbesConfig

    job = load_section(ProbesConfig, config, set_ or [])
    from finer_ray.pipeline.running import running

    with running(job.output.url):
        from finer_ray.probe.accuracy_table import TITLE, accuracy_table, remarks
        from finer_ray.probe.run import probe as run

        records = run(job)
    typer.echo(TITLE)
    Console().print(accuracy_table(records))
    for line in remarks(records):
        typer.echo(line)
    typer.echo(job.output.url)


@app.command(rich_help_panel=EXPLAIN)
def sanity(
    config: Annotated[Path, typer.Argument(help="The job's YAML file.")],
    to: To = Path("study"),
    images: Annotated[int, typer.Option(min=2, help="Images that are drawn.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and of the random weights.")] = 0,
    set_: Overrides = None,
) -> None:
    """Say whether the job's maps depend on the model.

    The model is randomised from the head down (Adebayo et al. 2018), and its maps
    are compared with those that they were. Writes TO/sanity.parquet and
    TO/sanity.png.
    """
    from finer_ray.config.loading import load_config

    job = load_config(config, set_ or [])
    from finer_ray.library_log import libraries_apart
    from finer_ray.pipeline.progress import run_bar

    with libraries_apart(str(to / "sanity")), run_bar() as bar:
        bar.announce("loading libraries")
        from finer_ray.studies.sanity import sanity_study, sanity_table, verdicts

        places, found = sanity_study(job, to, images, seed)
    for failure in found.failures:
        ERRORS.print(f"not used: {failure}")
    _show(sanity_table(found))
    _say(verdicts(found))
    _say(places)


@app.command(rich_help_panel=LOOK)
def verify(
    url: ExportUrl,
    keys: Annotated[bool, typer.Option(help="List the input shards again and compare keys.")] = True,
) -> None:
    """Prove that every image is accounted for, and every row written.

    Each is one line of images or of failures, with its own key.
    """
    from finer_ray.store.reading import open_export
    from finer_ray.store.verify import verify_export

    findings = verify_export(url, keys)
    for finding in findings:
        ERRORS.print(finding)
    if findings:
        raise typer.Exit(1)
    counts = open_export(url).manifest.counts
    typer.echo(f"whole: {counts['images']} images, {counts['failures']} failures, every row written: {url}")


# Of `compare --fail-over`; no error has it.
CHANGED = 8
# Of `status`, by state, so that a scheduler need not read words.
STATES = {"complete": 0, "running": 10, "planning": 10, "stopped": 11, "none": 12}


@app.command(rich_help_panel=LOOK)
def status(
    url: ExportUrl,
    as_json: Annotated[bool, typer.Option("--json", help="As one line of JSON.")] = False,
) -> None:
    """Say how far an export is, and whether a run is at work on it.

    Exit codes: 0 complete, 10 at work, 11 stopped, 12 none.
    """
    from finer_ray.report.status_text import status_lines
    from finer_ray.store.status import status_of

    found = status_of(url)
    if as_json:
        typer.echo(json.dumps({**asdict(found), "holder": found.holder and found.holder.model_dump()}))
    else:
        for line in status_lines(found):
            typer.echo(line)
    raise typer.Exit(STATES[found.state])


@app.command(rich_help_panel=LOOK)
def table(
    url: ExportUrl,
) -> None:
    """Show the paper's table: maps by metrics.

    Below each finer map stands its paired difference to its baseline.
    """
    from finer_ray.report.paper_table import paper_table
    from finer_ray.store.reading import open_export

    _show(paper_table(open_export(url)))


@studies.command()
def similarity(
    classifier: Annotated[Path, typer.Argument(help="A probe's or a model's weights, or a job's YAML file.")],
    to: To = Path("study"),
    tensor: Annotated[str | None, typer.Option(help="The classifier's weights among a model's tensors.")] = None,
) -> None:
    """How similar are a classifier's classes to each other? (sorted weight-similarity curve)"""
    if classifier.suffix in (".yaml", ".yml"):
        from finer_ray.config.loading import load_config

        # Only looked at: a wrong one is refused before torch is imported.
        load_config(classifier)
    from finer_ray.studies.similarity_curve import similarity_study

    _say(similarity_study(classifier, to, tensor))


@studies.command()
def gamma(
    url: ExportUrl,
    to: To = Path("study"),
    low: Annotated[float, typer.Option(help="The smallest gamma.")] = -1.0,
    high: Annotated[float, typer.Option(help="The largest gamma.")] = 3.0,
    step: Annotated[float, typer.Option(min=0.001, help="From one gamma to the next.")] = 0.1,
) -> None:
    """How does gamma move the maps onto the annotated objects? From the stored basis: no model is needed."""
    if high < low:
        raise typer.BadParameter(f"--high {high:g} is below --low {low:g}")
    from finer_ray.store.reading import open_export
    from finer_ray.studies.sweep import sweep_study

    gammas = [round(low + step * place, 6) for place in range(int((high - low) / step + 1.5))]
    _say(sweep_study(open_export(url), gammas, to))


@studies.command()
def parts(
    url: ExportUrl,
    to: To = Path("study"),
) -> None:
    """How much of each map lies on each annotated part? From stored maps and part masks: no model is needed."""
    from finer_ray.store.reading import open_export
    from finer_ray.studies.part_energy import part_study

    _say(part_study(open_export(url), to))


@studies.command()
def aggregation(
    config: Annotated[Path, typer.Argument(help="The job's YAML file; its maps and metrics are set by the study.")],
    to: To = Path("study"),
    set_: Overrides = None,
) -> None:
    """Does it matter how the references become one map? (Tab. 7) Running it again does only what is missing."""
    from finer_ray.config.loading import load_config

    job = load_config(config, set_ or [])
    from finer_ray.pipeline.running import running
    from finer_ray.report.paper_table import paper_table
    from finer_ray.store.reading import open_export
    from finer_ray.studies.aggregations import EXPORT, aggregation_study

    with running(str(to / EXPORT)):
        places = aggregation_study(job, to)
    _show(paper_table(open_export(str(to / EXPORT))))
    _say(places)


@studies.command()
def faithfulness(
    class_job: Annotated[Path, typer.Argument(help="The classifier's YAML file; the study sets what it asks.")],
    text_job: Annotated[Path, typer.Argument(help="An open_clip job on the same shards; the study sets its texts.")],
    attributes: Annotated[Path, typer.Option(help="JSON: {class: {text: strength 0 to 1}} or {class: [texts]}.")],
    word: Annotated[str, typer.Option(help="The general word that attributes are compared with, such as bird.")],
    to: To = Path("study"),
) -> None:
    """Does the map of a class agree with the maps of its attributes? (A.2) Running it again does what is missing."""
    from finer_ray.config.loading import load_config

    jobs = load_config(class_job), load_config(text_job)
    from finer_ray.pipeline.running import running

    with running(str(to)):
        from finer_ray.studies.faithfulness import faithfulness_study

        places = faithfulness_study(*jobs, attributes, word, to)
    _say(places)


@studies.command("failure-cases")
def failure_cases(
    url: ExportUrl,
    to: To = Path("study"),
    name: Annotated[str | None, typer.Option("--map", help="The finer map; the first with a baseline.")] = None,
    by: Annotated[str | None, typer.Option(help="The metric that judges; localisation where there is any.")] = None,
    shown: Annotated[int, typer.Option(min=0, max=100, help="How many are drawn.")] = 12,
) -> None:
    """Where is the finer map worse than its baseline, or the prediction wrong? (C.1) Ranked, the first ones drawn."""
    from finer_ray.store.reading import open_export
    from finer_ray.studies.failure_cases import failure_cases_study

    _say(failure_cases_study(open_export(url), to, name, by, shown))


def _choices(kind: str) -> str:
    """What data sets that offer a choice offer, for the help; the default first."""
    offered = {name: getattr(dataset, kind) for name, dataset in DATASETS.items()}
    return "; ".join(f"{name}: {', '.join(choices)}" for name, choices in offered.items() if len(choices) > 1)


@app.command(rich_help_panel=DATA)
def pack(
    format: Annotated[str, typer.Option(help=f"Its layout: {', '.join(DATASETS)}.")],
    source: Annotated[str, typer.Option(help="The data set's folder, as published.", callback=_checked)],
    to: Annotated[str, typer.Option(help="The folder or URL that gets the shards.", callback=_checked)],
    form: Annotated[str, typer.Option("--as", help=f"{' or '.join(WRITERS)}.")] = "webdataset",
    split: Annotated[str, typer.Option(help="One split, or all, each in shards of its own.")] = "all",
    label: Annotated[str | None, typer.Option(help=f"Level of the classes, of {_choices('labels')}.")] = None,
    task: Annotated[str | None, typer.Option(help=f"Which list of images, of {_choices('tasks')}.")] = None,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="Images in a shard.")] = 1000,
) -> None:
    """Pack a published data set into shards, annotations kept.

    Running it again does only what is missing.
    """
    from finer_ray.datasets.pack import Packing
    from finer_ray.datasets.pack import pack as run
    from finer_ray.pipeline.stopping import stoppable

    with stoppable():
        packed = run(Packing(format, source, to, form, split, label, task, rows_per_shard))
    for line in packed.lines():
        typer.echo(line)


@app.command(rich_help_panel=EXPLAIN)
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo writes.")] = Path("demo_export"),
) -> None:
    """Explain 40 real photos and 88 drawn birds: begin here."""
    from finer_ray.demo.run_demo import run_demo
    from finer_ray.library_log import libraries_apart

    with libraries_apart(str(folder)):
        run_demo(folder)


@app.command(rich_help_panel=LOOK)
def report(
    url: ExportUrl,
    to: Annotated[
        Path | None, typer.Option(help="The folder, or file, to write to; OUT/report, or ./report (.html).")
    ] = None,
    images: Annotated[int, typer.Option(min=0, help="Images drawn at random to get a page.")] = 300,
    classes: Annotated[int, typer.Option(min=0, help="Classes that get a page, with 15 images each.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    pairs: Annotated[int, typer.Option(min=0, help="Pairs of classes that get a page.")] = 12,
    title: Annotated[str | None, typer.Option(help="Of the report; the folder of the shards names it.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Pages only for images like this: 'label <> predicted'.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="Pages only for the images in this text file, a key a line.")
    ] = None,
    single_file: Annotated[bool, typer.Option("--single-file", help="One HTML file in place of a folder.")] = False,
) -> None:
    """Write a report for the browser, with live maps.

    A folder that opens from disk: numbers, charts, classes, pairs, and images
    whose maps follow the controls. With --single-file one file that holds them
    all, for e-mail.

    --where asks columns of the table images and metrics of the main map;
    label_name, predicted_name and target_name are the classes' names. The first
    --images by row are shown instead of a draw, and no pairs.
    """
    from finer_ray.report.site import write_report, write_single_file
    from finer_ray.report.site.asked import asked_for
    from finer_ray.report.site.workers import processes
    from finer_ray.store.reading import open_export

    made, name = open_export(url), "report.html" if single_file else "report"
    asked = asked_for(made, where, keys)
    if asked is not None:
        ERRORS.print(f"{len(asked.rows)} of {made.images.num_rows} images: {asked.words}")
    write = write_single_file if single_file else write_report
    place = to or made.local_path(name) or Path(name)
    made_at = write(
        made, place, images=images, classes=classes, seed=seed, pairs=pairs, title=title, asked=asked, jobs=processes()
    )
    typer.echo(made_at)


@app.command(rich_help_panel=LOOK)
def compare(
    a: Annotated[str, typer.Argument(help="The export of before: a folder or URL.", callback=_checked)],
    b: Annotated[str, typer.Argument(help="The export of after.", callback=_checked)],
    to: To = Path("compare"),
    drift: Annotated[
        bool, typer.Option("--drift", help="Compare distributions alone: keys agree, but images are others.")
    ] = False,
    fail_over: Annotated[
        float | None, typer.Option(min=0, help="Exit 8 where a figure of change is larger, such as 0.1.")
    ] = None,
) -> None:
    """Say what changed between two exports.

    Predictions, maps and metrics of the images in both, joined by shard and key;
    distributions of all. Writes compare.parquet, drift.parquet and a page with
    the largest changes.

    Held against --fail-over are the share of flipped predictions, 1 less the mean
    correlation of each map, and the mean differences of metrics that are sure;
    where less than half of the images are in both, also the PSI of each
    distribution, unless chance explains it.
    """
    from finer_ray.compare.run import compare as run
    from finer_ray.compare.shown import headline, shown
    from finer_ray.store.reading import open_export

    summary = run(open_export(a), open_export(b), to, join=not drift)
    typer.echo(headline(summary))
    for note in summary.notes:
        ERRORS.print(f"note: {note}")
    for found in shown(summary):
        _show(found)
    typer.echo(to / "index.html")
    if fail_over is not None and (over := summary.over(fail_over)):
        ERRORS.print(f"over {fail_over}: {'; '.join(f'{what} {value:.3f}' for what, value in over.items())}")
        raise typer.Exit(CHANGED)


@app.command(rich_help_panel=LOOK)
def pairs(
    url: ExportUrl,
    name: Annotated[str | None, typer.Option("--class", help="Only images of this class, by name or index.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="How many pairs are shown; 0: all.")] = 20,
) -> None:
    """Say what tells each class from its references, over all images.

    Writes OUT/pairs.parquet, unless the job has. The pairs that are taken for
    each other most often come first.
    """
    from finer_ray.pairs.shown import class_index, shown_pairs
    from finer_ray.pairs.table import NAME, news
    from finer_ray.pipeline.progress import late_bar
    from finer_ray.store import derived
    from finer_ray.store.reading import open_export

    made = open_export(url)
    index = None if name is None else class_index(made.manifest.classes, name)
    with late_bar(made.manifest.counts["images"], "pairs") as watch:
        found = news(made, watch=watch)
    if found is not None:
        derived.write(made, NAME, found)
    table, notes = shown_pairs(derived.read(made, NAME) if found is None else found, index, rows)
    _show(table)
    for note in notes:
        typer.echo(note)


@app.command(rich_help_panel=LOOK)
def traits(
    url: ExportUrl,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Only this pair, by name or index: shown, not written."),
    ] = None,
    gamma: Annotated[float, typer.Option(help="Strength of the comparison; 1: nothing that the two share.")] = 1.0,
    clusters: Annotated[int, typer.Option(min=1, max=100, help="Traits of a pair, at most.")] = 6,
    images: Annotated[int, typer.Option(min=1, help="Images of a class that are looked at for a pair, at most.")] = 500,
    resamples: Annotated[int, typer.Option(min=0, help="Draws of the images that give the stability.")] = 20,
    attributes: Annotated[
        str | None, typer.Option(metavar="COLUMN", help='A column of yours in images: texts, as JSON or with "; ".')
    ] = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="Name traits by the model's concepts; reads photos and runs the model.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="PNG", help="With --pair: draw a photo of each, and what tells them apart.")
    ] = None,
) -> None:
    """Say what images of a class show that tells it from others.

    Writes OUT/traits.parquet: of all pairs both ways, of what they share, and of
    each class against its references.
    """
    from rich.progress import track

    from finer_ray.store import derived
    from finer_ray.store.reading import open_export
    from finer_ray.traits import Settings, all_traits, trait_table
    from finer_ray.traits.run import both_ways
    from finer_ray.traits.shown import shown_traits

    if picture is not None and pair is None:
        raise typer.BadParameter("a picture is of one pair: name it by --pair A B", param_hint="--picture")
    made = open_export(url)
    settings = Settings(gamma, clusters, images, resamples)
    watch = partial(track, console=ERRORS)
    # What would fail at the end fails before all the work.
    if pair is None:
        derived.check_vacant(made, "traits")
    if texts:
        from finer_ray.traits.texts import check_concepts

        check_concepts(made)
    if pair is None:
        found = all_traits(made, settings, attributes, watch)
    else:
        found = both_ways(made, *pair, settings, attributes)
    if texts:
        from finer_ray.traits.texts import with_texts

        found, lost = with_texts(made, found, watch)
        if lost:
            ERRORS.print(f"note: {lost} photos could not be read again, and helped to name no trait")
    if pair is None:
        derived.write(made, "traits", trait_table(found, made.manifest.classes))
        typer.echo(f"{len(found)} traits: {made.folder.url}/{derived.file_of('traits')}")
        return
    for shown in shown_traits(found, made.manifest.classes):
        _show(shown)
    if not found:
        typer.echo("no traits: no cell of these images has evidence for one of the two over the other")
    if picture is not None:
        from finer_ray.report.pair_figure import pair_figure

        pair_figure(made, found, picture, gamma)
        typer.echo(str(picture))


@app.command(rich_help_panel=LOOK)
def query(
    url: ExportUrl,
    sql: Annotated[str | None, typer.Argument(help="DuckDB's SQL; what there is to ask when left out.")] = None,
    format: Annotated[Format, typer.Option(help="On the standard output.")] = "table",
    rows: Annotated[int, typer.Option(min=0, help="How many a table shows; 0: all.")] = 40,
) -> None:
    """Ask the tables of an export in SQL (DuckDB).

    Tables: images, metrics, classes, failures, similarity, pairs, traits, names,
    embeddings. Nothing is written, no other file is read.
    """
    from finer_ray.report.query_result import EXAMPLES, answer_table, ask, overview, write_answer
    from finer_ray.store.query import connect, open_committed

    made = open_committed(url)
    if made.manifest.status == "running":
        ERRORS.print("note: the export has not finished; these are the images that are committed so far")
    with connect(made) as connection:
        if sql is None:
            Console().print(overview(connection))
            for example in EXAMPLES:
                typer.echo(f'\nfiner-ray query {url} "{example}"')
            return
        reader = ask(connection, sql)
        if format != "table":
            write_answer(reader, format)
            return
        answer, more = answer_table(reader, rows)
        _show(answer)
        if more:
            typer.echo(f"the first {rows} rows; --rows 0 shows all, --format csv, json or parquet writes all")


@app.command(rich_help_panel=LOOK)
def similar(
    url: ExportUrl,
    row: Annotated[int | None, typer.Option(min=0, help="Of the image: its row.")] = None,
    key: Annotated[str | None, typer.Option(help="Of the image: its key, instead of its row.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many are found.")] = 10,
    by: By = "embedding",
    format: Annotated[Format, typer.Option(help="On the standard output.")] = "table",
    index: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Make an index there, or use it: for millions of images.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the image and those found: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Find the images that are most like one of them.

    By the cosine of their embeddings; --by map compares what the model sees where
    the finer map is high.
    """
    if (row is None) == (key is None):
        raise typer.BadParameter("give one of --row and --key")
    from finer_ray.report.figure_file import check_figure
    from finer_ray.report.image_figure import find_row
    from finer_ray.report.query_result import answer_table, write_answer
    from finer_ray.similar import similar_images
    from finer_ray.store.reading import open_export

    if picture is not None:
        check_figure(picture)
    made = open_export(url)
    row = find_row(made, key or "") if row is None else row
    found = similar_images(made, row, count, by, index)
    if format == "table":
        answer, _ = answer_table(found.to_reader(), 0)
        _show(answer)
    else:
        write_answer(found.to_reader(), format)
    if picture is not None:
        from finer_ray.report.similar_sheet import similar_sheet

        similar_sheet(made, row, found, picture)
        ERRORS.print(str(picture))


@app.command(rich_help_panel=LOOK)
def embeddings(
    url: ExportUrl,
    to: Annotated[str, typer.Option(help="A new or empty folder, or its URL.", callback=_checked)],
    by: By = "embedding",
) -> None:
    """Write the embeddings as Parquet files, for other tools.

    The columns are uuid, emb and row. uuid is the image's key; where two images
    share a key, its shard and place there, SHARD#INDEX.
    """
    from finer_ray.store.reading import open_export
    from finer_ray.store.vector_files import write_vector_files

    made = open_export(url)
    names, by_key = write_vector_files(made, by, to)
    if not by_key:
        ERRORS.print("note: several images have the same key, so uuid is SHARD#INDEX; row joins the export's tables")
    typer.echo(f"{made.manifest.counts['images']} images, files: {len(names)}, in {to}")


@app.command(rich_help_panel=LOOK)
def show(
    url: ExportUrl,
    key: Annotated[str | None, typer.Argument(help="The image's key.")] = None,
    row: Annotated[int | None, typer.Option(min=0, help="Its row, instead of its key.")] = None,
    to: Annotated[Path | None, typer.Option(help="The PNG; row-ROW.png when left out.")] = None,
    maps: Annotated[
        list[str] | None, typer.Option("--map", help="A stored map; all when left out; repeatable.")
    ] = None,
    gammas: Annotated[
        list[float] | None, typer.Option("--gamma", help="Draw the contrast at this gamma too; repeatable.")
    ] = None,
) -> None:
    """Draw one image as a PNG: photo, maps, the contrast at any gamma."""
    from finer_ray.report.image_figure import draw_image, find_row
    from finer_ray.store.reading import open_export

    made = open_export(url)
    if key is not None and row is None:
        row = find_row(made, key)
    elif key is not None or row is None:
        raise typer.BadParameter("give either the image's KEY or its --row")
    path = to or Path(f"row-{row}.png")
    if note := draw_image(made, row, path, maps or (), gammas or ()):
        ERRORS.print(note)
    typer.echo(path)


@app.command(rich_help_panel=LOOK)
def figure(
    url: ExportUrl,
    to: Annotated[Path, typer.Option(help="The .svg, .pdf or .png file.")],
    row: Annotated[int | None, typer.Option(min=0, help="Of the image: its row.")] = None,
    key: Annotated[str | None, typer.Option(help="Of the image: its key, instead of its row.")] = None,
    pair: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Two classes instead, by name or index.")
    ] = None,
) -> None:
    """Draw an image, or what tells two classes apart, for a paper.

    As SVG (its text stays text), PDF (its fonts are inside) or PNG; the same
    bytes each time.
    """
    from finer_ray.report.figure_file import check_figure

    if sum(given is not None for given in (row, key, pair)) != 1:
        raise typer.BadParameter("give one of --row, --key and --pair")
    check_figure(to)
    from finer_ray.report.image_figure import draw_image, find_row
    from finer_ray.store.reading import open_export

    made = open_export(url)
    if pair is not None:
        from finer_ray.report.pair_figure import pair_figure
        from finer_ray.traits.run import both_ways

        pair_figure(made, both_ways(made, *pair), to)
    elif note := draw_image(made, find_row(made, key or "") if row is None else row, to):
        ERRORS.print(note)
    typer.echo(to)


@app.command(rich_help_panel=LOOK)
def to(
    tool: Annotated[str, typer.Argument(help=f"Which: {', '.join(TOOLS)}.")],
    url: ExportUrl,
    folder: Annotated[Path | None, typer.Option("--to", help="The folder to write; new. ./TOOL when left out.")] = None,
    name: Annotated[str | None, typer.Option("--map", help="The map; the one that measures best.")] = None,
    threshold: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of a map's maximum from which on its region begins.")
    ] = 0.2,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Only images like this, as for the report.")] = None,
    keys: Annotated[Path | None, typer.Option(help="Only the images in this text file, a key a line.")] = None,
) -> None:
    """Write maps for FiftyOne, COCO or Label Studio, or as PNGs.

    Maps are 8-bit PNGs in the pixels of their photos as displayed; the photos lie
    beside them.
    """
    if tool not in TOOLS:
        raise typer.BadParameter(f"{tool!r} is none of {', '.join(TOOLS)}", param_hint="TOOL")
    from finer_ray.report.site.asked import asked_for
    from finer_ray.store.reading import open_export
    from finer_ray.to.run import write_for

    made, place = open_export(url), folder or Path(tool)
    asked = asked_for(made, where, keys)
    written = write_for(made, TOOLS[tool], place, name, None if asked is None else asked.rows.tolist(), threshold)
    for reason, count in written.lost.most_common():
        ERRORS.print(f"note: {count} photos are missing, their maps are there: {reason}")
    typer.echo(f"{written.images} images: {TOOLS[tool].next.format(folder=place)}")


@app.command(rich_help_panel=EXPLAIN)
def init(
    data: Annotated[str, typer.Argument(help="Shards: a file, folder, glob, range or URL.", callback=_checked)],
    job: Annotated[Path, typer.Option("--to", help="The YAML file to write.")] = Path("job.yaml"),
    output: Annotated[
        str, typer.Option(help="Where the export will go: a folder or URL.", callback=_checked)
    ] = "export",
) -> None:
    """Write a commented job file for the data found at a place."""
    from finer_ray.starter import inspect_data, job_text, next_steps

    text = job_text(inspect_data(data), output)
    try:
        with job.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise typer.BadParameter(f"{job} is there already; name another file with --to") from None
    typer.echo(f"{job}: look through it, then")
    for line in next_steps(str(job), output):
        typer.echo(f"    {line}")


@app.command(rich_help_panel=MORE)
def schema(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")] = Path("schemas"),
) -> None:
    """Write the schemas of config, tables and Zarr layout as JSON."""
    from finer_ray.schemas import schema_files

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schema_files().items():
        (folder / name).write_text(text, encoding="utf-8")
        typer.echo(folder / name)


def _say(places: Iterable[Path | str]) -> None:
    for place in places:
        typer.echo(place)


def _show(table: Table) -> None:
    """Print a table whole: a line too long for the screen is broken by it, but no figure is cut off."""
    wanted = Console(width=10_000).measure(table).maximum
    Console(width=max(wanted, Console().width), soft_wrap=True).print(table)
