"""The command line: `finer-ray export | probe | verify | table | study | demo | schema`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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

    Console().print(paper_table(open_export(url)))


@studies.command()
def similarity(
    classifier: Annotated[Path, typer.Argument(help="A linear probe's safetensors file, or a job's YAML file.")],
    to: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("study"),
) -> None:
    """How similar are a classifier's classes to each other? (sorted weight-similarity curve)"""
    from finer_ray.studies.similarity import similarity_study

    for place in similarity_study(classifier, to):
        typer.echo(place)


@studies.command()
def gamma(
    url: Annotated[str, typer.Argument(help="The export's folder or URL.")],
    to: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("study"),
    low: Annotated[float, typer.Option(help="The smallest gamma.")] = -1.0,
    high: Annotated[float, typer.Option(help="The largest gamma.")] = 3.0,
    step: Annotated[float, typer.Option(min=0.001, help="From one gamma to the next.")] = 0.1,
) -> None:
    """How does gamma move the maps onto the annotated objects? From the stored basis: no model is needed."""
    from finer_ray.store.export import open_export
    from finer_ray.studies.sweep import sweep_study

    gammas = [round(low + step * place, 6) for place in range(int((high - low) / step + 1.5))]
    for place in sweep_study(open_export(url), gammas, to):
        typer.echo(place)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo writes.")] = Path("demo_export"),
) -> None:
    """Explain 40 real photos with EfficientNet-Lite0, and draw a contact sheet."""
    from finer_ray.demo.tour import tour

    tour(folder)


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


def main() -> None:
    """Entry of the console script: known errors become one plain message and exit code 2."""
    try:
        app()
    except FinerRayError as error:
        ERRORS.print(f"error: {error}")
        raise SystemExit(2) from None
