"""The page as people use it: the real ``app.py``, in a real browser where there is one."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import soundfile
from conftest import melody
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import Browser, Error, Page, sync_playwright

from erarec.prediction import EraPrediction

APP = Path(__file__).parents[1] / "app.py"
START_SECONDS = 120  # a cold disk and a busy machine
WAIT = 30_000  # ms: for an answer, on a busy machine
DESKTOP, PHONE = (1400, 900), (390, 844)
ELEMENTS = [
    "audio-input",
    "artist-input",
    "biography-input",
    "model-input",
    "predict-button",
    "answer",
    "era-distribution",
    "attention",
    "embedding-map",
    "neighbours",
]
FIGURES = ["era-distribution", "attention", "embedding-map"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the running app answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, log = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("app") / "log"
    environment = os.environ | {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(log.parent / "cache"),
        "BROWSER": "true",  # the program that does nothing: no window opens on a desktop
    }
    with log.open("w") as output:
        app = subprocess.Popen([sys.executable, APP], env=environment, stdout=output, stderr=output)
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            assert app.poll() is None, f"app.py ended:\n{log.read_text()}"
            assert time.monotonic() < until, f"app.py is not up:\n{log.read_text()}"
            try:
                with urllib.request.urlopen(address, timeout=5):
                    break
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.2)
        yield address
    finally:
        app.terminate()
        app.wait(20)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def tune(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of mp3."""
    path = tmp_path_factory.mktemp("sounds") / "tune.mp3"
    soundfile.write(path, melody(10), 44100)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium with a microphone that hears a melody."""
    heard = tmp_path_factory.mktemp("microphone") / "melody.wav"
    soundfile.write(heard, melody(20, 48000), 48000, subtype="PCM_16")
    named = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    chrome = os.environ.get("ERAREC_CHROME") or next(filter(None, map(shutil.which, named)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=chrome,  # None: Playwright's own
                args=[
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-sync",
                    "--use-fake-device-for-media-stream",
                    "--use-fake-ui-for-media-stream",
                    f"--use-file-for-fake-audio-capture={heard}",
                ],
            )
        except Error as problem:
            sentence = "NO BROWSER: THE PAGE WAS NOT TESTED. Install chromium or set ERAREC_CHROME."
            warnings.warn(sentence, stacklevel=1)
            pytest.skip(f"{sentence} ({str(problem).splitlines()[0]})")
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Opens the page at a size; at the end, nothing may have gone out and no error been logged."""
    pages, outside, errors = [], [], []

    def open_page(size: tuple[int, int] = DESKTOP) -> Page:
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.set_default_timeout(WAIT)
        for event in ("request", "websocket"):
            page.on(event, lambda asked: outside.append(asked.url) if _is_outside(asked.url) else None)
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.locator("#embedding-map .main-svg").first.wait_for()
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert outside == []
    # Gradio's player says so itself when it cannot draw a file that is no sound.
    assert [error for error in errors if "Waveform load error" not in error] == []


def _is_outside(url: str) -> bool:
    return urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).hostname != "127.0.0.1"


def upload(page: Page, path: Path) -> None:
    page.set_input_files("#audio-input input[type=file]", path)
    page.locator("#audio-input").get_by_label("Clear").wait_for()


def type_artist(page: Page, text: str) -> None:
    page.locator("#artist-input input").press_sequentially(text, delay=20)


def predict(page: Page) -> str:
    """Presses the button and waits. Returns the sentence in the answer's place."""
    page.click("#predict-button")
    page.locator("#answer .sentence, #answer .problem").wait_for()
    return page.inner_text("#answer p >> nth=0")


def test_every_element_is_on_the_page(visit: Callable[..., Page]) -> None:
    page = visit()
    assert {name: page.locator(f"#{name}").count() for name in ELEMENTS} == dict.fromkeys(ELEMENTS, 1)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_recording_and_an_artist_are_answered_with_figures(
    visit: Callable[..., Page], tune: Path, size: tuple[int, int]
) -> None:
    page = visit(size)
    upload(page, tune)
    type_artist(page, "fleetwood m")
    page.get_by_role("option", name="Fleetwood Mac", exact=True).wait_for()
    if size == PHONE:
        page.get_by_role("option", name="Fleetwood Mac", exact=True).click()
    else:
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
    assert page.input_value("#artist-input input") == "Fleetwood Mac"
    assert page.get_by_role("option").count() == 0
    page.locator("#biography-source", has_text="Fleetwood Mac").wait_for()

    assert re.search(r"\b(18|19|20)\d\d\b", predict(page))
    page.locator("#era-distribution .legendtext", has_text="artist alone").wait_for()
    page.locator("#embedding-map .legendtext", has_text="this song").wait_for()
    assert page.locator("#neighbours tbody tr").count() == 10
    assert "artist" in page.inner_text("#attention .shares")
    for name in FIGURES:
        box = page.locator(f"#{name}").bounding_box()
        assert box["height"] > 100
        assert 0 <= box["x"] < box["x"] + box["width"] <= size[0]
    for name in ("era-distribution", "embedding-map"):
        assert page.locator(f"#{name} .main-svg").first.bounding_box()["height"] > 100
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_what_the_microphone_hears_is_answered(visit: Callable[..., Page]) -> None:
    page = visit()
    page.locator("#audio-input").get_by_label("Record audio").click()
    page.locator("#audio-input").get_by_role("button", name="Record", exact=True).click()
    stop = page.locator("#audio-input button.stop-button")
    stop.wait_for()
    page.wait_for_timeout(3500)
    stop.click()
    page.locator("#audio-input").get_by_label("Play", exact=True).wait_for()
    assert "nothing" not in predict(page)
    assert page.locator("#answer .sentence").count() == 1


def test_a_file_that_is_no_sound_gets_one_sentence_and_what_was_typed_stays(
    visit: Callable[..., Page], tmp_path: Path
) -> None:
    (tmp_path / "notes.mp3").write_text("These are words, not music.\n" * 50)
    page = visit()
    upload(page, tmp_path / "notes.mp3")
    type_artist(page, "Somebody Whom Nobody Knows")
    sentence = predict(page)
    assert sentence.endswith(".")
    assert page.locator("#answer p").count() == 1
    assert page.locator("#answer .problem").count() == 1
    assert page.input_value("#artist-input input") == "Somebody Whom Nobody Knows"


def test_without_a_recording_one_is_asked_for(visit: Callable[..., Page]) -> None:
    assert "no recording yet" in predict(visit())


def test_the_api_answers_with_the_contract(address: str, tune: Path) -> None:
    client = Client(address, verbose=False)
    answer = client.predict(handle_file(tune), "Fleetwood Mac", "", "audioart-mmc", api_name="/predict")
    assert list(answer) == [field.name for field in fields(EraPrediction)]
    assert answer["artist"]["name"] == "Fleetwood Mac"
    by_sound = client.predict(audio=handle_file(tune), api_name="/predict")
    assert by_sound["probabilities"]["artist"] is None


def test_the_api_offers_one_endpoint(address: str) -> None:
    endpoints = Client(address, verbose=False).view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/predict"]


def test_the_api_says_what_is_wrong_in_one_sentence(address: str, tmp_path: Path) -> None:
    (tmp_path / "notes.mp3").write_text("These are words, not music.\n" * 50)
    client = Client(address, verbose=False)
    with pytest.raises(AppError, match=r"^[^\n]+\.$"):
        client.predict(audio=handle_file(tmp_path / "notes.mp3"), api_name="/predict")
