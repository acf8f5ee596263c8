"""From a file and an artist's name to an answer."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

import erarec
from erarec import ASSETS, CHECKPOINTS
from erarec.artist import BIOGRAPHY_LIMIT, ArtistLibrary, clip_biography, compose_biography
from erarec.audio import EXCERPT_SECONDS, Excerpts, UnusableAudio, cut_excerpts, read_excerpts
from erarec.clips import Hearing
from erarec.encoders import BiographyReader, TextTokens, mel_frames
from erarec.familiarity import Familiarity
from erarec.maps import EmbeddingMap
from erarec.models import Inputs, Sound, load_checkpoint, no_words, resolve_device
from erarec.texts import Sentence
from erarec.years import DECADES, YEARS, best_year, by_decade, interval

__all__ = ["EraPrediction", "EraRecognizer", "UnusableAudio"]

NEIGHBOURS = 10

# What never changes is shared by all recognisers of a process (and a device).
_library = cache(ArtistLibrary.load)
_hearing = cache(Hearing)
_reader = cache(BiographyReader)
_familiarity = cache(Familiarity.load)


@dataclass(frozen=True)
class EraPrediction:
    """What was heard, and how sure it is. Field by field the JSON that the command line prints.

    Attributes:
        model, version: which checkpoint and which erarec answered.
        year: the year whose +-3 years hold most probability.
        interval: first and last year of the smallest span that holds 80 %.
        years: the classes, 1890 to 2029.
        probabilities: "sound", "artist" and "both", each over ``years``; None where not given.
        decades: probability by decade ("1970s": 0.41).
        attention: "sound" + "artist" = 1, by attention rollout from the class token.
        sound_attention: [{"start": s, "end": s, "share": float}], shares summing to attention["sound"].
        word_attention: [{"word": str, "share": float}], summing to attention["artist"].
        shift_without: how many years ``year`` moves when "sound" or "artist" is taken away.
        artist: {"query", "name", "match", "biography", "source"}.
        embedding: 64 numbers, length 1. map: its place, [x, y].
        neighbours: ten of {"artist", "title", "year", "similarity"}, nearest in the embedding space.
        notices: sentences that the user should read beside the answer.
        seconds: where the time went.
    """

    model: str
    version: str
    year: int
    interval: list[int]
    years: list[int]
    probabilities: dict[str, list[float] | None]
    decades: dict[str, float]
    attention: dict[str, float]
    sound_attention: list[dict[str, float]]
    word_attention: list[dict[str, str | float]]
    shift_without: dict[str, int | None]
    artist: dict[str, str | None]
    embedding: list[float]
    map: list[float]
    neighbours: list[dict[str, str | int | float]]
    notices: list[str]
    seconds: dict[str, float]

    def to_dict(self) -> dict:
        return asdict(self) | {"notices": [str(notice) for notice in self.notices]}

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)


class EraRecognizer:
    """A trained model with all that it takes to answer for a file.

    Args:
        model: one of :data:`erarec.MODELS`, or the path of a checkpoint.
        device: "auto", "cpu", "cuda" or "mps".

    Attributes:
        library: the artists it knows. map: where known recordings lie, None where there is no map.

    Raises:
        ValueError: there is no such model or device.
    """

    def __init__(self, model: str = erarec.MODELS[0], device: str = "auto") -> None:
        self.device = resolve_device(device)
        path = CHECKPOINTS / f"{model}.safetensors" if model in erarec.MODELS else Path(model)
        if not path.is_file():
            raise ValueError(f"there is no model or checkpoint called {model}")
        self.model, self.config = load_checkpoint(path, self.device)
        encoder = self.config.encoder
        self.hearing = Hearing(self.device, encoder=encoder) if encoder else _hearing(self.device)
        self.library = _library()
        self.reader = _reader(self.device) if self.model.reads_text else None
        # A checkpoint of one's own has its map beside it, and has learned from other music.
        shipped = path.parent == CHECKPOINTS
        self.familiarity = _familiarity() if shipped and "tagger" in self.config.towers else None
        map_path = (ASSETS if shipped else path.parent) / f"map-{path.stem}.npz"
        self.map = EmbeddingMap.load(map_path) if map_path.exists() else None

    def predict(
        self,
        audio: str | Path | tuple[np.ndarray, int] | Excerpts,
        artist: str | None = None,
        biography: str | None = None,
    ) -> EraPrediction:
        """Name the year of a recording.

        Args:
            audio: a file in any common format, or samples and their rate: ([samples] or [samples, channels]
                float, Hz), or excerpts that have been read already.
            artist: who plays, as far as it is known; looked up in the library.
            biography: some sentences about the artist, instead of the library's.

        Raises:
            UnusableAudio: there is nothing to hear; its text says why, in one sentence.
        """
        seconds: dict[str, float] = {}
        with _timed(seconds, "decode"):
            if isinstance(audio, str | Path):
                excerpts = read_excerpts(audio)
            else:
                excerpts = audio if isinstance(audio, Excerpts) else cut_excerpts(*audio)
        about, notices = self._about(artist, biography)
        if excerpts.duration < EXCERPT_SECONDS:
            notices.append(
                Sentence(
                    "Only {seconds:.1f} s of sound: a longer recording is surer.", seconds=excerpts.duration
                )
            )
        sound, inputs = self._hear(excerpts, seconds)
        if self._is_strange(inputs):
            strange = "This sounds unlike the music that I know: take the year with a pinch of salt."
            notices.append(Sentence(strange))
        tokens = None
        with _timed(seconds, "text"), torch.inference_mode():
            if self.reader is not None and about["biography"]:
                tokens = self.reader.read(about["biography"], about["name"])
                if not len(tokens.spans):
                    tokens = None
                    notices.append(
                        Sentence(
                            "There is nothing to read in the biography: the answer is from the sound alone."
                        )
                    )
        with _timed(seconds, "fusion"), torch.inference_mode():
            outputs = self.model.answer(*self._modalities(sound, inputs, tokens))
        log_years, embedding = outputs.years.cpu().numpy(), outputs.embedding[0].cpu().numpy()
        attention = outputs.attention[0].cpu().numpy()
        probabilities = np.exp(log_years.astype(np.float64))
        probabilities /= probabilities.sum(-1, keepdims=True)
        years = [int(year) for year in best_year(probabilities)]
        both = probabilities[0]
        with _timed(seconds, "map"):
            place, neighbours = self._place(embedding)
        heard = attention[: len(excerpts.starts) * len(self.config.towers)]
        per_excerpt = heard.reshape(len(self.config.towers), -1).sum(0)
        read = attention[len(heard) :]
        return EraPrediction(
            model=self.config.model,
            version=erarec.__version__,
            year=years[0],
            interval=list(interval(both)),
            years=YEARS.tolist(),
            probabilities={
                "sound": _rounded(probabilities[1]) if tokens else _rounded(both),
                "artist": _rounded(probabilities[2]) if tokens else None,
                "both": _rounded(both),
            },
            decades=dict(zip(DECADES, _rounded(by_decade(both)), strict=True)),
            attention={"sound": float(per_excerpt.sum()), "artist": float(read.sum())},
            sound_attention=[
                {"start": float(start), "end": float(start + length), "share": float(share)}
                for start, length, share in zip(excerpts.starts, excerpts.seconds, per_excerpt, strict=True)
            ],
            word_attention=_by_word(about["biography"] or "", tokens, read) if tokens else [],
            shift_without={
                "sound": abs(years[2] - years[0]) if tokens else None,
                "artist": abs(years[1] - years[0]) if tokens else None,
            },
            artist=about,
            embedding=[round(float(value), 6) for value in embedding],
            map=place,
            neighbours=neighbours,
            notices=notices,
            seconds={name: round(value, 4) for name, value in seconds.items()},
        )

    def _hear(self, excerpts: Excerpts, seconds: dict[str, float]) -> tuple[Sound, Inputs]:
        """A batch of one recording, encoded, with the time it took under "mel" and "sound"."""
        with _timed(seconds, "mel"), torch.inference_mode():
            tagger = "tagger" in self.config.towers
            heard = excerpts.sound, excerpts.seconds
            spectrogram = self.hearing.tagger_spectrogram(*heard) if tagger else None
            mel = None
            if "cnn" in self.config.towers:
                mel = torch.from_numpy(self.hearing.mel(excerpts.sound))[None].to(self.device)
        with _timed(seconds, "sound"), torch.inference_mode():
            tags = None
            if spectrogram is not None:
                features = self.hearing.tags(spectrogram, excerpts.seconds)
                tags = torch.from_numpy(features)[None].to(self.device)
            inputs = Inputs(
                present=torch.ones(1, len(excerpts.starts), dtype=torch.bool, device=self.device),
                tagger=tags,
                mel=mel,
                frames=torch.from_numpy(mel_frames(excerpts.seconds))[None].to(self.device),
            )
            return self.model.sound_encoder(inputs), inputs

    def _is_strange(self, inputs: Inputs) -> bool:
        """Whether nothing like it was in training, as far as the tagger can tell."""
        if self.familiarity is None or inputs.tagger is None:
            return False
        return self.familiarity.strangeness(inputs.tagger[0].cpu().numpy()) > 1

    def _modalities(self, sound: Sound, inputs: Inputs, tokens: TextTokens | None) -> tuple[Sound, Inputs]:
        """Three times the same recording where there is text: all of it, sound alone, artist alone."""
        if tokens is None:
            if self.reader is not None:
                vars(inputs).update(no_words(1, self.device))
            return sound, inputs
        hears = torch.tensor([True, True, False], device=self.device)[:, None]
        reads = torch.tensor([True, False, True], device=self.device)[:, None]
        words = torch.from_numpy(tokens.embeddings).float().to(self.device)
        years = torch.from_numpy(tokens.years).long().to(self.device)
        return (
            Sound(
                sound.tokens.expand(3, -1, -1),
                sound.present & hears,
                sound.pooled.expand(3, -1),
                sound.weights.expand(3, -1),
            ),
            Inputs(
                present=inputs.present & hears,
                words=words.expand(3, -1, -1),
                word_years=years.expand(3, -1, -1),
                words_present=reads.expand(3, len(words)),
            ),
        )

    def _about(self, artist: str | None, biography: str | None) -> tuple[dict[str, str | None], list[str]]:
        """What will be read about the artist, and what the user should know of it."""
        query, text = _printable(artist or "").strip(), _printable(biography or "").strip()
        about: dict[str, str | None] = {"query": query[:200], "name": None, "match": "none"}
        about |= {"biography": "", "source": "none"}
        notices: list[str] = []
        if (query or text) and self.reader is None:
            notices.append(
                Sentence(
                    "{model} only listens: what is known of the artist is not used.", model=self.config.model
                )
            )
            return about, notices
        if text:
            if len(text) > BIOGRAPHY_LIMIT:
                notices.append(
                    Sentence(
                        "The biography is long: only its first {limit:,} characters are read.",
                        limit=BIOGRAPHY_LIMIT,
                    )
                )
            about |= {"match": "biography", "biography": clip_biography(text), "source": "your text"}
        elif query:
            found = self.library.find(query)
            if found.artist is None:
                notices.append(
                    Sentence(
                        "No artist called {name} is known here: the answer is from the sound alone.",
                        name=query[:80],
                    )
                )
                return about, notices
            about |= {"name": found.artist.name, "match": found.match}
            about |= {"biography": compose_biography(found.artist), "source": "library"}
            if found.match == "fuzzy":
                notices.append(Sentence("Taken for {name}.", name=found.artist.name))
            if not about["biography"]:
                notices.append(
                    Sentence("Nothing is known here of {name} but the name.", name=found.artist.name)
                )
        return about, notices

    def _place(self, embedding: np.ndarray) -> tuple[list[float], list[dict[str, str | int | float]]]:
        if self.map is None:
            return [], []
        neighbours = self.map.neighbours(embedding, NEIGHBOURS)
        return [round(float(value), 4) for value in self.map.place(embedding)], neighbours


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def _printable(text: str) -> str:
    """Without the halves of characters that a command line or JSON may hold, and no printer takes."""
    return text.encode(errors="replace").decode()


def _rounded(probabilities: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in probabilities]


def _by_word(text: str, tokens: TextTokens, shares: np.ndarray) -> list[dict[str, str | float]]:
    """Shares of word pieces, added up to the words they are part of, in the order of the text."""
    words: list[list] = []  # start, end, share
    for (start, end), share in zip(tokens.spans, shares, strict=True):
        if words and (start < words[-1][1] or start == words[-1][1] > 0):
            words[-1][1] = max(words[-1][1], end)
            words[-1][2] += float(share)
        else:
            words.append([start, end, float(share)])
    return [{"word": text[start:end], "share": share} for start, end, share in words]
