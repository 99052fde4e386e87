"""The command line: `finer-ray export | probe | verify | table | study | pack | demo | birds | report | schema`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from finer_ray.config import load_config, load_section
from finer_ray.errors import FinerRayError
from finer_ray.version import __version__

app = typer.Typer(
    help="Explain a whole data set: Finer-CAM saliency for every image.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
ERRORS = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a key of the config; repeatable.")
]
To = Annotated[Path, typer.Option(help="The folder to write to.")]


studies = typer.Typer(
    help="Studies of the paper on your own data: a Parquet table and a figure each.", no_args_is_help=True
)
app.add_typer(studies, name="study")


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def export(
    config: Annotated[Path, typer.Argument(help="The job's YAML file.")],
    set_: Overrides = None,
) -> None:
    """Explain every image of the config's shards. Running it again does only what is missing."""
    from finer_ray.pipeline.export import export as run

    job = load_config(config, set_ or [])
    summary = run(job)
    typer.echo(
        f"{summary.images} images explained, {summary.failures} failures, {summary.new} of them in this run, "
        f"{summary.seconds:.0f} s: {job.output.url}"
    )


@app.command()
def probe(
    config: Annotated[Path, typer.Argument(help="The probing job's YAML file.")],
    set_: Overrides = None,
) -> None:
    """Train a linear probe for every backbone and data set. Running it again does only what is missing."""
    from finer_ray.pipeline.probing import probe as run
    from finer_ray.probe.config import ProbesConfig
    from finer_ray.probe.table import TITLE, accuracy_table, remarks

    job = load_section(ProbesConfig, config, set_ or [])
    records = run(job)
    typer.echo(TITLE)
    Console().print(accuracy_table(records))
    for line in remarks(records):
        typer.echo(line)
    typer.echo(job.output.url)


@app.command()
def verify(
    url: Annotated[str, typer.Argument(help="The export's folder or URL.")],
    keys: Annotated[bool, typer.Option(help="List the input shards again and compare keys.")] = True,
) -> None:
    """Prove that every input image is one line of images or failures, and that every row is written."""
    from finer_ray.store.export import open_export
    from finer_ray.store.verify import verify_export

    findings = verify_export(url, keys)
    for finding in findings:
        ERRORS.print(finding)
    if findings:
        raise typer.Exit(1)
    counts = open_export(url).manifest.counts
    typer.echo(f"whole: {counts['images']} images, {counts['failures']} failures, every row written: {url}")


@app.command()
def table(
    url: Annotated[str, typer.Argument(help="The export's folder or URL.")],
) -> None:
    """Show the paper's table: maps by metrics, and each finer map against its baseline."""
    from finer_ray.report.table import paper_table
    from finer_ray.store.export import open_export

    _show(paper_table(open_export(url)))


@studies.command()
def similarity(
    classifier: Annotated[Path, typer.Argument(help="A probe's or a model's weights, or a job's YAML file.")],
    to: To = Path("study"),
    tensor: Annotated[str | None, typer.Option(help="The classifier's weights among a model's tensors.")] = None,
) -> None:
    """How similar are a classifier's classes to each other? (sorted weight-similarity curve)"""
    from finer_ray.studies.similarity import similarity_study

    _say(similarity_study(classifier, to, tensor))


@studies.command()
def gamma(
    url: Annotated[str, typer.Argument(help="The export's folder or URL.")],
    to: To = Path("study"),
    low: Annotated[float, typer.Option(help="The smallest gamma.")] = -1.0,
    high: Annotated[float, typer.Option(help="The largest gamma.")] = 3.0,
    step: Annotated[float, typer.Option(min=0.001, help="From one gamma to the next.")] = 0.1,
) -> None:
    """How does gamma move the maps onto the annotated objects? From the stored basis: no model is needed."""
    from finer_ray.store.export import open_export
    from finer_ray.studies.sweep import sweep_study

    gammas = [round(low + step * place, 6) for place in range(int((high - low) / step + 1.5))]
    _say(sweep_study(open_export(url), gammas, to))


@studies.command()
def aggregation(
    config: Annotated[Path, typer.Argument(help="The job's YAML file; its maps and metrics are set by the study.")],
    to: To = Path("study"),
    set_: Overrides = None,
) -> None:
    """Does it matter how the references become one map? (Tab. 7) Running it again does only what is missing."""
    from finer_ray.report.table import paper_table
    from finer_ray.store.export import open_export
    from finer_ray.studies.aggregation import EXPORT, aggregation_study

    places = aggregation_study(load_config(config, set_ or []), to)
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
    from finer_ray.studies.faithfulness import faithfulness_study

    _say(faithfulness_study(load_config(class_job), load_config(text_job), attributes, word, to))


@studies.command("failure-cases")
def failure_cases(
    url: Annotated[str, typer.Argument(help="The export's folder or URL.")],
    to: To = Path("study"),
    name: Annotated[str | None, typer.Option("--map", help="The finer map; the first with a baseline.")] = None,
    by: Annotated[str | None, typer.Option(help="The metric that judges; localisation where there is any.")] = None,
    shown: Annotated[int, typer.Option(min=0, max=100, help="How many are drawn.")] = 12,
) -> None:
    """Where is the finer map worse than its baseline, or the prediction wrong? (C.1) Ranked, the first ones drawn."""
    from finer_ray.store.export import open_export
    from finer_ray.studies.failure_cases import failure_cases_study

    _say(failure_cases_study(open_export(url), to, name, by, shown))


@app.command()
def pack(
    format: Annotated[str, typer.Option(help="cub, cars, aircraft, fishvista, birds525, imagefolder or parquet.")],
    source: Annotated[str, typer.Option(help="The data set's folder, as published.")],
    to: Annotated[str, typer.Option(help="The folder or URL that gets the shards.")],
    form: Annotated[str, typer.Option("--as", help="webdataset or parquet.")] = "webdataset",
    split: Annotated[str, typer.Option(help="One split, or all, each in shards of its own.")] = "all",
    label: Annotated[
        str | None, typer.Option(help="Of aircraft: variant, family, manufacturer; fishvista: species, family.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Of fishvista: classification, identification, segmentation.")
    ] = None,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="Images in a shard.")] = 1000,
) -> None:
    """Pack a published data set into shards, annotations kept. Running it again does only what is missing."""
    from finer_ray.pipeline.packing import Packing
    from finer_ray.pipeline.packing import pack as run

    for line in run(Packing(format, source, to, form, split, label, task, rows_per_shard)).lines():
        typer.echo(line)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo writes.")] = Path("demo_export"),
) -> None:
    """Explain 40 real photos with EfficientNet-Lite0, and draw a contact sheet."""
    from finer_ray.demo.tour import tour

    tour(folder)


@app.command()
def birds(
    folder: Annotated[Path, typer.Argument(help="Where the shards go.")],
    split: Annotated[str, typer.Option(help="train or test: other seeds.")] = "train",
    per_class: Annotated[int, typer.Option(min=1, help="Pictures of each of the 24 species.")] = 20,
    size: Annotated[int, typer.Option(min=16, max=4096, help="Side in pixels.")] = 224,
    mark: Annotated[bool, typer.Option("--mark", help="Put the class's mark into a corner of each.")] = False,
) -> None:
    """Draw fine-grained birds whose differing parts are known, as WebDataset shards with all masks."""
    from finer_ray.demo.birds.shards import write_birds

    for path in write_birds(folder, split, per_class, size, mark):
        typer.echo(path)


@app.command()
def report(
    url: Annotated[str, typer.Argument(help="The export's folder or URL.")],
    to: Annotated[Path | None, typer.Option(help="The folder to write to; OUT/report, or ./report.")] = None,
    images: Annotated[int, typer.Option(min=0, help="Images drawn at random to get a page.")] = 300,
    classes: Annotated[int, typer.Option(min=0, help="Classes that get a page, with 9 images each.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
) -> None:
    """Write a report that opens in a browser, from disk: numbers, charts, classes, and maps with live controls."""
    from finer_ray.report.site import write_report
    from finer_ray.store.export import open_export

    made = open_export(url)
    typer.echo(write_report(made, to or made.local_path("report") or Path("report"), images, classes, seed))


@app.command()
def schema(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")] = Path("schemas"),
) -> None:
    """Write the schemas of the config, the tables and the Zarr layout as JSON files."""
    from finer_ray.schemas import schema_files

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schema_files().items():
        (folder / name).write_text(text, encoding="utf-8")
        typer.echo(folder / name)


def _say(places: Iterable[Path]) -> None:
    for place in places:
        typer.echo(place)


def _show(table: Table) -> None:
    """Print a table whole: a line too long for the screen is broken by it, but no figure is cut off."""
    wanted = Console(width=10_000).measure(table).maximum
    Console(width=max(wanted, Console().width), soft_wrap=True).print(table)


def main() -> None:
    """Entry of the console script: known errors become one plain message and exit code 2."""
    try:
        app()
    except FinerRayError as error:
        ERRORS.print(f"error: {error}")
        raise SystemExit(2) from None
