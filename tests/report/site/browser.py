"""Chromium on a report's pages: what tests ask of it."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_playwright_python
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.report.site.exports import SIZE

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
IN_A_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None or DRIVER is None,
        reason="no Chromium with chromedriver here (apt-get install chromium chromium-driver)",
    ),
]
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --force-color-profile=srgb"
)
# Sets a control as a hand would: its value, then the event.
SET = """
const element = document.getElementById(arguments[0]);
if (element.type === "checkbox") element.checked = arguments[1]; else element.value = arguments[1];
element.dispatchEvent(new Event("input", {bubbles: true}));
"""
PIXELS = """
const canvas = document.getElementById(arguments[0]);
return Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
"""
WIDER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Browser:
    """Chromium on the pages of one report."""

    def __init__(self, driver: webdriver.Chrome, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def open(self, page: str) -> None:
        # A page that differs in its fragment alone would not be loaded anew.
        self.driver.get("about:blank")
        self.driver.get(f"{(self.folder).as_uri()}/{page}")

    def set(self, name: str, value: Any) -> None:
        self.driver.execute_script(SET, name, value)

    def map(self) -> np.ndarray:
        values = self.driver.execute_script("return Array.from(window.finerRay.map())")
        return np.array(values, dtype=np.float32).reshape(SIZE)

    def shown(self, place: int) -> np.ndarray:
        """The map of a panel: 0 is the live one, 1 is beside it."""
        values = self.driver.execute_script("return Array.from(window.finerRay.shown()[arguments[0]].map)", place)
        return np.array(values, dtype=np.float32).reshape(SIZE)

    def pixels(self, canvas: str = "live-map") -> np.ndarray:
        return np.array(self.driver.execute_script(PIXELS, canvas), dtype=np.uint8).reshape(*SIZE, 4)

    def text(self, name: str) -> str:
        return self.driver.find_element(By.ID, name).text

    def scheme(self, scheme: str) -> None:
        # Scrolling that takes its time would move what is about to be clicked.
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        listed = [{"name": name, "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})

    def window(self, width: int, height: int, phone: bool = False) -> None:
        shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)

    def complaints(self) -> list[Any]:
        """What the console holds, and every address asked for that does not lie on disk."""
        said: list[Any] = [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if not url.startswith(("file:", "data:", "about:")):
                    said.append(url)
        return said

    def violations(self) -> list[str]:
        """What axe-core finds against WCAG 2.2 A and AA and its best practices, a line each: rule, element, why."""
        if self.driver.execute_script("return typeof axe === 'undefined'"):
            self.driver.execute_script(AXE.read_text(encoding="utf-8"))
        found: list[dict[str, Any]] = self.driver.execute_async_script(
            "axe.run(document, {preload: false}).then((found) => arguments[0](found.violations))"
        )
        return [
            f"{rule['id']}: {node['html'][:200]}: {node['failureSummary']}" for rule in found for node in rule["nodes"]
        ]


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    profile = tempfile.mkdtemp()
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield found
    finally:
        found.quit()
        shutil.rmtree(profile, ignore_errors=True)
