"""What happens when something on the page is pressed; ``app.py`` says which is which.

All that is returned is figures, HTML and numbers; what the listener reads is in the language that the browser
asks for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import numpy as np

import erarec
from erarec import figures, panels
from erarec.artist import QUERY_LIMIT, Artist, compose_biography
from erarec.audio import SAMPLE_RATE, read_beginning, read_excerpts
from erarec.damage import damage
from erarec.live import Recording
from erarec.maps import EmbeddingMap
from erarec.prediction import EraPrediction, UnusableAudio
from erarec.tags import Tags, read_tags
from erarec.texts import Texts, choose_language
from erarec.wikipedia import LICENCE, LICENCE_URL, Choices, LookupFailed, Wikipedia

DEFAULT_MODEL = erarec.MODELS[0]
TABS = ("listen", "what-if", "live")

recogniser = cache(erarec.load)
wikipedia = cache(Wikipedia)


def known_map(model: str) -> EmbeddingMap:
    """Each model that ships has its map."""
    found = recogniser(model).map
    assert found is not None
    return found


def language(request: gr.Request | None) -> Texts:
    """The language that the reader's browser asks for."""
    return Texts(choose_language(request.headers.get("accept-language") if request else None))


# When the page opens


def greet(static_texts: Callable[[Texts], list[str]]) -> Callable[[gr.Request], Any]:
    """What stands on the page before any answer, in the reader's language."""

    def say_it(request: gr.Request) -> Any:
        say = language(request)
        if say.language == "en":  # it is there already
            return gr.skip()
        return [*static_texts(say), *show_first(say), nobody(say)]

    return say_it


def restore(examples: dict[str, str]) -> Callable[[gr.Request], list]:
    """What a link holds: ``?artist=ABBA&model=audio-suc&example=1970s&tab=what-if``."""

    def put_back(request: gr.Request) -> list:
        asked = request.query_params
        tab = asked.get("tab")
        return [
            asked.get("artist", "")[:QUERY_LIMIT] or gr.skip(),
            asked["model"] if asked.get("model") in erarec.MODELS else gr.skip(),
            examples.get(asked.get("example", "")) or gr.skip(),
            gr.update(selected=tab) if tab in TABS else gr.skip(),
        ]

    return put_back


def take(example: str) -> Callable[[], tuple[str, str, Tags]]:
    """An example instead of what is there; it has no artist."""
    return lambda: (example, "", Tags())


# What is known of the artist


@dataclass(frozen=True)
class About:
    """A text about an artist that the page itself has put into the biography's field.

    Attributes:
        artist: the name it was found by. source: "library", "wikipedia" or "".
        before: what stood there before, which a press of a button may still bring along.
        credit: HTML, of whom the text is.
    """

    artist: str = ""
    text: str = ""
    before: str = ""
    source: str = ""
    credit: str = ""

    def own(self, artist: str | None, biography: str | None) -> str | None:
        """What the model is to read instead of the library's own text; None for that."""
        if self.artist == artist and self.source == "wikipedia":
            return biography
        return None if self.put(biography) else biography

    def put(self, biography: str | None) -> bool:
        """Whether the page has written that text, and not the listener."""
        return (biography or "").strip() in ("", self.text.strip(), self.before.strip())


def nobody(say: Texts) -> str:
    return panels.message(say("Without an artist, the sound alone will answer."), "aside")


def describe(artist: str, biography: str, about: About, request: gr.Request) -> tuple[Any, About, Any, str]:
    """When another artist is named: as ``look_up``, from the library."""
    say, nobody_else = language(request), gr.update(visible=False)
    if not about.put(biography):
        return gr.skip(), about, nobody_else, _written(say)
    about = replace(_from_library(artist, say), before=about.text)
    return about.text, about, nobody_else, about.credit


def written(biography: str, artist: str, about: About, request: gr.Request) -> str:
    """Whose text it is, while it is being written."""
    say = language(request)
    if biography.strip() == about.text.strip():
        return about.credit
    return _from_library(artist, say).credit if about.put(biography) else _written(say)


def _written(say: Texts) -> str:
    return panels.message(say("Your own text about the artist will be read."), "aside")


def _from_library(name: str, say: Texts) -> About:
    if not name.strip():
        return About(credit=nobody(say))
    found = recogniser(DEFAULT_MODEL).library.find(name).artist
    if found is None:
        sentence = say("Not in the library: the sound alone will answer.")
        return About(name, credit=panels.message(sentence, "aside"))
    text = compose_biography(found)
    return About(name, text, source="library", credit=_library_credit(found, text, say))


def _library_credit(artist: Artist, text: str, say: Texts) -> str:
    if not text:
        sentence = say("The library knows {name} by name only.", name=artist.name)
    else:
        sentence = say("From the library: “{text}”", text=text)
    return panels.message(sentence, "aside") + panels.releases(artist, say)


def look_up(artist: str, about: About, request: gr.Request) -> tuple[Any, About, Any, str]:
    """Ask Wikipedia: the biography's field, what stands in it, who else may be meant, and the credit."""
    return _look_up(artist, None, about, language(request))


def look_up_title(artist: str, about: About, title: str, request: gr.Request) -> tuple[Any, About, Any, str]:
    """As ``look_up``, once the listener has said who is meant."""
    return _look_up(artist, title, about, language(request))


def _look_up(artist: str, title: str | None, about: About, say: Texts) -> tuple[Any, About, Any, str]:
    name = (title or artist).strip()
    if not name:
        return gr.skip(), about, gr.skip(), panels.message(say("Type an artist's name first."), "problem")
    try:
        found = wikipedia().article(name) if title else wikipedia().look_up(name)
    except LookupFailed as problem:
        return (
            gr.skip(),
            about,
            gr.update(visible=False),
            panels.message(say.again(problem.sentence), "problem"),
        )
    if isinstance(found, Choices):
        options = [(f"{one}: {what}" if what else one, one) for one, what in found.options]
        question = say("Several are called so. Who is meant?")
        return (
            gr.skip(),
            about,
            gr.update(choices=options, value=None, visible=True),
            panels.message(question),
        )
    credit = panels.credit(found.title, found.url, LICENCE, LICENCE_URL, say)
    about = About(artist, found.text, about.text, "wikipedia", credit)
    return found.text, about, gr.update(visible=False), credit


def suggest(text: str) -> list[str]:
    """Artists whose names begin with, hold or look like what is being typed."""
    return recogniser(DEFAULT_MODEL).library.suggest(text)


def fill_artist(audio: str | None, artist: str, tags: Tags) -> tuple[Any, Tags]:
    """The artist that a new recording's own tags name, unless the listener has typed one; and these tags."""
    own = read_tags(audio) if audio else Tags()
    typed = artist.strip() and artist != tags.artist
    # Where nothing changes nothing is sent: it would overwrite what is being typed just now.
    return gr.skip() if typed or own.artist == artist else own.artist, own


# Answers


def given(audio: str | None) -> str:
    if audio is None:
        raise UnusableAudio("There is no recording yet: upload one, or record some music.")
    return audio


def hear(audio: str | None, artist: str | None, biography: str | None, model: str) -> EraPrediction:
    return recogniser(model).predict(given(audio), artist=artist, biography=biography)


def show(
    audio: str | None,
    artist: str,
    biography: str,
    about: About,
    model: str,
    guessing: bool,
    guessed: float,
    tags: Tags,
    request: gr.Request,
) -> tuple:
    """What the right side shows, in the order of its components."""
    say = language(request)
    try:
        excerpts = read_excerpts(given(audio))
        own = about.own(artist, biography)
        prediction = recogniser(model).predict(excerpts, artist=artist, biography=own)
    except UnusableAudio as problem:
        return (panels.message(say.again(problem.sentence), "problem"), *show_nothing(model, say))
    if prediction.artist["source"] == "your text" and biography.strip() == about.text.strip():
        prediction = replace(prediction, artist=prediction.artist | {"source": "Wikipedia"})
    judged = ""
    if guessing:
        judged = panels.guess(prediction, round(guessed), tags.year, say)
    return (
        panels.answer(prediction, say) + judged,
        figures.year_figure(prediction, say),
        panels.decades(prediction, say),
        panels.attention(
            prediction, excerpts, f"/gradio_api/file={quote(Path(given(audio)).as_posix())}", say
        ),
        figures.map_figure(known_map(model), prediction, say=say),
        panels.neighbours(prediction.neighbours, say),
        prediction.to_dict(),
        panels.data(prediction, panels.answer_sentence(prediction, say)),
    )


def show_first(say: Texts) -> tuple:
    """What stands there before any answer. As ``show``."""
    hint = panels.message(say("Give me a recording, and I will name its year."))
    return hint, *show_nothing(DEFAULT_MODEL, say)


def show_nothing(model: str, say: Texts) -> tuple:
    """What stands below the answer while there is none."""
    known = known_map(model)
    reasons = say("How much the sound and the artist weighed, which seconds and which words.")
    return (
        figures.known_years_figure(known, say),
        panels.message(panels.known_years_caption(known, say), "aside"),
        panels.message(reasons, "aside"),
        figures.map_figure(known, say=say),
        panels.message(say("The ten recordings most like yours."), "aside"),
        None,
        "",
    )


def surprise(model: str, request: gr.Request) -> tuple:
    """A recording of the map, drawn by lot: who it is, where it lies, and what lies near it. As ``show``."""
    say = language(request)
    known = known_map(model)
    row = int(np.random.default_rng().integers(len(known.years)))
    near = known.neighbours(known.embeddings[row], 11)[1:]  # the nearest is itself
    sentence = say(
        "Drawn by lot: “{title}” by {artist}, {year}. Below is where it lies, and what is near it.",
        title=known.titles[row],
        artist=known.artists[row],
        year=known.years[row],
    )
    years, caption, reasons, _, _, *nothing = show_nothing(model, say)
    whole_map = figures.map_figure(known, drawn=row, say=say)
    return (
        panels.message(sentence), years, caption, reasons, whole_map, panels.neighbours(near, say), *nothing
    )  # fmt: skip


# What if


def compare_models(
    audio: str | None, artist: str, biography: str, about: About, request: gr.Request
) -> tuple:
    """The same recording through the three models."""
    say = language(request)
    return _compare(
        lambda: [
            (model, hear(audio, artist, about.own(artist, biography), model)) for model in erarec.MODELS
        ],
        say,
    )


def compare_artists(
    audio: str | None, artist: str, biography: str, about: About, other: str, request: gr.Request
) -> tuple:
    """The same recording, told that somebody else plays."""
    say = language(request)
    names = [artist.strip() or say("no artist"), other.strip() or say("no artist")]
    return _compare(
        lambda: [
            (names[0], hear(audio, artist, about.own(artist, biography), DEFAULT_MODEL)),
            (names[1], hear(audio, other, None, DEFAULT_MODEL)),
        ],
        say,
    )


def compare_sounds(audio: str | None, change: str, model: str, request: gr.Request) -> tuple:
    """The same recording as something has changed it: how both sound, and what is answered to each."""
    say = language(request)
    heard: list[np.ndarray] = []

    def answers() -> list[tuple[str, EraPrediction]]:
        sound = read_beginning(given(audio))
        changed = damage(sound[None], change, "what if")[0]
        heard.extend([sound, changed])
        recognise = recogniser(model).predict
        as_it_is = (say("as it is"), recognise((sound, SAMPLE_RATE)))
        return [as_it_is, (changes(say)[change], recognise((changed, SAMPLE_RATE)))]

    figure, words = _compare(answers, say)
    if not heard:
        return gr.update(visible=False), gr.update(visible=False), figure, words
    loudest = max(1.0, *(np.abs(sound).max() for sound in heard))  # one scale: how loud is part of a sound
    players = [
        gr.update(value=(SAMPLE_RATE, (sound / loudest * 32767).astype(np.int16)), visible=True)
        for sound in heard
    ]
    return *players, figure, words


def changes(say: Texts) -> dict[str, str]:
    """What can happen to a sound, by the names of ``damage.DAMAGES``."""
    return {
        "radio-1930s": say("a radio of the 1930s"),
        "loud-2000s": say("a loud master of the 2000s"),
        "phone": say("a phone in a room"),
        "low-pass-4k": say("nothing above 4 kHz"),
    }


def _compare(answers: Callable[[], list[tuple[str, EraPrediction]]], say: Texts) -> tuple:
    """A figure and a table of several answers, or the sentence that says why there is none."""
    try:
        found = answers()
    except UnusableAudio as problem:
        return gr.skip(), panels.message(say.again(problem.sentence), "problem")
    curves = gr.update(value=figures.comparison_figure(found, say), visible=True)
    return curves, panels.comparison(found, say)


# Live


def listen(chunk: tuple[int, np.ndarray] | None, recording: Recording, request: gr.Request) -> tuple:
    """One more piece of what the microphone hears: the needle moves when there is enough that is new."""
    if chunk is not None:
        recording.add(chunk[1], chunk[0])
    window = recording.due()
    if window is None:
        return gr.skip(), recording
    return panels.needle(_quietly(window), recording.seconds, language(request)), recording


def start_listening() -> Recording:
    return Recording()


def stop_listening(recording: Recording, request: gr.Request) -> tuple:
    """What all of it together says, once the microphone is off."""
    say = language(request)
    sound = recording.sound
    prediction = _quietly(sound) if len(sound) else None
    recording.clear()  # in place: a piece that is still being answered must not bring it back
    return panels.needle(prediction, len(sound) / SAMPLE_RATE, say, finished=True), recording


def _quietly(sound: np.ndarray) -> EraPrediction | None:
    """The answer from the sound alone; None where there is nothing to hear."""
    try:
        return recogniser(DEFAULT_MODEL).predict((sound, SAMPLE_RATE))
    except UnusableAudio:
        return None


# For programs


def predict(audio: str | None, artist: str | None, biography: str | None, model: str) -> dict:
    """When a recording was made, by its sound and, if given, its artist: the JSON of EraPrediction."""
    try:
        return hear(audio, artist, biography, model).to_dict()
    except UnusableAudio as problem:
        raise gr.Error(str(problem), print_exception=False) from problem


def annotate(files: list[str], model: str) -> list[dict]:
    """Several recordings, artists from their own tags: of each the name and the JSON of EraPrediction, or the
    name and what is wrong with it."""
    rows: list[dict] = []
    for file in files or []:
        row: dict = {"file": Path(file).name}
        try:
            row |= hear(file, read_tags(file).artist, None, model).to_dict()
        except UnusableAudio as problem:
            row["error"] = str(problem)
        rows.append(row)
    return rows


def nearest(audio: str | None, model: str) -> list[dict]:
    """The ten known recordings that one is most like, by its sound: artist, title, year, similarity."""
    return predict(audio, None, None, model)["neighbours"]
