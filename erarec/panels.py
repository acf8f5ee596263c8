"""An answer in words: sentences and HTML from an EraPrediction, in the reader's language.

Every figure has something here that says the same to those who do not see it. ``say`` is the language.
"""

import json
from collections.abc import Sequence
from html import escape
from urllib.parse import quote_plus

import numpy as np

from erarec.artist import Artist
from erarec.audio import SAMPLE_RATE, Excerpts
from erarec.figures import ARTIST_COLOUR, DECADE_COLOURS, SOUND_COLOUR, shown_decades
from erarec.maps import EmbeddingMap
from erarec.prediction import EraPrediction
from erarec.texts import ENGLISH, Texts
from erarec.years import COVERAGE, FIRST_YEAR, LAST_YEAR, by_decade, decade

SURE_YEARS, FAIRLY_SURE_YEARS, UNSURE_YEARS = 8, 15, 25  # widths of the interval
DECADE_BAR = 52  # pixels, of a decade that holds all
WAVE_BARS = 20  # of each excerpt
SEARCH = "https://www.youtube.com/results?search_query="
ELSEWHERE = "target='_blank' rel='noopener noreferrer'"  # of links that leave the page
STRETCHED = "preserveAspectRatio='none' aria-hidden='true'"  # of drawings that fill what room there is


def message(sentence: str, kind: str = "hint") -> str:
    """HTML: a sentence in the place of an answer. ``kind``: "hint", "problem" or "aside"."""
    role = " role='alert'" if kind == "problem" else ""
    return f"<p class='{kind}'{role}>{escape(sentence)}</p>"


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def browser_texts(say: Texts = ENGLISH) -> str:
    """HTML, not shown: what ``assets/page.js`` and ``suggestions.js`` say, as data attributes."""
    texts = {
        "lost": say("The page has lost its server. It will be back by itself."),
        "artists": say("Artists"),
        "choose": say("Artists: choose with the arrow keys."),
        "you": say("you"),
        "model": say("the model"),
        "language": say.language,
    }
    attributes = " ".join(f"data-{name}='{escape(text)}'" for name, text in texts.items())
    return f"<div hidden id='browser-texts' {attributes}></div>"


def share_buttons(say: Texts = ENGLISH) -> str:
    """HTML: what the browser does with an answer; ``assets/page.js`` knows these by their data-save."""
    buttons = {
        "card": say("Save a picture to share"),
        "json": say("Save as JSON"),
        "link": say("Copy a link to this page as it stands"),
    }
    return (
        "<div class='save' hidden>"
        + "".join(
            f"<button type='button' data-save='{what}'>{escape(text)}</button>"
            for what, text in buttons.items()
        )
        + f"<span role='status' data-copied='{escape(say('Copied.'))}'></span></div>"
    )


def answer_sentence(prediction: EraPrediction, say: Texts = ENGLISH) -> str:
    """The answer as a person would say it."""
    year, (low, high) = prediction.year, prediction.interval
    if high - low > UNSURE_YEARS:
        template = "Hard to tell: perhaps {year}, but anything from {low} to {high} would be no surprise."
        return say(template, year=year, low=low, high=high)
    if low == high:
        return say("Almost certainly {year}.", year=year)
    return say("Probably {year}, most likely between {low} and {high}.", year=year, low=low, high=high)


def sureness(prediction: EraPrediction, say: Texts = ENGLISH) -> str:
    """How sure the answer is, in words."""
    low, high = prediction.interval
    if high - low <= SURE_YEARS:
        return say("It is quite sure of itself.")
    if high - low <= FAIRLY_SURE_YEARS:
        return say("It is fairly sure.")
    if high - low <= UNSURE_YEARS:
        return say("It is not very sure.")
    return say("It is guessing.")


def answer(prediction: EraPrediction, say: Texts = ENGLISH) -> str:
    """HTML: the sentence, with the year set in bold, and what the listener should know beside it."""
    sentence, year = escape(answer_sentence(prediction, say)), str(prediction.year)
    sentence = sentence.replace(year, f"<strong>{year}</strong>", 1)
    notices = "".join(f"<p class='notice'>{escape(say.again(notice))}</p>" for notice in prediction.notices)
    return f"<p class='sentence'>{sentence}</p><p class='sureness'>{sureness(prediction, say)}</p>{notices}"


def decades(prediction: EraPrediction, say: Texts = ENGLISH) -> str:
    """HTML: a bar for each decade worth showing, with its probability in figures."""
    curve = np.array(prediction.probabilities["both"])
    first, last = shown_decades([curve.tolist()])
    shares = by_decade(curve)[(first - FIRST_YEAR) // 10 : (last - FIRST_YEAR) // 10]
    bars = "".join(
        f"<li><span class='share'>{_percent(share, say)}</span>"
        f"<span class='bar' style='height:{DECADE_BAR * share:.1f}px;"
        f"background:{DECADE_COLOURS[decade(start)]}'></span>"
        f"<span class='decade'>{say('{year}s', year=start)}</span></li>"
        for start, share in zip(range(first, last, 10), shares, strict=True)
    )
    caption = say("The shaded years together hold {share}.", share=_percent(COVERAGE, say))
    return (
        f"<ol class='decades' aria-label='{escape(say('By decade'))}'>{bars}</ol>{message(caption, 'aside')}"
    )


def known_years_caption(known: EmbeddingMap, say: Texts = ENGLISH) -> str:
    return say("The {count:,} recordings that it learned from, by year.", count=len(known.years))


def attention(
    prediction: EraPrediction,
    excerpts: Excerpts | None = None,
    address: str = "",
    say: Texts = ENGLISH,
) -> str:
    """HTML: how much sound and artist weighed, which seconds and which words, and the check beside it.

    Args:
        excerpts: draws the sound's wave; a press on a stretch plays it.
        address: where the browser gets the recording.
    """
    sound, artist = prediction.attention["sound"], prediction.attention["artist"]
    spoken = say(
        "Attention: sound {sound}, artist {artist}", sound=_percent(sound, say), artist=_percent(artist, say)
    )
    shares = ((say("sound"), sound, SOUND_COLOUR), (say("artist"), artist, ARTIST_COLOUR))
    parts = [
        f"<div class='shares' role='img' aria-label='{escape(spoken)}'>"
        + "".join(
            f"<span class='share' style='flex-grow:{share:.4f};background:{colour}'>"
            f"{name} {_percent(share, say)}</span>"
            for name, share, colour in shares
            if round(100 * share) >= 1
        )
        + "</div>"
    ]
    if prediction.sound_attention:
        parts.append(_seconds(prediction.sound_attention, excerpts, address, say))
    if prediction.word_attention:
        parts.append(_words(prediction.word_attention, say))
    parts += [f"<p>{escape(sentence)}</p>" for sentence in _checks(prediction, say)]
    caution = say(
        "Attention tells where the model looked, not why it answered as it did; taking a side away tells "
        "what that side changed."
    )
    return "".join(parts) + message(caution, "aside")


def map_caption(known: EmbeddingMap, say: Texts = ENGLISH) -> str:
    """What the map shows, for those who see it and those who do not."""
    return say(
        "Each dot is one of {count:,} recordings, coloured by decade. What the model finds alike lies close "
        "together; distances between far-off groups, and the shapes of groups, mean little. Click a decade "
        "to hide it.",
        count=len(known.years),
    )


def decade_toggles(known: EmbeddingMap, say: Texts = ENGLISH) -> str:
    """HTML: a button for each decade of the map, in its colour, to switch it off and on (``page.js``)."""
    starts = sorted(set((known.years // 10 * 10).tolist()))
    buttons = "".join(
        "<button type='button' aria-pressed='true' data-decade>"
        f"<span class='swatch' style='background:{DECADE_COLOURS[decade(start)]}'></span>"
        f"{say('{year}s', year=start)}</button>"
        for start in starts
    )
    return (
        f"<div class='toggles' role='group' aria-label='{escape(say('Decades on the map'))}'>{buttons}</div>"
    )


def neighbours(found: Sequence[dict[str, str | int | float]], say: Texts = ENGLISH) -> str:
    """HTML: a table of the recordings nearest in the embedding space, nearest first.

    Args:
        found: artist, title, year and similarity of each, as in ``EraPrediction.neighbours``.
    """
    rows = "".join(
        "<tr>"
        f"<td><span class='swatch' style='background:{DECADE_COLOURS[decade(int(near['year']))]}'></span>"
        f"{near['year']}</td><td>{escape(str(near['artist']))}</td>"
        f"<td>{_search_link(str(near['artist']), str(near['title']))}</td>"
        f"<td>{say.format_field(near['similarity'], '.3f')}</td></tr>"
        for near in found
    )
    heads = [say("Year"), say("Artist"), say("Title (a search)")]
    return (
        "<table><thead><tr>"
        + "".join(f"<th scope='col'>{escape(head)}</th>" for head in heads)
        + f"<th scope='col' title='{escape(say('cosine of the embeddings'))}'>{escape(say('Likeness'))}</th>"
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def releases(artist: Artist, say: Texts = ENGLISH) -> str:
    """HTML: how many known releases an artist has of each year, and a sentence that says so; "" for none."""
    if not artist.release_years:
        return ""
    first, last = artist.release_years[0][0], artist.release_years[-1][0]
    most = max(count for _, count in artist.release_years)
    width = max(last - first + 1, 12)
    bars = "".join(
        f"<rect x='{year - first}' y='{1 - count / most:.3f}' width='0.85' height='{count / most:.3f}' "
        f"fill='{DECADE_COLOURS[decade(year)]}'/>"
        for year, count in artist.release_years
        if FIRST_YEAR <= year <= LAST_YEAR
    )
    sentence = say(
        "{count:,} known releases, {first} to {last}.", count=artist.releases, first=first, last=last
    )
    return (
        f"<figure class='releases'><svg viewBox='0 0 {width} 1' {STRETCHED}>"
        f"{bars}</svg><figcaption>{escape(sentence)}</figcaption></figure>"
    )


def guess(prediction: EraPrediction, guessed: int, known_year: int | None, say: Texts = ENGLISH) -> str:
    """HTML: the listener's guess beside the model's, and who was nearer where the file's tag has the year.

    The element's data-winner ("you", "model", "both" or "") is what the browser's tally counts.
    """
    sentence = say("You said {guess}, I say {year}.", guess=guessed, year=prediction.year)
    winner = ""
    if known_year is None:
        sentence += " " + say("The file does not say who is right.")
    else:
        yours, mine = abs(guessed - known_year), abs(prediction.year - known_year)
        winner = "both" if yours == mine else "you" if yours < mine else "model"
        verdict = {
            "you": say("The file says {year}: you were nearer.", year=known_year),
            "model": say("The file says {year}: I was nearer.", year=known_year),
            "both": say("The file says {year}: we were equally near.", year=known_year),
        }
        sentence += " " + verdict[winner]
    return f"<p class='guess' data-winner='{winner}'>{escape(sentence)}</p>"


def credit(title: str, address: str, licence: str, licence_address: str, say: Texts = ENGLISH) -> str:
    """HTML: whose text it is that was taken from Wikipedia, with links to it and to its licence."""
    article = f"<a href='{escape(address)}' {ELSEWHERE}>{escape(title)}</a>"
    terms = f"<a href='{escape(licence_address)}' {ELSEWHERE}>{escape(licence)}</a>"
    sentence = escape(say("From Wikipedia: {article}, {licence}. You may change it."))
    return f"<p class='aside'>{sentence.format(article=article, licence=terms)}</p>"


def comparison(answers: Sequence[tuple[str, EraPrediction]], say: Texts = ENGLISH) -> str:
    """HTML: a table of several answers to one recording, and how far each is from the first."""
    first = answers[0][1].year
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{prediction.year}</td>"
        f"<td>{prediction.interval[0]}–{prediction.interval[1]}</td>"
        f"<td>{f'{prediction.year - first:+d}' if row else ''}</td></tr>"
        for row, (name, prediction) in enumerate(answers)
    )
    heads = ["", say("Year"), say("Most likely between"), say("Moved by")]
    return (
        "<table class='comparison'><thead><tr>"
        + "".join(f"<th scope='col'>{escape(head)}</th>" for head in heads)
        + f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def needle(
    prediction: EraPrediction | None, seconds: float, say: Texts = ENGLISH, finished: bool = False
) -> str:
    """HTML: where the needle stands between 1890 and 2029, after so many seconds of sound.

    The browser moves the needle from where it stood (``data-place``, in percent).
    """
    if prediction is None:
        return message(say("I hear nothing yet. Play me some music."))
    low, high = prediction.interval
    span = LAST_YEAR - FIRST_YEAR
    place, left = 100 * (prediction.year - FIRST_YEAR) / span, 100 * (low - FIRST_YEAR) / span
    decades = "".join(
        f"<span><i style='background:{colour}'></i>{name[:4]}</span>"
        for name, colour in DECADE_COLOURS.items()
    )
    if finished:
        state = say("All {heard:.0f} seconds together say {year}.", heard=seconds, year=prediction.year)
    else:
        state = say(
            "{heard:.0f} s heard. The model took {thought:.2f} s, recording and sending not counted.",
            heard=seconds,
            thought=sum(prediction.seconds.values()),
        )
    return (
        f"<p class='sentence'>{escape(answer_sentence(prediction, say))}</p>"
        f"<div class='scale' aria-hidden='true' data-place='{place:.1f}'><div class='ribbon'>{decades}</div>"
        f"<div class='span' style='left:{left:.1f}%;width:{100 * (high - low) / span:.1f}%'></div>"
        f"<div class='needle' style='left:{place:.1f}%'></div></div>{message(state, 'aside')}"
    )


def data(prediction: EraPrediction, sentence: str) -> str:
    """HTML, not shown: what the browser draws the card from and saves as JSON."""
    content = json.dumps({"sentence": sentence, "prediction": prediction.to_dict()}, ensure_ascii=False)
    return f"<div hidden data-answer='{escape(content)}'></div>"


def _checks(prediction: EraPrediction, say: Texts) -> list[str]:
    """How far the answer moves without the sound, and without the artist."""
    stays = {
        "sound": say("Without the sound the answer would stay."),
        "artist": say("Without the artist the answer would stay."),
    }
    moves = {
        "sound": "Without the sound the answer would move by {span}.",
        "artist": "Without the artist the answer would move by {span}.",
    }
    shifts = [(side, shift) for side, shift in prediction.shift_without.items() if shift is not None]
    return [say(moves[side], span=_years(shift, say)) if shift else stays[side] for side, shift in shifts]


def _years(count: int, say: Texts) -> str:
    return say("one year") if count == 1 else say("{count} years", count=count)


def _seconds(shares: list[dict[str, float]], excerpts: Excerpts | None, address: str, say: Texts) -> str:
    """HTML: a button for each excerpt, along the recording, as strong in colour as it weighed."""
    end = max(excerpt["end"] for excerpt in shares)
    most = max(excerpt["share"] for excerpt in shares) or 1.0
    buttons = []
    for row, excerpt in enumerate(shares):
        spoken = say(
            "Play from {time}; weight {share}",
            time=_clock(excerpt["start"]),
            share=_percent(excerpt["share"], say),
        )
        # Excerpts may overlap, those of a fragment by much: each ends where the next begins.
        until = shares[row + 1]["start"] if row + 1 < len(shares) else excerpt["end"]
        width = min(until, excerpt["end"]) - excerpt["start"]
        wave = "" if excerpts is None else _wave(excerpts.sound[row, : round(width * SAMPLE_RATE)])
        buttons.append(
            f"<button type='button' data-start='{excerpt['start']:.2f}' title='{escape(spoken)}' "
            f"aria-label='{escape(spoken)}' style='left:{100 * excerpt['start'] / end:.2f}%;"
            f"width:{100 * width / end:.2f}%;--weight:{excerpt['share'] / most:.2f}'>{wave}</button>"
        )
    strongest = max(shares, key=lambda excerpt: excerpt["share"])
    span = f"{_clock(strongest['start'])}–{_clock(strongest['end'])}"
    player = f"<audio id='heard' preload='none' data-file='{escape(address)}'></audio>" if address else ""
    return (
        f"<p>{say('It listened most to {span}. Press a stretch to hear it.', span=span)}</p>"
        f"<div class='seconds' style='--colour:{SOUND_COLOUR}' role='group' "
        f"aria-label='{escape(say('Seconds of the recording'))}'>{''.join(buttons)}</div>"
        f"<div class='clock' aria-hidden='true'><span>0:00</span><span>{_clock(end)}</span></div>{player}"
    )


def _wave(sound: np.ndarray) -> str:
    """SVG: one excerpt's wave. Shape: [samples]."""
    peaks = np.abs(sound[: len(sound) // WAVE_BARS * WAVE_BARS]).reshape(WAVE_BARS, -1).max(axis=1)
    heights = np.clip(peaks / 1.2, 0.03, 1)  # a levelled excerpt seldom goes beyond
    path = "".join(
        f"M{bar + 0.5:g} {0.5 - height / 2:.2f}v{height:.2f}" for bar, height in enumerate(heights)
    )
    return f"<svg viewBox='0 0 {WAVE_BARS} 1' {STRETCHED}><path d='{path}'/></svg>"


def _words(shares: list[dict[str, str | float]], say: Texts) -> str:
    """HTML: the biography, each word on a ground as strong as its weight."""
    most = max(float(word["share"]) for word in shares) or 1.0
    ranked = sorted(shares, key=lambda word: -float(word["share"]))
    words = " ".join(
        f"<span style='--weight:{share / most:.2f}' title='{_percent(share, say)}'>{escape(word)}</span>"
        for word, share in ((str(word["word"]), float(word["share"])) for word in shares)
    )
    named = ", ".join(say("“{word}”", word=str(word["word"]).strip(".,;:()")) for word in ranked[:3])
    return (
        f"<p>{escape(say('The words that weighed most: {words}.', words=named))}</p>"
        f"<p class='words' style='--colour:{ARTIST_COLOUR}'>{words}</p>"
    )


def _search_link(artist: str, title: str) -> str:
    address = SEARCH + quote_plus(f"{artist} {title}")
    return f"<a href='{escape(address)}' {ELSEWHERE}>{escape(title)}</a>"


def _percent(share: float, say: Texts) -> str:
    return say("{number} %", number=round(100 * share))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
