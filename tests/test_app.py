"""The page as people use it: the real ``app.py``, in a real browser where there is one."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote_plus, unquote, urlsplit

import axe_playwright_python
import httpx
import mutagen.id3
import numpy as np
import pytest
import soundfile
from conftest import melody
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, sync_playwright

from erarec.prediction import EraPrediction
from erarec.texts import Texts

APP = Path(__file__).parents[1] / "app.py"
README = APP.with_name("README.md")
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


# The page asks one fixed host, here and there alike: in these tests a server of our own stands in for it.
LAUNCH = """
import os, runpy
from pathlib import Path
from erarec import page, wikipedia
page.wikipedia = lambda: wikipedia.Wikipedia(Path(os.environ["FOLDER"]), base_url=os.environ["WIKIPEDIA"])
runpy.run_path(os.environ["APP"], run_name="__main__")
"""
ARTICLES = {
    "Fleetwood Mac": {
        "type": "standard",
        "namespace": {"id": 0, "text": ""},
        "titles": {"canonical": "Fleetwood_Mac", "normalized": "Fleetwood Mac"},
        "description": "British-American rock band",
        "extract": "Fleetwood Mac are a rock band formed in London in 1967.",
    },
    "Nirvana (British band)": {
        "type": "standard",
        "namespace": {"id": 0, "text": ""},
        "titles": {"canonical": "Nirvana_(British_band)", "normalized": "Nirvana (British band)"},
        "description": "British pop group",
        "extract": "Nirvana are a British pop group that began in 1965.",
    },
    "Nirvana": {"type": "disambiguation"},
}
NIRVANAS = [
    {"title": "Nirvana (band)", "description": "American rock band"},
    {"title": "Nirvana (British band)", "description": "British pop group"},
]


class Encyclopedia(BaseHTTPRequestHandler):
    """Answers like Wikipedia, of three bands, two of which share a name."""

    def do_GET(self) -> None:
        title = unquote(self.path.rpartition("/")[2]).replace("_", " ")
        answer: object = ARTICLES.get(title)
        if "search" in self.path:
            answer = {"pages": NIRVANAS if "Nirvana" in self.path else []}
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        pass


class Proxy(BaseHTTPRequestHandler):
    """A web server that has the app under /era/, and else nothing."""

    app: str

    def forward(self) -> None:
        if not self.path.startswith("/era/"):  # a browser asks every server for an icon
            return self.send_error(204 if self.path == "/favicon.ico" else 404)
        sent = self.rfile.read(int(self.headers["Content-Length"] or 0))
        headers = dict(self.headers) | {"X-Forwarded-Host": self.headers["Host"]}
        address = self.app + self.path.removeprefix("/era")
        with httpx.stream(self.command, address, headers=headers, content=sent, timeout=None) as answer:
            self.send_response(answer.status_code)
            for name, value in answer.headers.multi_items():
                if name not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError, httpx.RemoteProtocolError):  # whoever asked has left, or the app
                for part in answer.iter_raw():
                    self.wfile.write(part)

    do_GET = do_POST = do_HEAD = forward

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(port: int, folder: Path, encyclopedia: str, prefix: str = "") -> Iterator[str]:
    """The app at a port, until the end; its address."""
    address, log = f"http://127.0.0.1:{port}", folder / "log"
    environment = os.environ | {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "cache"),
        "BROWSER": "true",  # the program that does nothing: no window opens on a desktop
        "APP": str(APP),
        "FOLDER": str(folder / "wikipedia"),
        "WIKIPEDIA": encyclopedia,
        "GRADIO_ROOT_PATH": prefix,
    }
    with log.open("w") as output:
        app = subprocess.Popen([sys.executable, "-c", LAUNCH], env=environment, stdout=output, stderr=output)
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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def encyclopedia() -> Iterator[str]:
    with serving(Encyclopedia) as address:
        yield address


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, encyclopedia: str) -> Iterator[str]:
    """Where the running app answers."""
    with running(free_port(), tmp_path_factory.mktemp("app"), encyclopedia) as address:
        yield address


@pytest.fixture(scope="module")
def tune(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of mp3."""
    path = tmp_path_factory.mktemp("sounds") / "tune.mp3"
    soundfile.write(path, melody(10), 44100)
    return path


@pytest.fixture(scope="module")
def tagged(tune: Path) -> Path:
    """The same, with tags: by ABBA, of 1976."""
    path = tune.with_name("tagged.mp3")
    shutil.copy(tune, path)
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.TPE1(text="ABBA"))
    tags.add(mutagen.id3.TDOR(text="1976"))
    tags.save(path)
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

    def open_page(
        size: tuple[int, int] = DESKTOP,
        query: str = "",
        shown: str = "#embedding-map .main-svg",
        base: str = address,
        **options: object,
    ) -> Page:
        page = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, accept_downloads=True, **options
        ).new_page()
        page.set_default_timeout(WAIT)
        for event in ("request", "websocket"):
            page.on(event, lambda asked: outside.append(asked.url) if _is_outside(asked.url) else None)
        page.on("console", lambda said: errors.append(_where(said)) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(base + query)
        page.locator(shown).first.wait_for()
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert outside == []
    # Gradio's player says so itself when it cannot draw a file that is no sound.
    assert [error for error in errors if "Waveform load error" not in error] == []


def _where(said: ConsoleMessage) -> str:
    return f"{said.text} ({said.location['url']})"


def _is_outside(url: str) -> bool:
    return urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).hostname != "127.0.0.1"


def upload(page: Page, path: Path) -> None:
    page.set_input_files("#audio-input input[type=file]", path)
    page.locator("#audio-input").get_by_label("Clear").wait_for()


def type_artist(page: Page, text: str) -> None:
    page.locator("#artist-input input").press_sequentially(text, delay=20)


def name_artist(page: Page, text: str) -> None:
    """Types a name that the library has, and leaves its suggestions."""
    type_artist(page, text)
    page.get_by_role("option").first.wait_for()
    page.keyboard.press("Escape")


def ask_wikipedia(page: Page, artist: str) -> None:
    """Name an artist, open what is read about them, and press the button."""
    name_artist(page, artist)
    page.get_by_role("button", name="What it reads about the artist").click()
    page.click("#wikipedia-button")


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
    if size == PHONE:
        page.get_by_role("option", name="Fleetwood Mac", exact=True).click()
    else:  # at once, while the names on show still answer the first letters
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#artist-input input').value === 'Fleetwood Mac'")
    assert page.get_by_role("option").count() == 0
    page.locator("#biography-source", has_text="Fleetwood Mac").wait_for()

    assert re.search(r"\b(18|19|20)\d\d\b", predict(page))
    page.locator("#era-distribution .legendtext", has_text="artist alone").wait_for()
    page.locator("#embedding-map .legendtext", has_text="this song").wait_for()
    assert page.locator("#neighbours tbody tr").count() == 10
    assert "artist" in page.inner_text("#attention .shares")
    top = "document.querySelector('#answer .sentence').getBoundingClientRect().top"
    page.wait_for_function(f"{top} >= 0 && {top} < 300")  # in sight, on a phone too
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
    with page.expect_response(lambda response: "/upload" in response.url):  # it is played before it is sent
        stop.click()
    page.locator("#audio-input").get_by_label("Play", exact=True).wait_for()
    page.wait_for_timeout(1000)
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


def test_the_api_offers_three_endpoints(address: str) -> None:
    endpoints = Client(address, verbose=False).view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/predict", "/annotate", "/nearest"}


def test_the_api_annotates_several_files_and_names_what_is_wrong(
    address: str, tagged: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.mp3").write_text("These are words, not music.\n" * 50)
    client = Client(address, verbose=False)
    files = [handle_file(tagged), handle_file(tmp_path / "notes.mp3")]
    first, second = client.predict(files, "audioart-mmc", api_name="/annotate")
    assert first["file"] == "tagged.mp3"
    assert first["artist"]["name"] == "ABBA"
    assert set(second) == {"file", "error"}
    assert second["error"].startswith("notes.mp3 ")


def test_the_api_names_the_nearest_recordings(address: str, tune: Path) -> None:
    near = Client(address, verbose=False).predict(audio=handle_file(tune), api_name="/nearest")
    assert [set(one) for one in near] == [{"artist", "title", "year", "similarity"}] * 10
    assert near == sorted(near, key=lambda one: -one["similarity"])


def test_the_api_says_what_is_wrong_in_one_sentence(address: str, tmp_path: Path) -> None:
    (tmp_path / "notes.mp3").write_text("These are words, not music.\n" * 50)
    client = Client(address, verbose=False)
    with pytest.raises(AppError, match=r"^[^\n]+\.$"):
        client.predict(audio=handle_file(tmp_path / "notes.mp3"), api_name="/predict")


# Listen


def test_an_example_is_answered_after_two_clicks_and_a_link_brings_it_back(
    visit: Callable[..., Page],
) -> None:
    page = visit()
    page.click("#example-1970s")
    page.locator("#audio-input").get_by_label("Clear").wait_for()
    first = predict(page)
    assert urlsplit(page.url).query == "example=1970s"

    page = visit(query="/?example=1970s&model=audio-suc&artist=ABBA&tab=what-if", shown="#compare-models")
    page.locator("#audio-input").get_by_label("Clear").wait_for()
    assert page.input_value("#artist-input input") == "ABBA"
    page.get_by_role("tab", name="Listen").click()
    predict(page)
    assert "audio-suc only listens" in page.inner_text("#answer .notice")
    assert 1965 <= int(re.search(r"\d{4}", first)[0]) <= 1985


def test_the_files_own_tags_name_the_artist_and_judge_the_guess(
    visit: Callable[..., Page], tagged: Path
) -> None:
    page = visit()
    upload(page, tagged)
    page.wait_for_function("document.querySelector('#artist-input input').value === 'ABBA'")
    page.locator("#biography-source", has_text="ABBA").wait_for()
    assert page.locator("#biography-source .releases rect").count() > 3
    page.get_by_role("button", name="Guess first").click()
    page.get_by_label("I guess before it answers").check()
    page.fill("#guess-input input[type=number]", "1976")
    predict(page)
    assert "The file says 1976" in page.inner_text("#answer .guess")
    page.wait_for_function("/\\d : \\d/.test(document.querySelector('#tally').textContent)")
    tally = page.inner_text("#tally")
    assert tally.startswith("you 1 :")
    page.reload()
    page.get_by_role("button", name="Guess first").click()
    assert page.inner_text("#tally") == tally


def test_what_is_typed_is_not_overwritten_by_tags(visit: Callable[..., Page], tagged: Path) -> None:
    page = visit()
    name_artist(page, "Queen")
    upload(page, tagged)
    predict(page)
    assert page.input_value("#artist-input input") == "Queen"


def test_a_press_on_the_wave_plays_from_there(visit: Callable[..., Page], tune: Path) -> None:
    page = visit()
    upload(page, tune)
    predict(page)
    stretch = page.locator("#attention .seconds button").nth(2)
    start = float(stretch.get_attribute("data-start"))
    assert start > 3
    stretch.click()
    page.wait_for_function(f"document.querySelector('#heard').currentTime > {start}")


def test_another_text_is_read_and_said_to_be_the_listeners(visit: Callable[..., Page], tune: Path) -> None:
    page = visit()
    upload(page, tune)
    page.get_by_role("button", name="What it reads about the artist").click()
    page.locator("#biography-input textarea").press_sequentially("She sang in the 1930s.", delay=5)
    page.locator("#biography-source", has_text="Your own text").wait_for()
    predict(page)
    assert "1930s" in page.inner_text("#attention .words")


def test_wikipedia_is_asked_when_its_button_is_pressed_and_credited(
    visit: Callable[..., Page], tune: Path
) -> None:
    page = visit()
    upload(page, tune)
    ask_wikipedia(page, "Fleetwood Mac")
    page.locator("#biography-source", has_text="CC BY-SA").wait_for()
    address = page.get_attribute("#biography-source a >> nth=0", "href")
    assert address == "https://en.wikipedia.org/wiki/Fleetwood_Mac"
    assert "London in 1967" in page.input_value("#biography-input textarea")
    predict(page)
    assert "London" in page.inner_text("#attention .words")
    page.fill("#artist-input input", "Nobody At All Of This Name")
    page.locator("#biography-source", has_text="Not in the library").wait_for()
    page.click("#wikipedia-button")
    page.locator("#biography-source .problem", has_text="no article").wait_for()


def test_who_is_meant_is_asked_where_several_share_a_name(visit: Callable[..., Page]) -> None:
    page = visit()
    ask_wikipedia(page, "Nirvana")
    page.locator("#biography-source", has_text="Who is meant?").wait_for()
    choices = page.locator("#wikipedia-choices")
    assert choices.get_by_role("radio").count() == len(NIRVANAS)
    choices.get_by_label("Nirvana (British band): British pop group").check()
    page.locator("#biography-source a", has_text="Nirvana (British band)").wait_for()
    assert "began in 1965" in page.input_value("#biography-input textarea")
    choices.wait_for(state="hidden")
    page.fill("#artist-input input", "ABBA")
    page.locator("#biography-source", has_text="ABBA").wait_for()
    assert "1965" not in page.input_value("#biography-input textarea")


def test_wikipedias_text_taken_out_by_hand_leaves_the_librarys(
    visit: Callable[..., Page], tune: Path
) -> None:
    page = visit()
    upload(page, tune)
    ask_wikipedia(page, "Fleetwood Mac")
    page.locator("#biography-source", has_text="CC BY-SA").wait_for()
    page.fill("#biography-input textarea", "")
    page.locator("#biography-source", has_text="From the library").wait_for()
    predict(page)
    assert "London in 1967" not in page.inner_text("#attention .words")
    answer = json.loads(page.get_attribute("#answer-data [data-answer]", "data-answer"))["prediction"]
    assert answer["artist"]["source"] == "library"


def test_a_recording_drawn_by_lot_is_shown_with_its_neighbours(visit: Callable[..., Page]) -> None:
    page = visit()
    page.click("#surprise-button")
    page.locator("#answer", has_text="Drawn by lot").wait_for()
    page.locator("#embedding-map .legendtext", has_text="drawn by lot").wait_for()
    assert page.locator("#neighbours tbody tr").count() == 10
    link = page.locator("#neighbours a").first
    title = link.inner_text()
    assert urlsplit(link.get_attribute("href")).hostname == "www.youtube.com"
    assert quote_plus(title) in link.get_attribute("href")
    assert not page.locator("[data-save=json]").is_visible()


def test_a_decade_is_switched_off_the_map_by_keyboard(visit: Callable[..., Page]) -> None:
    page = visit()
    shown = (
        "document.querySelector('#embedding-map .js-plotly-plot').data.find(t => t.name === '1970s').visible"
    )
    toggle = page.get_by_role("group", name="Decades on the map").get_by_role("button", name="1970s")
    toggle.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"{shown} === false")
    assert toggle.get_attribute("aria-pressed") == "false"
    page.keyboard.press("Space")
    page.wait_for_function(f"{shown} === true")


def test_a_link_to_the_page_as_it_stands_is_copied(visit: Callable[..., Page], tune: Path) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    upload(page, tune)
    name_artist(page, "ABBA")
    predict(page)
    page.click("[data-save=link]")
    page.locator("#share [data-copied]", has_text="Copied.").wait_for()
    assert "artist=ABBA" in page.evaluate("navigator.clipboard.readText()")


def test_noise_is_answered_with_a_warning(visit: Callable[..., Page], tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(44100 * 6)
    soundfile.write(tmp_path / "noise.wav", noise, 44100)
    page = visit()
    upload(page, tmp_path / "noise.wav")
    predict(page)
    assert "unlike the music" in page.inner_text("#answer .notice")


def test_an_answer_is_saved_as_numbers_and_as_a_picture(
    visit: Callable[..., Page], tune: Path, tmp_path: Path
) -> None:
    page = visit()
    upload(page, tune)
    assert not page.locator("[data-save=json]").is_visible()
    predict(page)
    for name in ("json", "card"):
        with page.expect_download() as download:
            page.click(f"[data-save={name}]")
        download.value.save_as(tmp_path / name)
    assert list(json.loads((tmp_path / "json").read_text())) == [
        field.name for field in fields(EraPrediction)
    ]
    picture = (tmp_path / "card").read_bytes()
    assert picture[1:4] == b"PNG"
    assert int.from_bytes(picture[16:20]) == 1200


# What if, and live


def test_one_thing_is_changed_and_the_answers_are_compared(visit: Callable[..., Page], tune: Path) -> None:
    page = visit()
    upload(page, tune)
    name_artist(page, "ABBA")
    page.get_by_role("tab", name="What if").click()
    page.click("#compare-models")
    page.locator("#models-table td").first.wait_for()
    assert page.locator("#models-table tbody th").all_inner_texts() == [
        "audioart-mmc",
        "audio-suc",
        "audio-cnn",
    ]

    page.locator("#other-artist-input input").press_sequentially("madon", delay=20)
    page.get_by_role("option", name="Madonna", exact=True).click()
    page.click("#compare-artists")
    page.locator("#artists-table td").first.wait_for()
    assert page.locator("#artists-table tbody th").all_inner_texts() == ["ABBA", "Madonna"]

    for name in ("a radio of the 1930s", "a loud master of the 2000s"):
        page.get_by_label(name).check()
        page.locator("#sounds-table tbody th", has_text=name).wait_for()
        page.locator("#sounds-curves .legendtext", has_text=name).wait_for()
    for player in ("unchanged-sound", "changed-sound"):
        page.locator(f"#{player}").get_by_text("0:10").wait_for()
    for curves in ("models", "artists", "sounds"):
        box = page.locator(f"#{curves}-curves .main-svg").first.bounding_box()
        assert box["height"] > 100
        assert box["width"] > 400


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_curves_move_to_another_answer_unless_motion_is_unwanted(
    visit: Callable[..., Page], tune: Path, motion: str
) -> None:
    page = visit(reduced_motion=motion)
    upload(page, tune)
    page.get_by_role("tab", name="What if").click()
    page.get_by_label("a phone in a room").check()
    page.locator("#sounds-curves .legendtext", has_text="phone").wait_for()
    page.wait_for_timeout(2000)
    page.evaluate("""() => {
        window.seen = new Set();
        const look = () => {
            const plot = document.querySelector("#sounds-curves .js-plotly-plot");
            if (plot?.data) window.seen.add(String(plot.data[1].y));
            requestAnimationFrame(look);
        };
        look();
    }""")
    page.get_by_label("nothing above 4 kHz").check()
    page.locator("#sounds-curves .legendtext", has_text="4 kHz").wait_for()
    page.wait_for_timeout(2000)
    seen = page.evaluate("window.seen.size")
    assert seen == 2 if motion == "reduce" else seen > 3


def test_without_a_recording_nothing_is_compared(visit: Callable[..., Page]) -> None:
    page = visit()
    page.get_by_role("tab", name="What if").click()
    for button, place in (("compare-models", "models"), ("compare-artists", "artists")):
        page.click(f"#{button}")
        page.locator(f"#{place}-table .problem", has_text="no recording yet").wait_for()


def test_the_needle_follows_the_microphone_and_agrees_in_the_end(
    visit: Callable[..., Page], address: str, tmp_path: Path
) -> None:
    page = visit()
    page.get_by_role("tab", name="Live").click()
    page.locator("#live-input .record-button").click()
    page.locator("#needle .scale").wait_for()
    first = page.inner_text("#needle .aside")
    page.wait_for_function(f"document.querySelector('#needle .aside').textContent !== {json.dumps(first)}")
    page.wait_for_timeout(4000)
    page.locator("#live-input .stop-button").click()
    page.locator("#needle .aside", has_text="seconds together say").wait_for()
    heard, year = map(int, re.findall(r"\d+", page.inner_text("#needle .aside")))
    soundfile.write(tmp_path / "same.wav", melody(heard, 48000), 48000)
    same = Client(address, verbose=False).predict(
        audio=handle_file(tmp_path / "same.wav"), api_name="/predict"
    )
    low, high = same["interval"]
    assert low <= year <= high


def test_two_people_listen_live_and_each_has_a_needle(browser: Browser, visit: Callable[..., Page]) -> None:
    hears, is_deaf = visit(), visit(query="/?tab=live", shown="#live-input .record-button")
    is_deaf.evaluate("""() => {
        const devices = navigator.mediaDevices, listen = devices.getUserMedia.bind(devices);
        devices.getUserMedia = async (asked) => {
            const stream = await listen(asked);
            for (const track of stream.getTracks()) track.enabled = false;  // silence
            return stream;
        };
    }""")
    hears.get_by_role("tab", name="Live").click()
    hears.wait_for_timeout(2000)  # Gradio's recorder is loaded after the page
    for page in (is_deaf, hears):
        page.locator("#live-input .record-button").click()
    hears.locator("#needle .scale").wait_for()
    heard = "Number(document.querySelector('#needle .aside').textContent.match(/\\d+/)[0])"
    hears.wait_for_function(f"{heard} >= 6")
    assert "hear nothing" in is_deaf.inner_text("#needle")
    for page in (is_deaf, hears):
        page.locator("#live-input .stop-button").click()
    hears.locator("#needle .aside", has_text="seconds together say").wait_for()
    assert is_deaf.locator("#needle .scale").count() == 0


def test_the_microphone_is_asked_for_music(visit: Callable[..., Page]) -> None:
    heard = visit().evaluate(
        "navigator.mediaDevices.getUserMedia({audio: true}).then(s => s.getAudioTracks()[0].getSettings())"
    )
    cleaned = ("noiseSuppression", "echoCancellation", "autoGainControl")
    assert [heard[name] for name in cleaned] == [False] * 3


def test_the_upload_lists_its_extensions(visit: Callable[..., Page], tune: Path) -> None:
    page = visit()
    field = "#audio-input input[type=file]"
    page.wait_for_function(f"document.querySelector('{field}').accept.startsWith('.wav,.mp3,')")
    upload(page, tune)
    page.locator("#audio-input").get_by_label("Clear").click()
    page.wait_for_function(f"document.querySelector('{field}')?.accept.startsWith('.wav,.mp3,')")


# Care


@pytest.mark.parametrize("locale", ["en-GB", "de-DE", "fr-FR", "es-MX", "ja-JP"])
def test_the_page_speaks_the_readers_language(visit: Callable[..., Page], tune: Path, locale: str) -> None:
    say = Texts(locale[:2])
    page = visit(locale=locale)
    page.locator("h1", has_text=say("What year is this music from?")).wait_for()
    page.locator("#predict-button", has_text=say("Name the year")).wait_for()
    page.locator("#answer", has_text=say("Give me a recording, and I will name its year.")).wait_for()
    upload_in(page, tune)
    predict(page)
    page.locator("#attention .share", has_text=say("sound")).wait_for()
    page.get_by_role("tab", name=say("Live")).click()
    page.locator("#needle", has_text=say("I hear nothing yet. Play me some music.")).wait_for()
    assert "__i18n__" not in page.inner_text("body")


def upload_in(page: Page, path: Path) -> None:
    """As ``upload``, whatever the language of Gradio's buttons."""
    page.set_input_files("#audio-input input[type=file]", path)
    page.locator("#audio-input #waveform").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_a_screen_reader(
    visit: Callable[..., Page], tune: Path, scheme: str
) -> None:
    page = visit(color_scheme=scheme, query="/?__theme=" + scheme)
    upload(page, tune)
    name_artist(page, "ABBA")
    predict(page)
    page.add_script_tag(path=Path(axe_playwright_python.__file__).with_name("axe.min.js"))
    for tab in ("Listen", "What if", "Live"):
        page.get_by_role("tab", name=tab).click()
        if tab == "What if":
            page.click("#compare-models")
            page.locator("#models-curves .main-svg").first.wait_for()
        page.wait_for_timeout(500)
        found = page.evaluate("axe.run()")["violations"]
        grave = [one for one in found if one["impact"] in ("serious", "critical")]
        assert [(tab, one["id"], one["nodes"][0]["target"]) for one in grave] == []


def test_every_control_is_reached_by_keyboard_and_has_a_name(visit: Callable[..., Page], tune: Path) -> None:
    page = visit()
    upload(page, tune)
    name_artist(page, "ABBA")
    predict(page)
    reached = []
    while len(reached) < 300:  # from the button to the page's end, and on from its beginning
        page.keyboard.press("Tab")
        if page.evaluate("'reached' in document.activeElement.dataset"):
            break
        page.evaluate("document.activeElement.dataset.reached = ''")
        if page.evaluate("document.activeElement !== document.body"):
            reached.append(page.locator("*:focus").aria_snapshot().splitlines()[0])
    assert [control for control in reached if '"' not in control] == []
    missed = page.evaluate("""() =>
        [...document.querySelectorAll("a[href], button, input, textarea, select")]
            .filter((one) => one.checkVisibility({visibilityProperty: true}) && !one.disabled)
            .filter((one) => one.tabIndex >= 0 && one.type !== "radio" && !("reached" in one.dataset))
            .map((one) => one.outerHTML.slice(0, 200))
    """)
    assert missed == []
    for name in ("1970s", "Artist (optional)", "Name the year", "Guess first", "What if", "Save as JSON"):
        assert any(name in control for control in reached)


def test_two_people_do_not_see_each_others_answers(
    visit: Callable[..., Page], tune: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "other.wav", melody(8, seed=5), 44100)
    pages = [visit(), visit()]
    for page, name, sound in zip(pages, ("ABBA", "Queen"), (tune, tmp_path / "other.wav"), strict=True):
        upload(page, sound)
        name_artist(page, name)
    for page in pages:
        page.click("#predict-button")
    for page, name in zip(pages, ("ABBA", "Queen"), strict=True):
        page.locator("#answer .sentence").wait_for()
        assert page.inner_text("#attention .words").startswith(name)
    ends = [page.inner_text("#attention .clock span >> nth=1") for page in pages]
    assert ends == ["0:10", "0:08"]


def test_a_name_typed_over_another_is_read_from_the_library(visit: Callable[..., Page], tune: Path) -> None:
    page = visit()
    upload(page, tune)
    name_artist(page, "ABBA")
    page.locator("#biography-source", has_text="ABBA").wait_for()
    page.fill("#artist-input input", "Queen")
    page.press("#artist-input input", "Enter")
    page.locator("#attention .words", has_text="Queen").wait_for()
    answer = json.loads(page.get_attribute("#answer-data [data-answer]", "data-answer"))["prediction"]
    assert answer["artist"]["source"] == "library"


def test_who_waits_sees_it_and_can_stop(visit: Callable[..., Page], address: str, tune: Path) -> None:
    page = visit()
    upload(page, tune)
    stop = page.locator("#input-column .stops")
    assert not stop.is_visible()
    with busy(page, address, tune):
        page.click("#predict-button")
        page.locator("#answer", has_text=re.compile(r"queue: \d/\d")).wait_for()
        stop.click()
        stop.wait_for(state="hidden")
    page.wait_for_timeout(1500)
    assert page.locator("#answer .sentence").count() == 0
    predict(page)
    stop.wait_for(state="hidden")


def test_what_is_compared_can_be_stopped_and_asked_again(
    visit: Callable[..., Page], address: str, tune: Path
) -> None:
    page = visit()
    upload(page, tune)
    page.get_by_role("tab", name="What if").click()
    changed = page.get_by_label("a phone in a room")
    stops = {place: page.locator(f"#{place} .stops") for place in ("models", "artists", "sounds")}
    with busy(page, address, tune):
        page.click("#compare-models")
        page.press("#other-artist-input input", "Enter")
        changed.check()
        for stop in stops.values():
            stop.click()
            stop.wait_for(state="hidden")
    page.wait_for_timeout(1500)
    assert page.locator(".experiment table").count() == 0
    assert not changed.is_checked()
    changed.check()
    page.locator("#sounds-table table").wait_for()
    stops["sounds"].wait_for(state="hidden")


@contextmanager
def busy(page: Page, address: str, sound: Path) -> Iterator[None]:
    """Somebody else's forty files are being answered; at the end they are."""
    others = Client(address, verbose=False).submit([handle_file(sound)] * 40, api_name="/annotate")
    while others.status().code.name != "PROCESSING":  # the files have been sent, and the model is taken
        page.wait_for_timeout(50)
    yield
    assert len(others.result()) == 40


def test_a_file_name_may_hold_anything(visit: Callable[..., Page], tune: Path, tmp_path: Path) -> None:
    path = tmp_path / "a #1'%20?<b>.mp3"
    shutil.copy(tune, path)
    page = visit()
    upload(page, path)
    predict(page)
    page.locator("#attention .seconds button").nth(2).click()
    page.wait_for_function("document.querySelector('#heard').currentTime > 3")


def test_a_browser_that_keeps_nothing_still_answers_and_counts(
    browser: Browser, address: str, tagged: Path
) -> None:
    page = browser.new_page()
    page.set_default_timeout(WAIT)
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('refused') }})"
    )
    page.goto(address)
    page.locator("#embedding-map .main-svg").first.wait_for()
    upload(page, tagged)
    page.get_by_role("button", name="Guess first").click()
    page.get_by_label("I guess before it answers").check()
    page.fill("#guess-input input[type=number]", "1976")
    predict(page)
    page.wait_for_function("/you 1 :/.test(document.querySelector('#tally').textContent)")
    page.close()


def test_the_last_of_several_presses_is_answered(visit: Callable[..., Page], tune: Path) -> None:
    page = visit()
    upload(page, tune)
    name_artist(page, "ABBA")
    page.click("#predict-button")
    page.fill("#artist-input input", "Queen")
    page.press("#artist-input input", "Enter")
    page.locator("#attention .words", has_text="Queen").wait_for()
    page.locator("#input-column .stops").wait_for(state="hidden")


def test_a_server_that_comes_back_is_noticed(
    browser: Browser, tune: Path, tmp_path: Path, encyclopedia: str
) -> None:
    port = free_port()
    page = browser.new_page()
    page.set_default_timeout(WAIT)
    with running(port, tmp_path, encyclopedia) as address:
        page.goto(address)
        page.locator("#embedding-map .main-svg").first.wait_for()
        assert not page.locator("#lost").is_visible()
    page.locator("#lost", has_text="lost its server").wait_for()
    with running(port, tmp_path, encyclopedia):
        page.locator("#lost").wait_for(state="hidden")
        upload(page, tune)
        assert re.search(r"\d{4}", predict(page))
    page.close()


@pytest.mark.parametrize("width", [390, 768, 1366, 1920])
def test_the_first_screen_holds_input_and_answer_and_nothing_is_cut_off(
    visit: Callable[..., Page], tune: Path, width: int
) -> None:
    page = visit((width, 768))
    upload(page, tune)
    predict(page)
    page.wait_for_timeout(800)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("era-distribution", "embedding-map"):
        outer, drawn = (
            page.locator(f"#{name}").bounding_box(),
            page.locator(f"#{name} .main-svg").first.bounding_box(),
        )
        assert drawn["height"] > 200
        assert 0.9 * outer["width"] <= drawn["width"] <= outer["width"] + 1
    if width >= 1366:
        button, years = (
            page.locator("#predict-button").bounding_box(),
            page.locator("#era-distribution").bounding_box(),
        )
        assert button["y"] + button["height"] <= 768
        assert years["y"] + 200 <= 768


def test_behind_a_path_prefix_everything_works(
    visit: Callable[..., Page], tune: Path, tmp_path: Path, encyclopedia: str
) -> None:
    with running(free_port(), tmp_path, encyclopedia, prefix="/era") as app:
        with serving(type("Fronting", (Proxy,), {"app": app})) as front:
            page = visit(
                query="/era/?example=1970s&artist=ABBA",
                base=front,
                permissions=["clipboard-read", "clipboard-write"],
            )
            page.locator("#audio-input").get_by_label("Clear").wait_for()
            page.locator("#biography-source", has_text="ABBA").wait_for()
            assert re.search(r"\d{4}", predict(page))
            page.locator("#attention .seconds button").nth(2).click()
            page.wait_for_function("document.querySelector('#heard').currentTime > 3")
            page.click("[data-save=link]")
            page.locator("#share [data-copied]", has_text="Copied.").wait_for()
            link = urlsplit(page.evaluate("navigator.clipboard.readText()"))
            assert (link.path, set(link.query.split("&"))) == ("/era/", {"example=1970s", "artist=ABBA"})
            with page.expect_response(lambda answer: "/app_id" in answer.url) as alive:
                assert alive.value.ok
            assert not page.locator("#lost").is_visible()
            assert curl(f"{front}/era", tune, tmp_path)["artist"]["name"] == "Fleetwood Mac"


def curl(address: str, sound: Path, folder: Path) -> dict:
    """The answer that the README's lines for curl fetch."""
    script = re.search(r"```sh\n(page=.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    shutil.copy(sound, folder / "song.mp3")
    script = script.replace("http://127.0.0.1:7860", address)
    said = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60).stdout
    return json.loads(re.search(r"event: complete\ndata: (.*)", said)[1])[0]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_readmes_lines_for_curl_fetch_an_answer(address: str, tune: Path, tmp_path: Path) -> None:
    assert curl(address, tune, tmp_path)["artist"]["name"] == "Fleetwood Mac"
