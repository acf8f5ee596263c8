"""The lead of an artist's article on Wikipedia, for those who ask for it: nothing is sent before that."""

import asyncio
import json
import logging
import re
import time
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import httpx
from platformdirs import user_cache_dir

from erarec import __version__
from erarec.texts import Sentence

HOST = "https://en.wikipedia.org"
LICENCE = "CC BY-SA 4.0"  # of every Article's text, to be named beside it with a link to Article.url
LICENCE_URL = "https://creativecommons.org/licenses/by-sa/4.0/"
USER_AGENT = f"erarec/{__version__} (music era recognition) httpx/{httpx.__version__}"

DEADLINE_SECONDS = 5.0
RESPONSE_LIMIT = 256 * 1024  # bytes; a summary has some 4,000
REDIRECT_LIMIT = 3
TITLE_LIMIT = 250  # bytes; a title has at most 255, and a search with all its words 300 characters
OPTIONS_LIMIT = 10
KEPT_SECONDS = 30 * 24 * 3600
MISSING_KEPT_SECONDS = 24 * 3600  # the article may be written meanwhile
KEPT_FILES = 2000


class LookupFailed(Exception):
    """There is no article to show; ``sentence`` says why to the user."""

    def __init__(self, sentence: Sentence) -> None:
        self.sentence = sentence
        super().__init__(sentence)


class NothingFound(LookupFailed):
    def __init__(self) -> None:
        super().__init__(Sentence("Wikipedia has no article on an artist of this name."))


class Unreachable(LookupFailed):
    def __init__(self) -> None:
        super().__init__(Sentence("Wikipedia cannot be reached from here."))


class TookTooLong(LookupFailed):
    def __init__(self) -> None:
        super().__init__(Sentence("Wikipedia took too long to answer; please try again."))


class Unreadable(LookupFailed):
    def __init__(self) -> None:
        super().__init__(Sentence("Wikipedia gave an answer that cannot be read; please try again later."))


@dataclass(frozen=True, slots=True)
class Article:
    """The beginning of an article, under LICENCE, and what a credit needs. description: a few words or ""."""

    title: str
    text: str
    url: str
    description: str


@dataclass(frozen=True, slots=True)
class Choices:
    """Who may be meant by a name: (title, description or "") of articles, for :meth:`Wikipedia.article`."""

    title: str
    options: tuple[tuple[str, str], ...] = ()


# httpx logs every address and httpcore the headers, which hold what the user typed. Our own look-ups are kept
# from being logged, those of others in the same process are not.
_ours: ContextVar[bool] = ContextVar("_ours", default=False)
for _name in ("httpx", "httpcore.http11"):
    logging.getLogger(_name).addFilter(lambda record: not _ours.get())

_MUSICAL = re.compile(r"(?i)\b(music|band\b|sing(er|ing)|songwriter|rapper|composer|orchestra|dj\b)")
_OPERATORS = re.compile(r'["*?~\\/:|!()\[\]{}<>#]|(?<!\w)-')  # what a search does not take literally


class Wikipedia:
    """Asks Wikipedia, and keeps what it answered on disk. Calls block, and belong in no event loop.

    Args:
        folder: where answers are kept, by default the user's folder for caches.
        base_url: another server, for tests.
        seconds: how long one look-up may take in all.
    """

    def __init__(
        self, folder: Path | None = None, base_url: str = HOST, seconds: float = DEADLINE_SECONDS
    ) -> None:
        self._folder = folder or Path(user_cache_dir("erarec"))
        self._base_url = base_url
        self._seconds = seconds

    def look_up(self, name: str) -> Article | Choices:
        """The article on the artist of this name, or who may be meant by it. Raises LookupFailed."""
        return self._answer(name, musicians=True)

    def article(self, title: str) -> Article:
        """The article of this very title, one of a Choices, whatever it is about. Raises LookupFailed."""
        answer = self._answer(title, musicians=False)
        if isinstance(answer, Choices):
            raise NothingFound
        return answer

    def _answer(self, name: str, musicians: bool) -> Article | Choices:
        title = " ".join("".join(c if c.isprintable() else " " for c in name).split())
        # No title has a part "." or "..", and a server on the way might resolve them, quoted or not.
        if not title or len(title.encode()) > TITLE_LIMIT or {".", ".."} & set(title.split("/")):
            raise NothingFound
        query = json.dumps([self._base_url, title, musicians])
        path = self._folder / f"wikipedia-{sha256(query.encode()).hexdigest()}.json"
        if not (answer := _recall(path)):
            answer = self._ask(title, musicians)
            _keep(path, answer)
        if isinstance(answer, Choices) and not answer.options:
            raise NothingFound
        return answer

    def _ask(self, title: str, musicians: bool) -> Article | Choices:
        # Not asyncio.run: that waits until threads end, and a silent name server holds one for long.
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(self._find(title, musicians))
        except (TimeoutError, httpx.TimeoutException) as error:
            raise TookTooLong from error
        except (httpx.RemoteProtocolError, httpx.InvalidURL) as error:  # the latter: to redirect to
            raise Unreadable from error
        # The last two: proxies named in the environment that httpx cannot use.
        except (httpx.TransportError, OSError, ImportError, ValueError) as error:
            raise Unreachable from error
        finally:
            loop.close()

    async def _find(self, title: str, musicians: bool) -> Article | Choices:
        """Choices without options where there is nothing."""
        _ours.set(True)
        # Uncompressed, so that the bound on a response's size bounds what it takes in memory.
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity"}
        async with asyncio.timeout(self._seconds), httpx.AsyncClient(headers=headers, timeout=None) as client:
            page = await self._get(client, f"/api/rest_v1/page/summary/{_quoted(title)}")
            article = _read_article(page)
            if not musicians or (article and _MUSICAL.search(article.description or article.text)):
                return article or Choices(title)
            # "Chicago" is a city, "Nirvana" a list, "Beatles, The" nothing: who of that name makes music?
            options: tuple[tuple[str, str], ...] = ()
            if words := " ".join(_OPERATORS.sub(" ", title).split()):
                wanted = f'intitle:"{words}"' if page else words
                search = {"q": f'{wanted} hastemplate:"Infobox musical artist"', "limit": OPTIONS_LIMIT}
                found = await self._get(client, f"/w/rest.php/v1/search/page?{urlencode(search)}")
                options = _read_options(found)
        if article is None:
            return Choices(title, options)
        if not options or article.title in dict(options):
            return article
        return Choices(title, (*options, (article.title, article.description)))

    async def _get(self, client: httpx.AsyncClient, path: str) -> Any:
        """The JSON at this address, None where there is no such page."""
        base, url = httpx.URL(self._base_url), httpx.URL(self._base_url + path)
        for _ in range(1 + REDIRECT_LIMIT):
            if (url.scheme, url.netloc) != (base.scheme, base.netloc):
                raise Unreadable
            async with client.stream("GET", url) as response:
                if response.next_request:
                    url = response.next_request.url
                    continue
                if response.status_code in (400, 404):  # 400: no title can be so
                    return None
                if response.status_code != 200:
                    raise Unreadable
                body = bytearray()
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > RESPONSE_LIMIT:
                        raise Unreadable
            try:
                return json.loads(body)
            except (ValueError, RecursionError) as error:
                raise Unreadable from error
        raise Unreadable


def _quoted(title: str) -> str:
    return quote(title.replace(" ", "_"), safe="", errors="replace")


def _read_article(page: Any) -> Article | None:
    """None for what is no article: nothing, a list of meanings, a page about a user, a page without text."""
    match page:
        case None | {"type": "disambiguation"}:
            return None
        case {"namespace": {"id": int(space)}, "titles": {"normalized": str(title)}, "extract": str(text)}:
            if space != 0 or not text.strip():
                return None
            url = f"{HOST}/wiki/{_quoted(title)}"
            return Article(title, text.strip(), url, str(page.get("description") or ""))
    raise Unreadable


def _read_options(found: Any) -> tuple[tuple[str, str], ...]:
    try:
        pages = found["pages"][:OPTIONS_LIMIT]
        return tuple((str(page["title"]), str(page.get("description") or "")) for page in pages)
    except (AttributeError, LookupError, TypeError) as error:
        raise Unreadable from error


def _recall(path: Path) -> Article | Choices | None:
    """What was answered, unless that is too long ago or no longer readable."""
    with suppress(OSError, ValueError, TypeError, RecursionError):
        age = time.time() - path.stat().st_mtime
        match json.loads(path.read_bytes()):
            case {"title": str(title), "text": str(text), "url": str(url), "description": str(description)}:
                return Article(title, text, url, description) if age < KEPT_SECONDS else None
            case {"title": str(title), "options": [*pairs]}:
                options = tuple((str(option), str(description)) for option, description in pairs)
                limit = KEPT_SECONDS if options else MISSING_KEPT_SECONDS
                return Choices(title, options) if age < limit else None
    return None


def _keep(path: Path, answer: Article | Choices) -> None:
    """All of it or nothing; where it cannot be written, Wikipedia is asked again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"wikipedia-{uuid4().hex}.json")
        part.write_text(json.dumps(asdict(answer)), encoding="utf-8")
        part.replace(path)
        kept = sorted(path.parent.glob("wikipedia-*.json"), key=lambda file: file.stat().st_mtime)
        for oldest in kept[:-KEPT_FILES]:
            oldest.unlink(missing_ok=True)
