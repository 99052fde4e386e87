"""The demo on its real photos and real weights, the job on a real cluster."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from finer_ray.demo.run_demo import demo_config
from finer_ray.models.checkpoint import read_checkpoint, weights_file
from finer_ray.shards import fields_of, find_shards, index_shard, read_unit
from finer_ray.store.reading import open_export
from finer_ray.store.verify import verify_export

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-c", "from finer_ray.__main__ import main; main()", "demo", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, check=True)
    return folder, done.stdout


def test_shows_what_it_promises(demo: tuple[Path, str]) -> None:
    folder, said = demo
    assert verify_export(str(folder)) == []
    assert open_export(str(folder)).manifest.counts == {"images": 40, "failures": 0}
    for text in ("verify: whole", "killer whale", "FROM '", "finer_cam", "contact_sheet.png", "saliency.zarr"):
        assert text in said
    for place in (folder, folder / "birds_export"):
        assert len(list((place / "report" / "images").glob("*-map.jpg"))) >= 40
    for name in ("contact_sheet.png", "birds_sheet.png", "what_tells.png"):
        with Image.open(folder / name) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        assert min(pixels.shape[:2]) > 1000
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10_000


def test_birds_are_named_and_their_differing_parts_measured(demo: tuple[Path, str]) -> None:
    birds = str(demo[0] / "birds_export")
    assert verify_export(birds) == []
    made = open_export(birds)
    assert made.manifest.counts == {"images": 88, "failures": 0}
    # training.json says 0.88 of 480 held-out pictures.
    right = np.mean(made.images["label"].to_numpy() == made.images["predicted"].to_numpy())
    assert right > 0.7
    assert set(made.metrics["region"].to_pylist()) == {"mask"}
    # Parts are a few hundredths of a picture; maps put far more than that there.
    assert np.nanmean(made.metrics["localisation"].to_numpy()) > 0.1


def test_predictions_are_those_of_plain_timm(demo: tuple[Path, str]) -> None:
    """Plain timm and its own transform on the same photos: the decode path and the cut change nothing."""
    config = demo_config(demo[0])
    path = weights_file(config.model.weights)
    assert path is not None
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(dict(zip(model.state_dict(), read_checkpoint(path).values(), strict=True)))
    half = (0.5, 0.5, 0.5)
    transform = timm.data.create_transform((3, 224, 224), crop_pct=1.0, interpolation="bicubic", mean=half, std=half)
    logits, labels = [], []
    for ref in find_shards(config.input.shards):
        fields = fields_of("webdataset")
        index = index_shard(ref, fields, 1000)
        for sample in read_unit(ref, fields, 0, index.count, 2**28):
            import io

            image = Image.open(io.BytesIO(sample.image or b"")).convert("RGB")
            with torch.no_grad():
                logits.append(model(transform(image)[None])[0])
            labels.append(sample.label)
    theirs = torch.stack(logits)
    images = open_export(str(demo[0])).images
    assert images["label"].to_pylist() == labels
    assert images["predicted"].to_pylist() == theirs.argmax(1).tolist()
    expected = theirs.gather(1, torch.tensor(images["target"].to_pylist())[:, None])[:, 0]
    np.testing.assert_allclose(images["logit"].to_numpy(), expected.numpy(), rtol=1e-3, atol=1e-3)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_submitted_to_a_cluster_it_writes_the_same(demo: tuple[Path, str], tmp_path: Path) -> None:
    """`ray start --head` on loopback with a token, and `ray job submit`, as the README says."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    port, dashboard, agent = free_port(), free_port(), free_port()
    temp = Path("/tmp") / f"fr{secrets.token_hex(3)}"
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    env.pop("RAY_ADDRESS", None)
    work = tmp_path / "work"
    work.mkdir()
    shutil.copytree(ROOT / "jobs", work / "jobs")
    tree = demo_config(tmp_path / "out").model_dump(mode="json")
    # Most of the demo's time, and nothing that is compared here.
    tree["metrics"]["deletion"] = False
    (work / "job.yaml").write_text(yaml.safe_dump(tree))
    start = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    start += [f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2", f"--temp-dir={temp}"]
    start += [f"--dashboard-agent-listen-port={agent}"]
    submit = ["ray", "job", "submit", "--address", f"http://127.0.0.1:{dashboard}", "--working-dir", str(work), "--"]
    submit += ["python", "jobs/export_saliency.py", "--config"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(start, env=env, stdout=quiet, stderr=quiet, start_new_session=True) as head:
        try:
            wait_for(dashboard)
            # The agent, which takes jobs, is later; asking for it by submitting takes both cores from it.
            wait_for(agent)
            with ThreadPoolExecutor() as pool:
                right, wrong = pool.map(partial(submitted, env=env), ([*submit, "job.yaml"], [*submit, "none.yaml"]))
            assert right.returncode == 0, right.stdout + right.stderr
            assert wrong.returncode != 0
            assert "cannot read the config" in wrong.stdout + wrong.stderr
        finally:
            head.terminate()
            head.wait(60)
            shutil.rmtree(temp, ignore_errors=True)
    assert verify_export(str(tmp_path / "out")) == []
    ours, theirs = open_export(str(demo[0])), open_export(str(tmp_path / "out"))
    assert ours.images["key"].equals(theirs.images["key"])
    assert ours.images["references"].equals(theirs.images["references"])
    rows = ours.images["row"].to_numpy()
    np.testing.assert_allclose(ours.contrast(rows), theirs.contrast(rows), rtol=0.01, atol=1e-4)


def submitted(command: list[str], env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """The end of a job. Ray's job server answers before there is an agent that takes jobs, and says so."""
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
        if "No available agent" not in done.stderr + done.stdout or time.monotonic() > deadline:
            return done
        time.sleep(5)


def wait_for(port: int) -> None:
    """Until Ray's dashboard, or its agent, answers."""
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=5)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the cluster did not start")
