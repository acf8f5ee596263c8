"""A server on this machine answers as Wikipedia does; nothing here asks the real one."""

import gzip
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest

from erarec import __version__, wikipedia
from erarec.wikipedia import (
    Article,
    Choices,
    LookupFailed,
    NothingFound,
    TookTooLong,
    Unreachable,
    Unreadable,
    Wikipedia,
)

SUMMARY = "/api/rest_v1/page/summary/"
SEARCH = "/w/rest.php/v1/search/page"
Answer = Callable[[BaseHTTPRequestHandler], None]


def summary(
    title: str, description: str | None, extract: str, kind: str = "standard", space: int = 0
) -> dict:
    """As https://www.mediawiki.org/wiki/Specs/Summary/1.3.0 has it, the parts about pictures left out."""
    key = title.replace(" ", "_")
    about = {} if description is None else {"description": description, "description_source": "local"}
    return {
        "type": kind,
        "title": title,
        "displaytitle": f'<span class="mw-page-title-main">{title}</span>',
        "namespace": {"id": space, "text": ""},
        "wikibase_item": "Q106648",
        "titles": {"canonical": key, "normalized": title, "display": f"<span>{title}</span>"},
        "pageid": 23301,
        "lang": "en",
        "dir": "ltr",
        "revision": "1310000000",
        "timestamp": "2025-09-05T10:12:31Z",
        "content_urls": {"desktop": {"page": f"https://en.wikipedia.org/wiki/{key}"}},
        "extract": extract,
        "extract_html": f"<p>{extract}</p>",
    } | about


def reply(content: object, status: int = 200, **headers: str) -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def drip(before: bytes, drop: bytes) -> Answer:
    """A beginning at once, then a few bytes at a time, without end."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(before)
        while True:
            request.wfile.write(drop)
            time.sleep(0.05)

    return answer


def flood(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b'HTTP/1.0 200 OK\r\n\r\n{"extract": "')
    while True:
        request.wfile.write(b"la" * 5000)


def found(*options: tuple[str, str | None]) -> Answer:
    pages = [
        {"id": 1, "key": title.replace(" ", "_"), "title": title, "excerpt": "<b>x</b>", "description": about}
        for title, about in options
    ]
    return reply({"pages": pages})


MISSING = reply({"status": 404, "type": "Internal error"}, 404)
MAC = Article(
    "Fleetwood Mac",
    "Fleetwood Mac are a British-American rock band formed in London in 1967.",
    "https://en.wikipedia.org/wiki/Fleetwood_Mac",
    "British-American rock band",
)
MAC_PAGE = reply(summary(MAC.title, MAC.description, MAC.text))


class Server:
    """``answers`` by path; what was ``asked``, and with which headers."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.headers.append(dict(self.headers))
                with suppress(ConnectionError):
                    outer.answers.get(self.path.partition("?")[0], MISSING)(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def page(self, title: str, answer: Answer) -> None:
        self.answers[SUMMARY + title] = answer

    def searched(self) -> list[str]:
        """What was searched for, with the address checked."""
        queries = [urlsplit(path) for path in self.asked if not path.startswith(SUMMARY)]
        assert all(query.path == SEARCH and not query.fragment for query in queries)
        fields = [parse_qs(query.query, strict_parsing=True) for query in queries]
        assert all(set(field) == {"q", "limit"} and len(field["q"]) == 1 for field in fields)
        return [field["q"][0] for field in fields]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Server]]:
    monkeypatch.setenv("NO_PROXY", "*")
    started: list[Server] = []

    def start() -> Server:
        started.append(Server())
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def server(servers: Callable[[], Server]) -> Server:
    """Knows one band, and finds nobody by searching."""
    server = servers()
    server.page("Fleetwood_Mac", MAC_PAGE)
    server.answers[SEARCH] = found()
    return server


@pytest.fixture
def wiki(server: Server, tmp_path: Path) -> Wikipedia:
    """Patient, so that no claim but those about time depends on how busy the machine is."""
    return Wikipedia(tmp_path / "cache", server.url, seconds=60)


# What is found


def test_the_lead_of_a_band_is_found_with_what_a_credit_needs(server: Server, wiki: Wikipedia) -> None:
    assert wiki.look_up("Fleetwood Mac") == MAC
    assert server.asked == [f"{SUMMARY}Fleetwood_Mac"]
    assert server.headers[0]["User-Agent"].startswith(f"erarec/{__version__} ")


def test_another_name_leads_to_the_article(server: Server, wiki: Wikipedia) -> None:
    server.page("fleetwood_mac", reply(b"", 301, location="Fleetwood_mac"))
    server.page("Fleetwood_mac", reply(b"{}", 302, location="Fleetwood_Mac"))
    assert wiki.look_up(" fleetwood\n mac ") == MAC


@pytest.mark.parametrize("place", ["http://{}:{}/evil", "//{}:{}/evil", "http://127.0.0.1@{}:{}/evil"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_redirect_that_leaves_the_host_is_refused(
    server: Server, servers: Callable[[], Server], wiki: Wikipedia, place: str, host: str
) -> None:
    evil = servers()
    evil.answers["/evil"] = MAC_PAGE
    server.page("X", reply(b"", 302, location=place.format(host, evil.port)))
    with pytest.raises(Unreadable):
        wiki.look_up("X")
    assert evil.asked == []


def test_a_redirect_to_another_scheme_is_refused(server: Server, wiki: Wikipedia) -> None:
    server.page("X", reply(b"", 302, location=f"https://127.0.0.1:{server.port}{SUMMARY}Fleetwood_Mac"))
    with pytest.raises(Unreadable):
        wiki.look_up("X")


def test_redirects_in_a_circle_end(server: Server, wiki: Wikipedia) -> None:
    server.page("X", reply(b"", 302, location="X"))
    with pytest.raises(Unreadable):
        wiki.look_up("X")
    assert len(server.asked) < 10


NIRVANA = [("Nirvana (band)", "American rock band"), ("Nirvana (British band)", None)]


def test_a_name_with_many_meanings_gives_the_musicians_to_choose_from(
    server: Server, wiki: Wikipedia
) -> None:
    page = summary("Nirvana (disambiguation)", "Topics referred to by the same term", "Nirvana may be:")
    server.page("Nirvana", reply(page | {"type": "disambiguation"}))
    server.answers[SEARCH] = found(*NIRVANA)
    choices = wiki.look_up("Nirvana")
    assert choices == Choices(
        "Nirvana", (("Nirvana (band)", "American rock band"), ("Nirvana (British band)", ""))
    )
    assert server.searched() == ['intitle:"Nirvana" hastemplate:"Infobox musical artist"']


def test_who_is_known_for_something_else_is_a_choice_after_the_musicians(
    server: Server, wiki: Wikipedia
) -> None:
    server.page("Chicago", reply(summary("Chicago", "City in Illinois", "Chicago is a city with music.")))
    server.answers[SEARCH] = found(("Chicago (band)", "American rock band"))
    choices = wiki.look_up("Chicago")
    assert isinstance(choices, Choices)
    assert [title for title, _ in choices.options] == ["Chicago (band)", "Chicago"]
    assert wiki.article("Chicago").description == "City in Illinois"


def test_a_musician_is_known_by_the_article_where_its_description_does_not_tell(
    server: Server, wiki: Wikipedia
) -> None:
    server.page("A", reply(summary("A", None, "A was a singer from Bahia.")))
    server.page("B", reply(summary("B", "Belgian nun", "B was a nun from Wavre.")))
    server.answers[SEARCH] = found(("B", "Belgian nun"), ("B (band)", "Punk band"))
    for title in "AB":
        answer = wiki.look_up(title)
        assert isinstance(answer, Article)
        assert answer.title == title


def test_an_article_without_musicians_beside_it_is_shown(server: Server, wiki: Wikipedia) -> None:
    server.page("B", reply(summary("B", "Belgian nun", "B was a nun from Wavre.")))
    assert wiki.look_up("B") == Article(
        "B", "B was a nun from Wavre.", "https://en.wikipedia.org/wiki/B", "Belgian nun"
    )


def test_a_name_that_is_no_title_gives_who_may_be_meant(server: Server, wiki: Wikipedia) -> None:
    server.answers[SEARCH] = found(("The Beatles", "English rock band"))
    assert wiki.look_up("Beatles, The") == Choices("Beatles, The", (("The Beatles", "English rock band"),))
    assert server.searched() == ['Beatles, The hastemplate:"Infobox musical artist"']


@pytest.mark.parametrize("status", [400, 404])
def test_what_is_missing_is_said_to_be(server: Server, wiki: Wikipedia, status: int) -> None:
    server.page("Nobody", reply({"type": "Internal error"}, status))
    with pytest.raises(NothingFound, match="no article"):
        wiki.look_up("Nobody")
    with pytest.raises(NothingFound):
        wiki.article("Nobody")


def test_pages_about_users_and_pages_without_text_are_no_articles(server: Server, wiki: Wikipedia) -> None:
    server.page("User%3AMe", reply(summary("User:Me", "singer", "I am the best.", space=2)))
    server.page("Main_Page", reply(summary("Main Page", None, " ", kind="mainpage")))
    for title in ("User:Me", "Main Page"):
        for ask in (wiki.look_up, wiki.article):
            with pytest.raises(NothingFound):
                ask(title)


# What goes wrong

HEAD = b"HTTP/1.0 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        drip(b"", b""),
        drip(b"HTTP/1.0 200 OK\r\n", b"X: y\r\n"),
        drip(HEAD, b" "),
        drip(b"HTTP/1.0 302 Found\r\nLocation: /elsewhere\r\n", b"X: y\r\n"),
    ],
    ids=["silent", "headers", "body", "redirect"],
)
def test_a_slow_server_is_given_up(server: Server, tmp_path: Path, answer: Answer) -> None:
    server.page("X", answer)
    start = time.monotonic()
    with pytest.raises(TookTooLong, match="too long"):
        Wikipedia(tmp_path, server.url, seconds=0.4).look_up("X")
    assert 0.3 < time.monotonic() - start < 20


def test_the_deadline_is_for_all_requests_of_a_look_up_together(server: Server, tmp_path: Path) -> None:
    def slowly(answer: Answer) -> Answer:
        return lambda request: (time.sleep(0.4), answer(request))[1]

    for number in range(3):
        server.page(f"X{number}", slowly(reply(b"", 302, location=f"X{number + 1}")))
    server.page("X3", slowly(MAC_PAGE))
    with pytest.raises(TookTooLong):
        Wikipedia(tmp_path, server.url, seconds=1).look_up("X0")


def test_a_slow_name_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(40) and [])
    start = time.monotonic()
    with pytest.raises(TookTooLong):
        Wikipedia(tmp_path, "http://wikipedia.invalid", seconds=0.4).look_up("X")
    assert time.monotonic() - start < 20
    answered.set()


GOOD = summary("X", "singer", "X sings.")


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<html>Log in to the hotel's network</html>"),
        reply(b""),
        reply(b'{"extract": "cut o'),
        reply(b"\xff\xfe\x00"),
        reply(b"[" * 100_000),
        reply([GOOD]),
        reply("X sings."),
        reply(7),
        reply(GOOD | {"extract": None}),
        reply(GOOD | {"extract": ["X sings."]}),
        reply(GOOD | {"titles": "X"}),
        reply(GOOD | {"namespace": 0}),
        reply(gzip.compress(json.dumps(GOOD).encode()), content_encoding="gzip"),
        reply({"error": "too many requests"}, 429),
        reply(b"", 503),
        reply(GOOD, 206),
        lambda request: request.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        lambda request: request.wfile.write(b'HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{"ex'),
        reply(b"", 302, location="http://[::1"),
        reply(b"", 302, location="mailto:x"),
    ],
)
def test_what_is_no_summary_is_said_to_be_unreadable(server: Server, wiki: Wikipedia, answer: Answer) -> None:
    server.page("X", answer)
    with pytest.raises(Unreadable, match="cannot be read"):
        wiki.look_up("X")


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<html></html>"),
        reply([]),
        reply({"pages": None}),
        reply({"pages": {"a": 1}}),
        reply({"pages": ["Nirvana"]}),
        reply({"pages": [{"key": "Nirvana"}]}),
        reply(b"", 404),
    ],
)
def test_what_is_no_list_of_pages_is_said_to_be_unreadable(
    server: Server, wiki: Wikipedia, answer: Answer
) -> None:
    server.answers[SEARCH] = answer
    with pytest.raises(Unreadable):
        wiki.look_up("X")


def test_an_answer_without_end_is_cut_off(server: Server, wiki: Wikipedia) -> None:
    server.page("X", flood)
    with pytest.raises(Unreadable):
        wiki.look_up("X")


def test_an_answer_too_large_is_refused(server: Server, wiki: Wikipedia) -> None:
    server.page("X", reply(GOOD | {"extract": "X sings. " + "La " * 100_000}))
    with pytest.raises(Unreadable):
        wiki.look_up("X")


def test_a_server_that_is_not_there_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.socket() as bound:  # bound, but not listening: refused
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="cannot be reached"):
            Wikipedia(tmp_path, f"http://127.0.0.1:{bound.getsockname()[1]}", seconds=60).look_up("X")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks://127.0.0.1:9", "http://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_no_crash(
    server: Server, wiki: Wikipedia, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(Unreachable):
        wiki.look_up("Fleetwood Mac")
    assert server.asked == []


def test_every_failure_is_one_sentence() -> None:
    for failure in (NothingFound(), Unreachable(), TookTooLong(), Unreadable()):
        assert isinstance(failure, LookupFailed)
        assert re.fullmatch(r"Wikipedia [^.\n]+\.", str(failure))


# What people type


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "..",
        ".",
        "x/../../../../w/api.php",
        "/..",
        "a?b#c",
        "http://evil/",
        "//evil/x",
        "@evil:80/",
        "A/B",
        "AC/DC",
        "%2e%2e%2fx",
        "\\..\\x",
        "a\r\nHost: evil\r\n\r\nGET /x",
        "a\x00b",
        "\ud800",
        "a&limit=500",
        "a;b",
        'x" insource:/./ "',
        "!!!",
        "",
        " \n ",
        "Björk",
        "Кино",
        "x" * 250,
        "x" * 10_000,
        "ж" * 10_000,
        "/" * 200,
    ],
)
def test_no_name_leads_to_another_address(server: Server, wiki: Wikipedia, name: str) -> None:
    for ask in (wiki.look_up, wiki.article):
        with pytest.raises(NothingFound):
            ask(name)
    titles = [path.removeprefix(SUMMARY) for path in server.asked if path.startswith(SUMMARY)]
    for title in titles:
        assert re.fullmatch(r"[\w%.~-]+", title, re.ASCII)
        assert title not in (".", "..")
        assert unquote(title).split("_") == re.sub(r"[\x00\ud800]", " ", name).split()
    for query in server.searched():
        words = query.removesuffix(' hastemplate:"Infobox musical artist"')
        assert len(query) < 300
        assert words != query
        assert not set(words) & set('":/*~?')
    assert all(headers["Host"] == f"127.0.0.1:{server.port}" for headers in server.headers)


@pytest.mark.parametrize("name", ["", "\n", "..", "../x", "a/../b", "a/.", "x" * 10_000, "ж" * 200])
def test_what_can_be_no_title_is_not_asked_for(server: Server, wiki: Wikipedia, name: str) -> None:
    with pytest.raises(NothingFound):
        wiki.look_up(name)
    assert server.asked == []


def test_a_title_with_signs_is_found_and_linked(server: Server, wiki: Wikipedia) -> None:
    server.page("AC%2FDC", reply(summary("AC/DC", "Australian rock band", "AC/DC are a band.")))
    answer = wiki.look_up("AC/DC")
    assert isinstance(answer, Article)
    assert answer.url == "https://en.wikipedia.org/wiki/AC%2FDC"


def test_nothing_typed_is_logged_and_others_still_are(
    server: Server, wiki: Wikipedia, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.page("Secret", reply(b"", 302, location="Secretive"))
    server.page("Nobody", MISSING)
    for name in ("Secret", "Nobody", "a/../b"):
        with pytest.raises(NothingFound):
            wiki.look_up(name)
    server.page("Slow", drip(b"", b""))
    with pytest.raises(TookTooLong):
        Wikipedia(Path(os.devnull), server.url, seconds=0.2).look_up("Slow")
    assert not re.search("secret|nobody|slow|summary", caplog.text, re.IGNORECASE)
    httpx.get(f"{server.url}{SUMMARY}Nobody")
    assert "Nobody" in caplog.text


# What is kept


def age(folder: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    for path in folder.iterdir():
        os.utime(path, (then, then))


def test_an_answer_is_asked_for_once(server: Server, wiki: Wikipedia, tmp_path: Path) -> None:
    server.page("Nirvana", reply(summary("Nirvana", "Meanings", "It may be:", kind="disambiguation")))
    server.answers[SEARCH] = found(*NIRVANA)
    answers = [wiki.look_up("Fleetwood Mac"), wiki.article("Fleetwood Mac"), wiki.look_up("Nirvana")]
    server.answers[SEARCH] = found()
    with pytest.raises(NothingFound):
        wiki.look_up("Nobody")
    asked = len(server.asked)
    again = Wikipedia(tmp_path / "cache", server.url, seconds=60)
    assert [
        again.look_up("Fleetwood Mac"),
        again.article("Fleetwood Mac"),
        again.look_up("Nirvana"),
    ] == answers
    with pytest.raises(NothingFound):
        again.look_up("Nobody")
    assert len(server.asked) == asked


def test_what_is_kept_gets_old_and_what_is_missing_sooner(
    server: Server, wiki: Wikipedia, tmp_path: Path
) -> None:
    def asks(name: str) -> bool:
        before = len(server.asked)
        with suppress(NothingFound):
            wiki.look_up(name)
        return len(server.asked) > before

    assert asks("Fleetwood Mac")
    assert asks("Nobody")
    age(tmp_path / "cache", 0.9)
    assert not asks("Fleetwood Mac")
    assert not asks("Nobody")
    age(tmp_path / "cache", 1.1)
    assert not asks("Fleetwood Mac")
    assert asks("Nobody")
    age(tmp_path / "cache", 30.1)
    assert asks("Fleetwood Mac")


@pytest.mark.parametrize("failing", [reply(b"", 503), reply(b"<html>")])
def test_failures_are_not_kept(server: Server, wiki: Wikipedia, tmp_path: Path, failing: Answer) -> None:
    server.page("Fleetwood_Mac", failing)
    with pytest.raises(Unreadable):
        wiki.look_up("Fleetwood Mac")
    server.page("Fleetwood_Mac", MAC_PAGE)
    assert wiki.look_up("Fleetwood Mac") == MAC


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"title": "Fl',
        b"\xff\x00",
        b"[" * 100_000,
        b"[]",
        b"7",
        b"{}",
        b'{"title": "X", "text": 7, "url": "x", "description": ""}',
        b'{"title": "X", "options": 7}',
        b'{"title": "X", "options": [7]}',
        b'{"title": "X", "options": [["a"]]}',
    ],
)
def test_a_broken_file_is_ignored(wiki: Wikipedia, tmp_path: Path, content: bytes) -> None:
    wiki.look_up("Fleetwood Mac")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(content)
    assert wiki.look_up("Fleetwood Mac") == MAC
    assert json.loads(file.read_bytes())["text"] == MAC.text, "and made good"


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_where_nothing_can_be_kept_it_is_asked_again(
    server: Server, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    if make is Path.touch:
        folder = tmp_path / "file" / "cache"  # no folder can be made in a file
        (tmp_path / "file").touch()
    else:
        folder = tmp_path / "cache"
        Wikipedia(folder, server.url, seconds=60).look_up("Fleetwood Mac")
        (file,) = folder.iterdir()
        file.unlink()
        file.mkdir()  # nor a file be written over a folder
    wiki = Wikipedia(folder, server.url, seconds=60)
    before = len(server.asked)
    assert wiki.look_up("Fleetwood Mac") == wiki.look_up("Fleetwood Mac") == MAC
    assert len(server.asked) == before + 2


def test_file_names_do_not_tell_what_was_asked(wiki: Wikipedia, tmp_path: Path) -> None:
    wiki.look_up("Fleetwood Mac")
    names = [path.name for path in (tmp_path / "cache").iterdir()]
    assert len(names) == 1, "nothing half written is left"
    assert re.fullmatch("wikipedia-[0-9a-f]{64}[.]json", names[0])


def test_the_oldest_files_go_and_only_ours(
    wiki: Wikipedia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wikipedia, "KEPT_FILES", 2)
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "another.json").write_text("{}")
    for name in ("A", "B", "C", "Fleetwood Mac"):
        with suppress(NothingFound):
            wiki.look_up(name)
        age(folder, 0.1)
    assert len(list(folder.iterdir())) == 3
    assert (folder / "another.json").exists()


def test_many_look_ups_at_once_agree(wiki: Wikipedia) -> None:
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda: answers.append(wiki.look_up("Fleetwood Mac"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [MAC] * 8
