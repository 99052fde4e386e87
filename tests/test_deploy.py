"""deploy/: the files hold together, and what they start exists and does what they say."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finer_ray.config.loading import load_config
from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError, ExportError, InputError, LeaseError, StoreError
from finer_ray.store.lease import acquire
from finer_ray.store.reading import open_export
from finer_ray.store.storage import Folder
from tests.conftest import write_tar
from tests.jobs import run
from tests.pipeline.exports import many

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
JOB = ROOT / "jobs" / "scheduled_export.py"


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
        at = words.index("jobs/scheduled_export.py")
        options = [word for word in words[at:] if word.startswith("--")]
        assert set(options) <= {"--config", "--date", "--set"}
        config = words[words.index("--config") + 1]
        assert (DEPLOY / Path(config).name).exists()


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


def test_no_file_holds_a_secret() -> None:
    for path in DEPLOY.iterdir():
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


def test_two_nights_and_what_a_scheduler_is_told(nightly: Path, tmp_path: Path) -> None:
    for date, new in (("2026-11-23", 10), ("2026-11-24", 6), ("2026-11-24", 0)):
        done = run(JOB, "--config", str(nightly), "--date", date)
        assert done.returncode == 0, done.stderr
        assert f"{new} new" in done.stdout
    # And once as a scheduler does it.
    command = [sys.executable, str(JOB), "--config", str(nightly), "--set", "saliency.gamma=much"]
    assert subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == ConfigError.exit_code
    made = open_export(str(tmp_path / "out"))
    assert made.images.num_rows == 16
    codes = {
        ConfigError: run(JOB, "--config", str(nightly), "--set", "saliency.gamma=much"),
        InputError: run(JOB, "--config", str(nightly), "--date", "2026-11-25"),
        ExportError: run(JOB, "--config", str(nightly), "--date", "2026-11-24", "--set", "saliency.gamma=2.0"),
    }
    with acquire(Folder(str(tmp_path / "out")), 60):
        codes[LeaseError] = run(JOB, "--config", str(nightly), "--date", "2026-11-23")
    codes[StoreError] = run(JOB, "--config", str(nightly), "--date", "2026-11-23", "--set", "output.url=/proc/none")
    for kind, done in codes.items():
        assert done.returncode == kind.exit_code, (kind, done.stderr)
        assert "error: " in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert len({kind.exit_code for kind in codes}) == 5
    table = (ROOT / "docs" / "operations.md").read_text()
    assert all(f"\n| {kind.exit_code} |" in table for kind in codes)


def test_the_date_is_a_date(nightly: Path) -> None:
    done = run(JOB, "--config", str(nightly), "--date", "../../etc")
    assert done.returncode == 2
    assert "--date" in done.stderr
