"""The demo: one small export of real photos, and a tour of what it holds."""

from importlib import resources
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

from finer_ray.config.loading import load_config
from finer_ray.config.schema import Config
from finer_ray.pipeline.cluster import connected
from finer_ray.pipeline.export import export
from finer_ray.report.contact_sheet import contact_sheet
from finer_ray.report.pair_figure import pair_figure
from finer_ray.report.paper_table import paper_table
from finer_ray.report.site import write_report
from finer_ray.store.reading import Export, open_export
from finer_ray.store.verify import verify_export
from finer_ray.traits.run import both_ways
from finer_ray.traits.shown import shown_traits

IMAGES_ON_SHEET = 14
# Siblings that differ in their bills.
PAIR = ("red-billed white-barred reed finch", "yellow-billed white-barred reed finch")
QUERY = """\
SELECT i.key, round(b.localisation, 3) AS grad_cam, round(f.localisation, 3) AS finer_cam
FROM '{folder}/images/*.parquet' AS i
JOIN '{folder}/metrics/*.parquet' AS b ON b.row = i.row AND b.map = 'gradcam'
JOIN '{folder}/metrics/*.parquet' AS f ON f.row = i.row AND f.map = 'finer_gradcam'
ORDER BY f.localisation - b.localisation DESC, i.key
LIMIT 5"""


def demo_config(folder: Path) -> Config:
    """The demo's job, writing to a folder."""
    here = resources.files("finer_ray.demo")
    overrides = [f"input.shards={here / 'photos' / '*.tar'}", f"output.url={folder}"]
    return load_config(str(here / "demo.yaml"), overrides)


def birds_config(folder: Path) -> Config:
    """The job of the package's birds, with more of one genus; localisation is of the parts in which siblings differ."""
    here = resources.files("finer_ray.demo")
    overrides = [
        f"input.shards=[{here / 'birds' / '*.tar'}, {here / 'finches' / '*.tar'}]",
        f"input.part_names={here / 'birds' / 'parts.json'}",
        f"model.classes={here / 'birds' / 'classes.json'}",
        f"output.url={folder / 'birds_export'}",
    ]
    return load_config(str(here / "birds.yaml"), overrides)


def run_demo(folder: Path) -> None:
    """Run the demo's exports, prove them whole, and show their parts. Raises what `export` raises."""
    console = Console(width=120)
    with connected():
        sheet = _photos(console, folder)
        birds = _birds(console, folder)
    console.print("\n[bold]6. The reports[/]: open them in a browser; each image has live controls")
    for made in (folder, folder / "birds_export"):
        console.print(f"   {write_report(open_export(str(made)), made / 'report')}")
    console.print(f"\n[bold]7. The answer[/]: what tells a {PAIR[0]} from a {PAIR[1]}?")
    answer = _pair(console, folder)
    console.print("\n[bold]8. Where everything lies[/]")
    for name, what in _places(folder, answer, sheet, birds):
        console.print(f"   {name:<36} {what}")


def _photos(console: Console, folder: Path) -> Path:
    console.print("[bold]1. Export[/]: EfficientNet-Lite0 explains 40 photos on Ray")
    summary = export(demo_config(folder))
    console.print(f"   {summary.images} images, {summary.failures} failures, {summary.seconds:.0f} s")
    findings = verify_export(str(folder))
    console.print(f"   verify: {findings or 'whole'}")
    made = open_export(str(folder))
    console.print("\n[bold]2. Classes[/]: share of a map's energy on the object, and accuracy")
    console.print(_class_table(made))
    console.print("[bold]3. The paper's table[/]: deletion, relative and confidence drop, localisation, pointing game")
    console.print(paper_table(made))
    console.print("\n[bold]4. A query[/] (DuckDB): where does the comparison help most?")
    console.print(_answer(folder))
    sheet = folder / "contact_sheet.png"
    contact_sheet(made, made.images["row"].to_pylist()[:IMAGES_ON_SHEET], sheet)
    return sheet


def _birds(console: Console, folder: Path) -> Path:
    console.print("\n[bold]5. Drawn birds whose differing parts are known[/], named by a small open_clip model")
    config = birds_config(folder)
    summary = export(config)
    made = open_export(config.output.url)
    images = made.images
    right = sum(a == b for a, b in zip(images["label"].to_pylist(), images["predicted"].to_pylist(), strict=True))
    console.print(f"   {summary.images} images, {summary.failures} failures, {right} species right")
    console.print("   verify:", verify_export(config.output.url) or "whole")
    console.print("   localisation: share of a map's energy on the parts that tell the species from its siblings")
    console.print(paper_table(made))
    sheet = folder / "birds_sheet.png"
    contact_sheet(made, images["row"].to_pylist()[:IMAGES_ON_SHEET], sheet)
    return sheet


def _pair(console: Console, folder: Path) -> Path:
    """The traits of two siblings, over all images, as a table and a picture."""
    made = open_export(str(folder / "birds_export"))
    found = [trait for trait in both_ways(made, *PAIR) if trait.kind == "pair"]
    for table in shown_traits(found, made.manifest.classes):
        console.print(table)
    picture = folder / "what_tells.png"
    pair_figure(made, found, picture)
    console.print(f"   {picture}")
    return picture


def _class_table(made: Export) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("class", "photos", "accuracy", "Grad-CAM", "Finer-CAM"):
        table.add_column(column, justify="left" if column == "class" else "right")
    pairs: dict[str, dict[str, dict[str, float]]] = {}
    for line in made.classes.to_pylist():
        pairs.setdefault(line["name"], {})[line["map"]] = line
    for name, maps in pairs.items():
        base, finer = maps["gradcam"], maps["finer_gradcam"]
        shares = [_share(line["localisation_mean"]) for line in (base, finer)]
        table.add_row(name, str(base["count"]), _share(base["accuracy"]), *shares)
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _answer(folder: Path) -> str:
    query = QUERY.format(folder=folder)
    with duckdb.connect() as connection:
        return f"{query}\n{connection.sql(query)}"


def _places(folder: Path, answer: Path, sheet: Path, birds: Path) -> list[tuple[str, str]]:
    return [
        (str(answer), "what tells one bird from another: look at this first"),
        (str(sheet), "photo, Grad-CAM, Finer-CAM"),
        (str(birds), "the same of the birds; their export: birds_export/"),
        (f"{folder}/report/index.html", "the report; the birds' lies in birds_export/report/"),
        (f"{folder}/saliency.zarr", "maps, contrast basis, references, embeddings"),
        (f"{folder}/images/*.parquet", "a line per image: class, references, logits"),
        (f"{folder}/metrics/*.parquet", "a line per image and map"),
        (f"{folder}/classes.parquet", "means and standard errors by class and map"),
        (f"{folder}/pairs.parquet", "a line per class and class that it is compared with"),
        (f"{folder}/failures/*.parquet", "a line per image that could not be used"),
        (f"{folder}/export.json", "what it was made of"),
    ]
