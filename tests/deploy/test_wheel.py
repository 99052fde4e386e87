"""The wheel: all of the package is in it, and what is installed from it works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from finer_ray.store.reading import open_export
from tests.conftest import write_tar
from tests.pipeline.exports import many

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def call(*command: object, **options: object) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    said: str = done.stdout
    return said


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist and, built from that, the wheel; the checkout stays as it is."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source)
    return folder


def tracked() -> list[str]:
    """Files of the package, by their paths in the repository."""
    return call("git", "ls-files", "finer_ray", cwd=ROOT).split()


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the wheel; all else comes from this one's packages, after it."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", place)
    (packages,) = place.glob("lib/python*/site-packages")
    # Not its .pth files, one of which may name this checkout.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    call(sys.executable, "-m", "pip", "--python", place, "install", "--quiet", "--no-index", "--no-deps", wheel)
    return place / "bin"


def test_is_what_an_index_takes(dist: Path) -> None:
    assert call(sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.iterdir())).count("PASSED") == 2


def test_holds_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == set(tracked())


def outside(installed: Path, folder: Path) -> dict[str, object]:
    """How a program is run outside of the checkout."""
    hidden = ("PYTHONPATH", "RAY_ADDRESS", "VIRTUAL_ENV")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    return {"cwd": folder, "env": {**variables, "PATH": f"{installed}:{variables['PATH']}"}, "timeout": 240}


def test_what_runs_is_what_was_installed(installed: Path, tmp_path: Path) -> None:
    where = call(
        installed / "python", "-c", "import finer_ray; print(finer_ray.__file__)", **outside(installed, tmp_path)
    )
    assert Path(where.strip()).is_relative_to(installed.parent)
    for form in ([installed / "finer-ray"], [installed / "python", "-m", "finer_ray"]):
        assert "export" in call(*form, "--help", **outside(installed, tmp_path))


def test_the_demos_export_on_ray_and_its_report(installed: Path, tmp_path: Path) -> None:
    """The packaged weights and settings, six photos of our own, and a day in the output's name."""
    write_tar(tmp_path / "2026-11-24" / "a.tar", many(6))
    find = "from importlib.resources import files; print(files('finer_ray.demo') / 'demo.yaml')"
    config = call(installed / "python", "-c", find, **outside(installed, tmp_path)).strip()
    said = call(
        *(installed / "finer-ray", "export", config, "--date", "2026-11-24", "--verify"),
        *("--set", "input.shards=./{date}/*.tar"),
        *("--set", "output.url=exports/{date}", "--set", "compute.executor=ray"),
        **outside(installed, tmp_path),
    )
    assert said.startswith("6 images explained, 0 failures, 6 of them in this run")
    made = tmp_path / "exports" / "2026-11-24"
    assert open_export(str(made)).images.num_rows == 6
    call(installed / "finer-ray", "report", made, **outside(installed, tmp_path))
    assert (made / "report" / "index.html").stat().st_size > 1000
