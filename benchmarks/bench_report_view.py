"""How long does a page take from a move of the gamma slider to the frame that shows it?

A page of a report is opened in Chromium from disk, with its maps at 224 and 448 pixels (the same grid and photo, its
`size` and `centres` multiplied). For each way of display, and each panel beside the live map, the slider moves 50
times; each move is timed from right before its event, at the start of a frame, until the next frame has been painted.

    python -m benchmarks.bench_report_view REPORT ROW
"""

import json
import platform
import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from selenium import webdriver

from finer_ray.report.overlay import MODES
from tests.report.site.browser import Browser, chromium

SIZES = (224, 448)
MOVES = 50
DATA = re.compile(r'(<script type="application/json" id="data">)(.*?)(</script>)', re.DOTALL)
STATES = [{"mode": mode} for mode in MODES] + [
    {"mode": mode, "beside": beside} for beside in ("difference", "second") for mode in ("heat", "contours")
]
# Milliseconds of each move: the page's own work, and until the frame is painted.
TIMED = """
const [moves, done] = arguments;
const slider = document.getElementById("gamma");
const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
const painted = () => new Promise((resolve) => requestAnimationFrame(() => {
  const channel = new MessageChannel();
  channel.port1.onmessage = resolve;
  channel.port2.postMessage(null);
}));
(async () => {
  const [work, frames] = [[], []];
  for (let move = 0; move < moves; move++) {
    slider.value = -1 + (4 * ((move * 7) % moves)) / moves;
    await frame();
    const start = performance.now();
    slider.dispatchEvent(new Event("input", {bubbles: true}));
    work.push(performance.now() - start);
    await painted();
    frames.push(performance.now() - start);
  }
  done({work, frames});
})();
"""


def main(report: Path, row: int) -> None:
    measured = []
    with tempfile.TemporaryDirectory() as place, chromium() as driver:
        for size in SIZES:
            folder = Path(place) / str(size)
            enlarged(report, row, size, folder)
            measured += [{"pixels": size, **state, **moved(driver, folder, row, state)} for state in STATES]
    found = {
        "question": (__doc__ or "").splitlines()[0],
        "browser": driver.capabilities["browserVersion"],
        "machine": {"cpu": platform.processor() or platform.machine(), "system": platform.system()},
        "moves": MOVES,
        "measured": measured,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


def enlarged(report: Path, row: int, size: int, folder: Path) -> None:
    """A copy of one page and what it needs, with maps of size x size pixels."""
    shutil.copytree(report / "assets", folder / "assets")
    (folder / "images").mkdir()
    for path in (report / "images").glob(f"{row}[.-]*"):
        shutil.copy(path, folder / "images")
    page = folder / "images" / f"{row}.html"
    page.write_text(DATA.sub(lambda found: found[1] + _resized(found[2], size) + found[3], page.read_text()))


def _resized(text: str, size: int) -> str:
    data = json.loads(text)
    times = size / data["size"][0]
    data["size"] = [size, round(times * data["size"][1])]
    data["centres"] = [[times * value for value in values] for values in data["centres"]]
    return json.dumps(data).replace("<", "\\u003c")


def moved(driver: webdriver.Chrome, folder: Path, row: int, state: dict[str, str]) -> dict[str, Any]:
    browser = Browser(driver, folder)
    browser.window(1400, 1000)
    browser.open(f"images/{row}.html#{'&'.join(f'{name}={value}' for name, value in state.items())}")
    times = driver.execute_async_script(TIMED, MOVES)
    return {
        f"{name}_ms": {"median": round(statistics.median(values), 1), "max": round(max(values), 1)}
        for name, values in times.items()
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
