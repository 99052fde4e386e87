"""Every command of every page as it stands, where what it names exists: small data, tiny models, S3 here."""

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import fsspec
import pytest
import yaml
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.loading import load_config, parse_config
from finer_ray.pipeline.export import export
from tests.conftest import photo, sample, write_tar
from tests.datasets import trees
from tests.pages import blocks, command, commands, lines, pages
from tests.store.exports import write_small_export

# Lines that are not run here, by their beginnings, and why.
LEFT_OUT = {
    "make demo": "takes two minutes; tests/demo/test_demo.py runs the demo",
    "pip install": "needs a registry",
    "python -m birds": "takes minutes; tests/birds runs both commands for fewer",
    "python -m benchmarks.gpu": "tests/test_gpu_benchmark.py runs it in miniature",
    "PYTHONPATH=. FINER_RAY_PLUGINS=": "tests/test_extending.py runs the plugins",
    "FINER_RAY_PLUGINS=": "tests/test_extending_inputs.py runs the plugins",
    "source .venv/bin/activate": "belongs to a shell",
    "export RAY_AUTH_MODE": "belongs to a shell; tests/demo/test_demo.py sets the same variables",
    "ray get-auth-token": "of the cluster that tests/demo/test_demo.py starts",
    "ray start": "a cluster with a dashboard; tests/demo/test_demo.py starts one",
    "ray job submit": "needs that cluster; tests/demo/test_demo.py submits the job",
    "RAY_ADDRESS=HOST:6379": "needs that cluster",
    "sbatch deploy/slurm": "tests/deploy/test_slurm.py runs the script",
    "SIF=finer-ray.sif sbatch": "tests/deploy/test_slurm.py runs the script",
    "ray stop": "would stop whatever Ray runs on this machine",
}
# Stands for the pages' models, whose weights lie on a hub.
CNN = {"backbone": "timm:test_resnet", "weights": "random", "image_size": 64}
INLINE = {"executor": "inline"}
# What each page's commands leave behind.
MADE = {
    "README.md": ("job.yaml", "my_export/report/index.html", "pair.png"),
    "docs/compare.md": ("compare/index.html", "compare/compare.parquet", "compare/drift.parquet"),
    "docs/datasets.md": ("cub-shards/findings.txt", "fish/pack.json"),
    "docs/input.md": (),
    "docs/jobs.md": ("job.yaml",),
    "docs/operations.md": ("job_export/export.json",),
    "docs/probes.md": ("probes/accuracies.md", "probes/done/clip.safetensors", "clip_export/export.json"),
    "docs/reading.md": ("row-0.png", "similar.png", "vectors/embedding-00000-of-00001.parquet"),
    "docs/report.md": ("demo_export/report/index.html", "report.html", "row-0.svg", "pair.pdf"),
    "docs/saliency.md": tuple(
        f"study/{name}.png"
        for name in ("sweep", "failure_cases", "similarity", "aggregation", "faithfulness", "sanity")
    ),
    "docs/traits.md": ("demo_export/pairs.parquet", "demo_export/birds_export/traits.parquet", "pair.png"),
}


def left_out(line: str) -> bool:
    return line.startswith(tuple(LEFT_OUT))


def test_every_line_is_run_or_left_out_for_a_reason() -> None:
    found = [(page, line) for page in pages() for line in lines(page)]
    for page, line in found:
        assert left_out(line) or (command(line) and page in MADE), (page, line)
    for beginning in LEFT_OUT:
        assert any(line.startswith(beginning) for _, line in found), beginning
    assert (
        set(MADE)
        == set(NEEDED)
        == {page for page in pages() for line in lines(page) if command(line) and not left_out(line)}
    )


class Scratch:
    """The folder in which a page's commands run, and what lies there before; each method makes something.

    Attributes:
        words: a tiny open_clip model.
    """

    def __init__(self, clip: str) -> None:
        self.words = {"backbone": clip, "weights": "random"}

    def photos(self) -> None:
        """A folder of images; class folders are its labels, of which the README's classes know nothing."""
        for number in range(6):
            Path(f"photos/{number % 2}").mkdir(parents=True, exist_ok=True)
            Path(f"photos/{number % 2}/{number}.jpg").write_bytes(photo(number))

    def demo(self) -> None:
        """`demo_export`, small."""
        write_small_export(Path())

    def finches(self) -> None:
        """The demo's export of birds, of the two species that are compared, by a tiny model."""
        birds = resources.files("finer_ray.demo")
        pair = ["red-billed white-barred reed finch", "yellow-billed white-barred reed finch"]
        saliency = {"target": "label", "references": 2, "selection": pair}
        made = {"input": {"shards": str(birds / "finches" / "*.tar")}, "saliency": saliency, "compute": INLINE}
        model = {**self.words, "head": "text", "classes": str(birds / "birds" / "classes.json")}
        export(parse_config({**made, "model": model, "output": {"url": "demo_export/birds_export"}}))

    def bucket(self) -> None:
        """The thousand shards of docs/jobs.md; in all but the first three the same photo."""
        shards = [[m for i in range(5) for m in sample(f"{n}-{i}", i, i % 2, [9, 9, 60, 50])] for n in range(3)]
        tars = [write_tar(Path("tar"), members).read_bytes() for members in [*shards, sample("same", 1, 0)]]
        tars += tars[-1:] * 996
        fsspec.filesystem("s3").pipe({f"bucket/train-{n:04d}.tar": content for n, content in enumerate(tars)})

    def published(self) -> None:
        """Data sets as they are published."""
        trees.cub(Path("data/CUB"))
        trees.aircraft(Path("data/aircraft"))
        trees.fishvista(Path("data/fish-vista"))

    def packed(self) -> None:
        """What docs/datasets.md packs first."""
        self.published()
        run(commands("docs/datasets.md")[0].arguments)

    def probes(self) -> None:
        """probes.yaml with tiny backbones, and the exports that it expects."""
        [text] = blocks("docs/probes.md", "yaml")
        tree = yaml.safe_load(text)
        tree["backbones"] = [{"name": "vit_base_patch16_224", **CNN}, {"name": "clip", **self.words}]
        Path("probes.yaml").write_text(yaml.safe_dump(tree | {"compute": INLINE}))
        url = tree["datasets"][1]["train"]["export"]
        for named in tree["backbones"]:
            name, model = named["name"], {key: value for key, value in named.items() if key != "name"}
            made = {
                "model": {**model, "head": "none", "classes": ["even", "odd"]},
                "output": {"url": url.format(backbone=name)},
            }
            export(parse_config({"input": {"shards": "s3://bucket/train-{0000..0002}.tar"}, "compute": INLINE, **made}))

    def jobs(self) -> None:
        """Jobs on the packed birds, which pages name without showing them, and attributes as they were packed."""
        probe = {**self.words, "head": "probes/cub/clip.safetensors"}
        text = {**self.words, "head": "text", "classes": "cub-shards/classes.txt"}
        few = {"metrics": {"steps": 4}}
        for name, model in {"job": CNN, "clip_job": self.words, "class_job": probe, "text_job": text}.items():
            tree = {"input": {"shards": "cub-shards/train-*.tar"}, "model": model, "compute": INLINE, **few}
            Path(f"{name}.yaml").write_text(yaml.safe_dump({**tree, "output": {"url": name.replace("job", "export")}}))
        shutil.copy("cub-shards/attributes.json", "attributes.json")

    def trained(self) -> None:
        """What docs/probes.md trains first."""
        run(commands("docs/probes.md")[0].arguments)

    def job(self) -> None:
        """job.yaml of a folder of images."""
        tree = {"input": {"shards": "photos", "fields": {"label": ""}}, "model": CNN, "compute": INLINE}
        Path("job.yaml").write_text(yaml.safe_dump({**tree, "output": {"url": "job_export"}}))

    def species(self) -> None:
        """The export OUT with a column of the user's own, and deletion."""
        write_tar(Path("a.tar"), [("a.jpg", photo(1)), ("a.json", b'{"species": "finch"}')])
        tree = {"input": {"shards": "a.tar", "columns": ["json.species"]}, "model": CNN, "compute": INLINE}
        export(parse_config({**tree, "metrics": {"deletion": True, "steps": 4}, "output": {"url": "OUT"}}))


# What each page's commands need.
NEEDED: dict[str, tuple[Callable[[Scratch], None], ...]] = {
    "README.md": (Scratch.photos, Scratch.demo, Scratch.finches),
    "docs/compare.md": (Scratch.demo,),
    "docs/datasets.md": (Scratch.published,),
    "docs/input.md": (Scratch.species,),
    "docs/jobs.md": (Scratch.bucket,),
    "docs/operations.md": (Scratch.photos, Scratch.job),
    "docs/probes.md": (Scratch.packed, Scratch.jobs, Scratch.bucket, Scratch.probes),
    "docs/reading.md": (Scratch.demo,),
    "docs/report.md": (Scratch.demo, Scratch.finches),
    "docs/saliency.md": (
        Scratch.demo,
        Scratch.packed,
        Scratch.jobs,
        Scratch.bucket,
        Scratch.probes,
        Scratch.trained,
    ),
    "docs/traits.md": (Scratch.demo, Scratch.finches),
}


def run(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    assert done.output, arguments


def after_init(page: str) -> None:
    """The job that `init` wrote is whole; from here on it is the page's own, on few images, with a tiny model."""
    assert load_config(Path("job.yaml")).input.shards
    tree = yaml.safe_load(blocks(page, "yaml")[0])
    if page == "docs/jobs.md":
        tree["input"]["shards"] = "s3://bucket/train-{0000..0002}.tar"
    else:
        tree["input"]["fields"] = {"label": ""}
    tree["model"] |= CNN
    Path("job.yaml").write_text(yaml.safe_dump(tree | {"compute": INLINE}))


@pytest.mark.slow
@pytest.mark.usefixtures("s3", "ray_cluster")
@pytest.mark.parametrize("page", MADE)
def test_every_command_runs_as_it_stands(page: str, tmp_path: Path, clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scratch = Scratch(clip)
    for make in NEEDED[page]:
        make(scratch)
    for line in lines(page):
        found = command(line)
        if found is None or left_out(line):
            continue
        with monkeypatch.context() as environment:
            for name, value in found.environment:
                environment.setenv(name, value)
            run(found.arguments)
        if found.arguments[0] == "init":
            after_init(page)
    assert [name for name in MADE[page] if not (tmp_path / name).is_file()] == []
    store = fsspec.filesystem("s3")
    if page == "docs/jobs.md":
        made = json.loads(store.cat_file("bucket/exports/train/export.json"))
        assert made["counts"] == {"images": 15, "failures": 0}
    if page == "docs/datasets.md":
        assert store.exists("bucket/aircraft/findings.txt")
