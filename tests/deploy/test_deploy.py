"""deploy/: the files hold together, and what they start exists and does what they say."""

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from finer_ray import cli
from finer_ray.config.loading import load_config
from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError, ExportError, InputError, LeaseError, StoreError
from finer_ray.pipeline.cluster_metrics import COUNTERS
from finer_ray.store.lease import acquire
from finer_ray.store.reading import open_export
from finer_ray.store.storage import Folder
from tests.conftest import write_tar
from tests.jobs import Done, run
from tests.pipeline.exports import many

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FINER_RAY = ROOT / "finer_ray" / "__main__.py"


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def commands() -> list[str]:
    cron = [line for line in (DEPLOY / "cron.example").read_text().splitlines() if line and not line.startswith("#")]
    strings = [
        node.value
        for node in ast.walk(ast.parse((DEPLOY / "airflow_dag.py").read_text()))
        if isinstance(node, ast.Constant)
    ]
    airflow = [text for text in strings if isinstance(text, str) and "ray job submit" in text]
    return [*cron, *airflow, documents("kuberay_rayjob.yaml")[0]["spec"]["entrypoint"]]


def test_every_file_starts_the_job_there_is() -> None:
    assert len(commands()) == 4
    for command in commands():
        words = shlex.split(re.sub(r"\{\{ ds \}\}", "2026-11-24", command.partition(">>")[0]))
        at = next(place for place, word in enumerate(words) if Path(word).name == "finer-ray")
        assert words[at + 1] == "export"
        options = [word for word in words[at:] if word.startswith("--")]
        assert set(options) <= {"--verify", "--date", "--set"}
        assert (DEPLOY / Path(words[at + 2]).name).exists()


def test_the_nightly_job_is_a_valid_config() -> None:
    config = load_config(DEPLOY / "nightly.yaml", words={"date": "2026-11-24"})
    assert config.input.shards == ["s3://BUCKET/incoming/2026-11-24/*.tar"]


def test_kubernetes_files_name_one_another() -> None:
    (job,) = documents("kuberay_rayjob.yaml")
    cron, account, _, binding = documents("kuberay_cronjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert cluster["authOptions"] == {"mode": "token"}
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["metadata"]["name"] == binding["subjects"][0]["name"]
    assert pod["volumes"] == head["template"]["spec"]["volumes"]
    mounted = pod["containers"][0]["volumeMounts"][0]["mountPath"]
    assert pod["containers"][0]["command"][-1] == f"{mounted}/kuberay_rayjob.yaml"
    assert mounted in job["spec"]["entrypoint"]
    assert all(group["minReplicas"] == 0 for group in cluster["workerGroupSpecs"])


def test_today_is_a_day_in_utc(nightly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            """Half past one in the morning of the 24th, five hours east of Greenwich."""
            return cls(2026, 11, 24, 1, 30, tzinfo=timezone(timedelta(hours=5))).astimezone(tz)

    monkeypatch.setattr(cli, "datetime", Clock)
    done = night(nightly, "--set", f"output.url={tmp_path}/exports/{{date}}")
    assert done.returncode == 0, done.stderr
    assert open_export(str(tmp_path / "exports" / "2026-11-23")).images.num_rows == 10


def sources(dockerfile: str) -> list[str]:
    return [word for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE) for word in line.split()]


def test_images_are_built_of_what_is_there() -> None:
    docker, apptainer = (DEPLOY / "Dockerfile").read_text(), (DEPLOY / "finer-ray.def").read_text()
    copied = sources(docker)
    files = apptainer.partition("%files\n")[2].partition("\n\n")[0]
    assert copied == [line.split()[0] for line in files.splitlines()]
    assert all((ROOT / name).exists() for name in copied)
    # What the build reads of the repository is what is let into its context.
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert ignored == ["*", *(f"!{name}" for name in copied), "**/__pycache__"]
    assert {"pyproject.toml", "README.md", "LICENSE", "finer_ray"} < set(copied)
    for text in (docker, apptainer):
        assert "pip install --no-cache-dir -c constraints.txt '.[cluster,s3]'" in text
        (base,) = re.findall(r"^(?:FROM|From:) (\S+)$", text, re.MULTILINE)
        assert base == "python:3.12-slim-bookworm"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "finer_ray[job]" in extras["cluster"]


def test_the_image_runs_as_nobody_special_and_listens_to_nothing() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    steps = [line.split()[0] for line in re.sub(r"\\\n", " ", text).splitlines() if line and not line.startswith("#")]
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "VOLUME", "USER", "HEALTHCHECK", "CMD"}
    assert set(steps) == known
    # All that needs root comes before.
    assert not {"RUN", "COPY"} & set(steps[steps.index("USER") :])
    assert re.search(r"^USER (?!root)\w+$", text, re.MULTILINE)
    assert "HEALTHCHECK NONE" in text
    words = re.search(r"^CMD (.*)$", text, re.MULTILINE)
    assert words is not None
    assert json.loads(words[1])[0] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def test_kuberay_runs_the_ray_that_the_image_holds() -> None:
    (job,) = documents("kuberay_rayjob.yaml")
    assert f"\nray=={job['spec']['rayClusterSpec']['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()


def test_the_dashboard_asks_for_metrics_there_are() -> None:
    board = json.loads((DEPLOY / "grafana" / "finer-ray.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [found["query"]["query"] for found in board["templating"]["list"] if found["type"] == "query"]
    names = set(re.findall(r"\bray_\w+", " ".join(asked)))
    assert names == {f"ray_{name}_total" for name in COUNTERS}
    tags = {tag for _, keys in COUNTERS.values() for tag in keys}
    by = set(re.findall(r"by \((\w+)\)", " ".join(asked))) | set(re.findall(r"\{(\w+)=~", " ".join(asked)))
    assert by == tags
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_readme_names_every_file() -> None:
    named = set(re.findall(r"^\| `([^`]+)`", (DEPLOY / "README.md").read_text(), re.MULTILINE))
    files = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()}
    assert named == files - {"README.md", "Dockerfile.dockerignore"}


def test_no_file_holds_a_secret() -> None:
    for path in filter(Path.is_file, DEPLOY.rglob("*")):
        assert not re.search(r"AKIA|BEGIN [A-Z ]*PRIVATE KEY|(?i:password|secret_access_key)\s*[:=]", path.read_text())


@pytest.fixture
def nightly(tmp_path: Path, job: Callable[..., Config]) -> Path:
    """A nightly job on this machine, in which the date names shards."""
    write_tar(tmp_path / "2026-11-23" / "a.tar", many(10))
    write_tar(tmp_path / "2026-11-24" / "a.tar", many(6, 50))
    config = job(str(tmp_path / "{date}" / "*.tar")).model_dump(mode="json")
    file = tmp_path / "nightly.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def night(job: Path, *options: str) -> Done:
    """What a scheduler starts."""
    return run(FINER_RAY, "export", str(job), "--verify", *options)


def test_two_nights_and_what_a_scheduler_is_told(nightly: Path, tmp_path: Path) -> None:
    for date, new in (("2026-11-23", 10), ("2026-11-24", 6), ("2026-11-24", 0)):
        done = night(nightly, "--date", date)
        assert done.returncode == 0, done.stderr
        assert f"{new} of them in this run" in done.stdout
    # And once as a scheduler does it.
    command = [sys.executable, "-m", "finer_ray", "export", str(nightly), "--set", "saliency.gamma=much"]
    assert subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == ConfigError.exit_code
    made = open_export(str(tmp_path / "out"))
    assert made.images.num_rows == 16
    codes = {
        ConfigError: night(nightly, "--set", "saliency.gamma=much"),
        InputError: night(nightly, "--date", "2026-11-25"),
        ExportError: night(nightly, "--date", "2026-11-24", "--set", "saliency.gamma=2.0"),
    }
    with acquire(Folder(str(tmp_path / "out")), 60):
        codes[LeaseError] = night(nightly, "--date", "2026-11-23")
    codes[StoreError] = night(nightly, "--date", "2026-11-23", "--set", "output.url=/proc/none")
    for kind, done in codes.items():
        assert done.returncode == kind.exit_code, (kind, done.stderr)
        assert "error: " in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert len({kind.exit_code for kind in codes}) == 5
    chunks = (tmp_path / "out" / "saliency.zarr" / "references" / "c").rglob("*")
    next(path for path in chunks if path.is_file()).unlink()
    torn = night(nightly, "--date", "2026-11-24")
    assert torn.returncode == ExportError.exit_code, torn.stderr
    assert "is not whole" in torn.stderr
    table = (ROOT / "docs" / "operations.md").read_text()
    assert all(f"\n| {kind.exit_code} |" in table for kind in codes)


def test_the_date_is_a_date(nightly: Path) -> None:
    done = night(nightly, "--date", "../../etc")
    assert done.returncode == 2
    assert "--date" in done.stderr
