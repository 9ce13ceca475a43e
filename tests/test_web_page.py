"""examples/web in a real browser, without a window: digits drawn with the mouse, and what the page says.

Needs Chromium, its driver, Node.js and npm; where one is absent the tests are skipped, except in CI (`CI=true`), which
installs them. ``WEB_SCREENSHOT=docs/web.png pytest tests/test_web_page.py`` keeps a picture of the page.
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from conftest import succeed

WEB = Path(__file__).parent.parent / "examples" / "web"
#: Program and the package of Debian that has it.
TOOLS = {"chromium": "chromium", "chromedriver": "chromium-driver", "node": "nodejs", "npm": "npm"}
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
)
SECONDS = 30

Point = tuple[float, float]
Stroke = Sequence[Point]


def arc(x: float, y: float, width: float, height: float, start: float, end: float) -> list[Point]:
    """Part of an ellipse around (x, y), in degrees clockwise from the right."""
    angles = [math.radians(start + (end - start) * step / 24) for step in range(25)]
    return [(x + width / 2 * math.cos(angle), y + height / 2 * math.sin(angle)) for angle in angles]


#: Strokes of digits on a paper of 1×1, y downwards.
DRAWN: dict[int, list[Stroke]] = {
    0: [arc(0.5, 0.5, 0.5, 0.76, -90, 275)],
    1: [[(0.36, 0.3), (0.52, 0.12), (0.52, 0.88)]],
    2: [[*arc(0.5, 0.32, 0.44, 0.4, -170, 40), (0.28, 0.86), (0.76, 0.86)]],
    3: [[*arc(0.47, 0.31, 0.42, 0.36, -150, 90), *arc(0.47, 0.69, 0.5, 0.4, -90, 150)]],
    5: [[(0.7, 0.14), (0.34, 0.14), (0.32, 0.46), *arc(0.48, 0.66, 0.48, 0.44, -120, 140)]],
    7: [[(0.26, 0.14), (0.74, 0.14), (0.56, 0.5), (0.42, 0.88)], [(0.38, 0.5), (0.72, 0.5)]],
}


def find_tools() -> dict[str, str]:
    """Paths of the programs; without one of them, the test that asks is skipped, or fails in CI."""
    found = {name: shutil.which(name) for name in TOOLS}
    if missing := [f"{name} (Debian package {TOOLS[name]})" for name, path in found.items() if path is None]:
        message = f"examples/web is tested in a browser; not installed: {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return {name: path for name, path in found.items() if path is not None}


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_a_browser(ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "chromedriver" else f"bin/{name}")
    with pytest.raises(outcome, match=r"not installed: chromedriver \(Debian package chromium-driver\)$"):
        find_tools()


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return find_tools()


@pytest.fixture(scope="module")
def site(tools: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder after the steps of its README."""
    folder = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules", "model.onnx"))
    succeed("export", folder / "digits.seedmask", "--form", "packed", "--onnx", folder / "model.onnx")
    command = [tools["npm"], "install", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (folder / "package-lock.json").exists()
    return folder


class Quiet(SimpleHTTPRequestHandler):
    """The server of ``python -m http.server``, without its log."""

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of the folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(site) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tools: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = tools["chromium"]
    for flag in (*FLAGS, "--window-size=900,820", f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(tools["chromedriver"]))
    yield driver
    driver.quit()


class Page:
    """The page in the browser."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        self.address = address
        browser.get_log("browser")  # empties it
        browser.get(address)

    def wait(self, script: str) -> None:
        """Until a JavaScript expression is true."""
        WebDriverWait(self.browser, SECONDS, 0.05).until(
            lambda browser: browser.execute_script(f"return {script}"), f"{script}; the page says: {self.status}"
        )

    @property
    def status(self) -> str:
        return self.browser.find_element(By.ID, "status").text

    @property
    def data(self) -> dict[str, str]:
        return self.browser.execute_script("return {...document.body.dataset}")

    @property
    def complaints(self) -> list[dict[str, Any]]:
        return [line for line in self.browser.get_log("browser") if line["level"] == "SEVERE"]

    def ready(self) -> Page:
        self.wait("'ready' in document.body.dataset")
        return self

    def draw(self, strokes: Sequence[Stroke], event: str = "Mouse") -> dict[str, str]:
        """Draw with real events, of the mouse or of a finger, and wait for the answer to the last stroke."""
        before = int(self.data.get("strokes", 0))
        paper = self.browser.find_element(By.ID, "paper")
        self.browser.execute_script("arguments[0].scrollIntoView()", paper)
        box = self.browser.execute_script("return arguments[0].getBoundingClientRect()", paper)
        for stroke in strokes:
            places = [(box["left"] + x * box["width"], box["top"] + y * box["height"]) for x, y in stroke]
            self._press(places, event)
        self.wait(f"document.body.dataset.strokes == {before + len(strokes)}")
        return self.data

    def _press(self, places: list[Point], event: str) -> None:
        def send(kind: str, x: float, y: float) -> None:
            if event == "Mouse":
                parameters: dict[str, Any] = {"type": f"mouse{kind}", "x": x, "y": y, "button": "left", "buttons": 1}
                parameters["clickCount"] = int(kind != "Moved")
            else:
                name = {"Pressed": "touchStart", "Moved": "touchMove", "Released": "touchEnd"}[kind]
                parameters = {"type": name, "touchPoints": [] if kind == "Released" else [{"x": x, "y": y}]}
            self.browser.execute_cdp_cmd(f"Input.dispatch{event}Event", parameters)

        send("Pressed", *places[0])
        for place in places[1:]:
            send("Moved", *place)
        send("Released", *places[-1])

    def clear(self) -> None:
        self.browser.find_element(By.ID, "clear").click()


@pytest.fixture(scope="module")
def page(browser: webdriver.Chrome, address: str) -> Page:
    return Page(browser, address).ready()


@pytest.fixture
def blank(page: Page) -> Page:
    """The page with an empty paper."""
    if page.data.get("strokes"):
        page.clear()
    return page


def pixels_of(data: dict[str, str]) -> np.ndarray:
    return np.array(json.loads(data["pixels"]), np.float32).reshape(1, 1, 8, 8)


def test_it_says_that_it_is_ready(blank: Page, site: Path) -> None:
    assert blank.status == "Ready. Draw a digit."
    size = (site / "model.onnx").stat().st_size
    facts = blank.browser.find_element(By.ID, "facts").text
    assert facts == f"model.onnx: {size:,} bytes. Nothing that you draw leaves this page."
    assert size < 2 * (WEB / "digits.seedmask").stat().st_size


@pytest.mark.parametrize("digit", DRAWN)
def test_a_digit_drawn_with_the_mouse_is_recognised(digit: int, blank: Page, site: Path) -> None:
    """And the numbers are those of onnxruntime in Python for the same pixels."""
    data = blank.draw(DRAWN[digit])
    assert data["digit"] == str(digit), pixels_of(data).round(1)
    assert blank.browser.find_element(By.ID, "digit").text == str(digit)
    session = onnxruntime.InferenceSession(site / "model.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"pixels": pixels_of(data)})
    np.testing.assert_allclose(json.loads(data["logits"]), expected[0], rtol=0, atol=1e-4)
    powers = np.exp(expected[0].astype(np.float64))
    shown = [f"{100 * share:.1f} %" for share in powers / powers.sum()]
    rows = [row.text.split(maxsplit=1) for row in blank.browser.find_elements(By.CSS_SELECTOR, "#bars tbody tr")]
    assert rows == [[str(number), share] for number, share in enumerate(shown)]
    assert blank.status.startswith(f"Recognised: {digit}, with a probability of {shown[digit]}, in ")


def test_pictures_are_like_those_of_the_data(blank: Page) -> None:
    """From the first to the last row, 30 % ink, in the middle, and the same wherever and however large one draws."""
    corner = [[(0.05 + 0.4 * x, 0.5 + 0.4 * y) for x, y in stroke] for stroke in DRAWN[0]]
    small = pixels_of(blank.draw(corner))[0, 0]
    blank.clear()
    large = pixels_of(blank.draw(DRAWN[0]))[0, 0]
    for pixels in (small, large):
        assert pixels.mean() == pytest.approx(0.3, abs=0.02)
        assert pixels[0].max() > 0.5
        assert pixels[-1].max() > 0.5
        assert pixels[:, [0, 7]].max() == 0
        assert pixels[3:5, 3:5].max() == 0, "the hole of the 0"
        steps = 16 * pixels
        assert np.abs(steps - steps.round()).max() < 0.05, "counts of 16 pixels"
    assert np.abs(small - large).max() <= 0.25


def test_the_picture_is_shown(blank: Page) -> None:
    read = "return Array.from(document.getElementById('picture').getContext('2d').getImageData(0, 0, 8, 8).data)"
    assert not any(blank.browser.execute_script(read))
    data = blank.draw(DRAWN[1])
    shown = np.array(blank.browser.execute_script(read)).reshape(8, 8, 4)
    np.testing.assert_array_equal(shown[..., 3], np.rint(255 * pixels_of(data)[0, 0]))


def test_strokes_add_up_until_they_are_cleared(blank: Page) -> None:
    one, both = (blank.draw([stroke]) for stroke in DRAWN[7])
    assert one["pixels"] != both["pixels"]
    blank.clear()
    assert "digit" not in blank.data
    assert blank.browser.find_element(By.ID, "digit").text == "?"
    assert blank.status == "Ready. Draw a digit."
    assert not blank.browser.find_element(By.ID, "clear").is_enabled()
    assert not blank.browser.execute_script(
        "const paper = document.getElementById('paper');"
        "return paper.getContext('2d').getImageData(0, 0, paper.width, paper.height).data.some(Boolean)"
    )
    blank.draw([DRAWN[7][0]])
    assert blank.draw([DRAWN[7][1]])["pixels"] == both["pixels"]


def test_on_a_phone(blank: Page) -> None:
    """Nothing is wider than the screen, and a finger draws."""
    screen = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    blank.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    blank.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        assert blank.browser.execute_script("return document.documentElement.scrollWidth") == 360
        assert blank.draw(DRAWN[0], "Touch")["digit"] == "0"
    finally:
        blank.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        blank.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_everything_comes_from_its_own_folder(page: Page) -> None:
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    loaded = page.browser.execute_script(script)
    assert any(name.endswith(".wasm") for name in loaded)
    assert all(name.startswith((page.address, "data:", f"blob:{page.address}")) for name in loaded), loaded
    assert page.complaints == []


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("model.onnx", "There is no model.onnx beside this page. Make it: iterand-compress export digits.seedmask"),
        ("node_modules", "onnxruntime-web is not installed. Run in this folder: npm install"),
    ],
)
def test_what_is_missing_is_said(
    absent: str, message: str, site: Path, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    for path in site.iterdir():
        if path.name != absent:
            (tmp_path / path.name).symlink_to(path)
    says(message, tmp_path, browser)


def test_a_model_of_something_else_is_refused(site: Path, browser: webdriver.Chrome, tmp_path: Path) -> None:
    for path in site.iterdir():
        if path.name != "model.onnx":
            (tmp_path / path.name).symlink_to(path)
    succeed("export", site / "digits.seedmask", "--softmax", "--onnx", tmp_path / "model.onnx")
    says("gives “probabilities”; expected “pixels” and “logits”", tmp_path, browser)
    (tmp_path / "model.onnx").write_bytes(b"not ONNX")
    says("model.onnx: onnxruntime-web cannot load it: ", tmp_path, browser)


def says(message: str, folder: Path, browser: webdriver.Chrome) -> None:
    """The page of the folder fails with the message."""
    with served(folder) as address:
        page = Page(browser, address)
        page.wait("document.querySelector('#status.error')")
        assert message in page.status
        assert "ready" not in page.data


def test_a_screenshot(browser: webdriver.Chrome, address: str, tmp_path: Path) -> None:
    """What the README shows, if `WEB_SCREENSHOT` names a file."""
    page = Page(browser, address).ready()
    page.draw(DRAWN[7])
    target = Path(os.environ.get("WEB_SCREENSHOT") or tmp_path / "web.png")
    browser.execute_script("window.scrollTo(0, 0)")
    target.write_bytes(browser.get_screenshot_as_png())
    assert target.stat().st_size < 100_000
