"""Training material: manifests, folds, and the features of every clip, computed once and kept."""

import csv
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from erarec.artist import ArtistLibrary, artist_fold, artist_key, compose_biography
from erarec.audio import (
    MEL_BANDS,
    MEL_FRAMES,
    TAGGER_FRAMES,
    LogMel,
    TaggerMel,
    UnusableAudio,
    read_excerpts,
    tagger_sound,
)
from erarec.damage import damage
from erarec.encoders import MAX_TEXT_TOKENS, TEXT_WIDTH, BiographyReader, mask_sentences, mel_frames
from erarec.pretrained import Encoder, PretrainedNetwork
from erarec.tagger import TAGGER_FEATURES, Tagger, tagger_frames
from erarec.years import FIRST_YEAR, LAST_YEAR

SCORED_YEARS = 2  # metrics are taken on clips whose years are known to within so many
DAMAGED_COPIES = 2  # of each clip after anything, in training; those through phones not counted
PROGRESS = Console(stderr=True)  # answers alone go to standard output
CACHE_VERSION = 3  # raised when what is kept here would come out otherwise
ENCODERS = 8  # at most so many processes hear clips through an encoder: each holds its weights


@dataclass(frozen=True)
class Clip:
    """One line of a manifest: a recording, who made it, and the years it may be from."""

    id: str
    path: Path
    source: str
    artist: str
    title: str
    artist_key: str
    year_lo: int
    year_hi: int
    scored: bool
    fold: int

    @property
    def year(self) -> float:
        """The middle of the range."""
        return (self.year_lo + self.year_hi) / 2


def read_manifest(path: str | Path) -> list[Clip]:
    """Clips of a manifest: a CSV with the columns file, artist, year_lo and year_hi.

    Files are relative to the manifest. It may also have id (else the file), source, title, artist_key, scored
    (else 1 where the years are at most 2 apart) and fold (else by artist). Other columns are ignored.

    Raises ValueError, with the line, when a column is missing or a year cannot be.
    """
    path = Path(path)
    clips = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"file", "artist", "year_lo", "year_hi"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path.name} has no column {', '.join(sorted(missing))}.")
        for row in reader:
            try:
                years = int(row["year_lo"]), int(row["year_hi"])
                artist = row["artist"] or ""  # None where the line is short
                key = row.get("artist_key") or artist_key(artist)
                clip = Clip(
                    id=row.get("id") or row["file"],
                    path=path.parent / row["file"],
                    source=row.get("source") or path.stem,
                    artist=artist,
                    title=row.get("title") or "",
                    artist_key=key,
                    year_lo=years[0],
                    year_hi=years[1],
                    scored=row["scored"] == "1" if row.get("scored") else years[1] - years[0] <= SCORED_YEARS,
                    fold=int(row.get("fold") or artist_fold(key)),
                )
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path.name}, line {reader.line_num}: {error}.") from error
            if not FIRST_YEAR <= clip.year_lo <= clip.year_hi <= LAST_YEAR:
                raise ValueError(
                    f"{path.name}, line {reader.line_num}: the years {clip.year_lo} to {clip.year_hi} "
                    f"are not a range between {FIRST_YEAR} and {LAST_YEAR}."
                )
            clips.append(clip)
    if not clips:
        raise ValueError(f"{path.name} has no clips.")
    return clips


@dataclass(frozen=True)
class Features:
    """What the towers read of many clips, excerpt by excerpt, in one hearing (clean, or one damage).

    Attributes:
        tagger: [X, 4110] float16, the frozen tagger's features of all clips' excerpts, one after the other;
            with an encoder in its place [X, width], or what it reads, [X, ...], where it is trained on.
        mel: [X, 224, 130] float16, log-mel, for the CNN tower; or None where no model needs it.
        seconds: [X] float32, how much of each excerpt is sound.
        first: [N + 1] int64: clip n's excerpts are first[n] to first[n + 1]. A clip that cannot be read has
            none.
    """

    tagger: np.ndarray
    mel: np.ndarray | None
    seconds: np.ndarray
    first: np.ndarray

    def of(self, clip: int) -> slice:
        return slice(self.first[clip], self.first[clip + 1])


class FeatureCache:
    """Features on disk, by what the clips are and how they are heard.

    Args:
        folder: where they are kept; arrays are mapped from there, not loaded.
        device: where mels and the tagger are computed.
        encoder: what stands in the tagger's place, if anything does.
    """

    def __init__(
        self, folder: Path, device: torch.device | str = "cpu", encoder: Encoder | None = None
    ) -> None:
        self.folder = folder
        self.device = torch.device(device)
        self.encoder = encoder

    def features(self, clips: Sequence[Clip], hearings: Iterable[str], with_mel: bool) -> dict[str, Features]:
        """Features of the clips in each hearing: "clean", a damage's name, or "anything-2" (a third copy).

        What is missing is computed, decoding each clip once.
        """
        folders, missing = {}, {}
        for hearing in hearings:
            folder = self.folder / self._key(clips, hearing)
            fuller = folder.with_name(f"{folder.name}-mel")
            folders[hearing] = fuller if with_mel or (fuller / "done").exists() else folder
            if not (folders[hearing] / "done").exists():
                missing[hearing] = folders[hearing]
        if missing:
            self._compute(clips, missing, with_mel)
        return {hearing: self._load(folder, with_mel) for hearing, folder in folders.items()}

    def _key(self, clips: Sequence[Clip], hearing: str) -> str:
        digest = hashlib.blake2b(digest_size=8)
        if self.encoder is not None:
            digest.update(f"{self.encoder.name}@{self.encoder.revision}/{self.encoder.finetuned}\n".encode())
        for clip in clips:
            size = clip.path.stat().st_size if clip.path.exists() else -1
            digest.update(f"{clip.id}/{clip.path.name}/{size}\n".encode())
        return f"v{CACHE_VERSION}-{digest.hexdigest()}-{hearing}"

    @staticmethod
    def _load(folder: Path, with_mel: bool) -> Features:
        mel = np.load(folder / "mel.npy", mmap_mode="r") if with_mel else None
        wide = folder / "tagger.npy"
        with np.load(folder / "rest.npz") as rest:
            tagger = np.load(wide, mmap_mode="r") if wide.exists() else rest["tagger"]
            return Features(tagger, mel, rest["seconds"], rest["first"])

    def _compute(self, clips: Sequence[Clip], folders: dict[str, Path], with_mel: bool) -> None:
        tagger: dict[str, list[np.ndarray]] = {hearing: [] for hearing in folders}
        # What is too much for memory goes to disk at once; its length is known at the end.
        wide = {"mel": with_mel, "tagger": self.encoder is not None and self.encoder.finetuned}
        raws: dict[str, dict[str, BinaryIO]] = {}
        shapes: dict[str, tuple[int, ...]] = {"mel": (MEL_BANDS, MEL_FRAMES)}
        for hearing, folder in folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            raws[hearing] = {name: (folder / f"{name}.raw").open("wb") for name in wide if wide[name]}
        seconds, counts = [], []
        # Whole clips side by side, one thread each, use a processor better than threads inside each step;
        # spawned, since a fork of a process that has threads may hang.
        with ProcessPoolExecutor(
            max_workers=os.cpu_count() if self.encoder is None else min(os.cpu_count() or 1, ENCODERS),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self.device, list(folders), with_mel, self.encoder),
        ) as pool:
            # Mapped in stretches, so that results do not pile up in memory.
            for first in track(range(0, len(clips), 64), f"Hearing {', '.join(folders)}", console=PROGRESS):
                for result in pool.map(_hear_clip, clips[first : first + 64]):
                    if result is None:
                        counts.append(0)
                        continue
                    counts.append(len(result[0]))
                    seconds.append(result[0])
                    for hearing, (features, mel) in result[1].items():
                        if wide["tagger"]:
                            shapes["tagger"] = features.shape[1:]
                            raws[hearing]["tagger"].write(features.tobytes())
                        else:
                            tagger[hearing].append(features)
                        if mel is not None:
                            raws[hearing]["mel"].write(mel.tobytes())
        index = np.concatenate([[0], np.cumsum(counts)])
        for hearing, folder in folders.items():
            for name, file in raws[hearing].items():
                file.close()
                raw = np.memmap(folder / f"{name}.raw", np.float16, "r", shape=(index[-1], *shapes[name]))
                np.save(folder / f"{name}.npy", raw)
                (folder / f"{name}.raw").unlink()
            np.savez(
                folder / "rest.npz",
                tagger=np.concatenate(tagger[hearing] or [np.zeros((0, TAGGER_FEATURES))]),
                seconds=np.concatenate(seconds).astype(np.float32) if seconds else np.zeros(0),
                first=index,
            )
            (folder / "done").touch()


_worker: tuple["Hearing", list[str], bool]  # of a process that computes features


def _start_worker(device: torch.device, hearings: list[str], with_mel: bool, encoder: Encoder | None) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = Hearing(device, fast_bfloat16(device), encoder), hearings, with_mel


def fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are several times as fast as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def _hear_clip(clip: Clip) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray | None]]] | None:
    """Seconds of one clip's excerpts, and tagger features and mel in each hearing; None if unreadable."""
    hear, hearings, with_mel = _worker
    try:
        excerpts = read_excerpts(clip.path)
    except UnusableAudio:
        return None
    features = {}
    for hearing in hearings:
        sound = damaged(excerpts.sound, hearing, clip.id)
        mel = hear.mel(sound).astype(np.float16) if with_mel else None
        features[hearing] = hear.tagger(sound, excerpts.seconds).astype(np.float16), mel
    return excerpts.seconds, features


def damaged(sound: np.ndarray, hearing: str, clip_id: str) -> np.ndarray:
    """Excerpts as one hearing has them. Shape: [E, 66150] -> [E, 66150].

    ``hearing`` is "clean", the name of a damage, or with a number after it another copy of the same.
    """
    if hearing == "clean":
        return sound
    name, _, copy = hearing.rpartition("-")
    if name and copy.isdigit():
        return damage(sound, name, f"{clip_id}/{copy}")
    return damage(sound, hearing, clip_id)


class Hearing:
    """Excerpts to what the towers read: the frozen tagger's features, and the log-mel spectrogram.

    With an encoder in the tagger's place, its features; or what it reads, where the model itself has it.
    """

    def __init__(
        self, device: torch.device | str = "cpu", autocast: bool = False, encoder: Encoder | None = None
    ) -> None:
        self.device = torch.device(device)
        self.autocast = autocast
        self.log_mel = LogMel().to(self.device)
        self.encoder: PretrainedNetwork | None = None
        if encoder is not None:
            # Of one that is trained on, only the way to read is needed here, not the weights.
            self.encoder = PretrainedNetwork(encoder) if encoder.finetuned else encoder.load()
            self.encoder.to(self.device)
            self.finetuned = encoder.finetuned
        else:
            self.tagger_mel = TaggerMel().to(self.device)
            self.network = Tagger.load().to(self.device)

    @torch.inference_mode()
    def mel(self, sound: np.ndarray) -> np.ndarray:
        """Shape: [E, 66150] float32 at 22,050 Hz -> [E, 224, 130] float32."""
        return self.log_mel(torch.from_numpy(sound).to(self.device)).cpu().numpy()

    def tagger(self, sound: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """Shape: [E, 66150] float32 at 22,050 Hz, [E] seconds of it -> [E, 4110] float32, or an encoder's."""
        return self.tags(self.tagger_spectrogram(sound, seconds), seconds)

    @torch.inference_mode()
    def tagger_spectrogram(self, sound: np.ndarray, seconds: np.ndarray) -> Tensor:
        """What the tagger reads, or the encoder, on the device.

        Shape: [E, 66150] float32 at 22,050 Hz, [E] seconds of it -> [E, 187, 96] float32, or an encoder's.
        """
        if self.encoder is not None:
            return torch.from_numpy(self.encoder.inputs(sound, seconds)).to(self.device)
        return self.tagger_mel(torch.from_numpy(tagger_sound(sound)).to(self.device))[:, :TAGGER_FRAMES]

    @torch.inference_mode()
    def tags(self, mel: Tensor, seconds: np.ndarray) -> np.ndarray:
        """Shape: [E, 187, 96] float32, [E] seconds of sound in each -> [E, 4110] float32, or an encoder's."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            if self.encoder is not None:
                frames = torch.from_numpy(mel_frames(seconds)).to(self.device)
                features = mel if self.finetuned else self.encoder(mel, frames)
            else:
                frames = torch.from_numpy(tagger_frames(seconds)).to(self.device)
                features = self.network(mel, frames)
            return features.float().cpu().numpy()


@dataclass(frozen=True)
class TextTable:
    """Many biographies as tokens; sentences that several share are kept once.

    Attributes:
        embeddings: [R, 384] float16, tokens of all sentences.
        rows: [X] int32, into embeddings, of all texts' tokens, one text after the other.
        years: [X, 2] int16, the first and last year that each token mentions, -1 for none.
        first: [N + 1] int64: text n's tokens are first[n] to first[n + 1].
    """

    embeddings: np.ndarray
    rows: np.ndarray
    years: np.ndarray
    first: np.ndarray

    @classmethod
    def build(cls, reader: BiographyReader, texts: Sequence[tuple[str, str | None]]) -> "TextTable":
        """Read pairs of a text and its artist's name (None for texts that others wrote)."""
        masked = [
            mask_sentences(text, name) for text, name in track(texts, "Reading biographies", console=PROGRESS)
        ]
        unique = sorted({sentence.text for sentences in masked for sentence in sentences})
        # The first row is padding's, so that a table of no texts has something to point to.
        tokens, offsets, start, count = [np.zeros((1, TEXT_WIDTH), np.float16)], {}, {}, 1
        for first in track(range(0, len(unique), 1024), "Encoding sentences", console=PROGRESS):
            for sentence, (state, offset) in reader.encode(set(unique[first : first + 1024])).items():
                tokens.append(state)
                offsets[sentence], start[sentence] = offset, count
                count += len(state)
        rows, years, lengths = [], [], []
        for sentences in track(masked, "Joining sentences", console=PROGRESS):
            row = [start[s.text] + np.arange(len(offsets[s.text]), dtype=np.int32) for s in sentences]
            year = [s.locate(offsets[s.text])[0] for s in sentences]
            rows.append(np.concatenate([np.zeros(0, np.int32), *row])[:MAX_TEXT_TOKENS].astype(np.int32))
            years.append(np.concatenate([np.zeros((0, 2), np.int16), *year])[:MAX_TEXT_TOKENS])
            lengths.append(len(rows[-1]))
        return cls(
            np.concatenate(tokens),
            np.concatenate([np.zeros(0, np.int32), *rows]),
            np.concatenate([np.zeros((0, 2), np.int16), *years]),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        )

    def batch(
        self, texts: np.ndarray, limit: int = MAX_TEXT_TOKENS, rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """Inputs of some texts, by index; -1 stands for no text.

        Of texts with more than ``limit`` tokens only so many are taken, drawn at random with ``rng``.

        Shape: [N] int -> words [N, T, 384] float32, word_years [N, T, 2] int64, words_present [N, T] bool.
        """
        lengths = np.where(texts < 0, 0, self.first[texts + 1] - self.first[texts])
        longest = max(1, min(limit, lengths.max(initial=1)))
        rows = np.zeros((len(texts), longest), np.int32)
        years = np.full((len(texts), longest, 2), -1, np.int64)
        for n, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            part = np.arange(self.first[text], self.first[text] + length)
            if length > limit:
                part = np.sort(rng.choice(part, limit, replace=False)) if rng else part[:limit]
                length = limit
            rows[n, :length], years[n, :length] = self.rows[part], self.years[part]
        return {
            "words": torch.from_numpy(self.embeddings[rows]).float(),
            "word_years": torch.from_numpy(years),
            "words_present": torch.from_numpy(np.arange(longest) < lengths[:, None]),
        }


@dataclass(frozen=True)
class Song:
    """A song of which only artist and year are known, for the artist side."""

    artist_key: str
    year: int


def read_songs(path: Path) -> list[Song]:
    """Songs of a CSV with the columns artist_key and year."""
    with path.open(newline="", encoding="utf-8") as file:
        songs = [Song(row["artist_key"], int(row["year"])) for row in csv.DictReader(file)]
    return [song for song in songs if FIRST_YEAR <= song.year <= LAST_YEAR]


def read_leads(path: Path) -> dict[str, str]:
    """Articles' first paragraphs, by artist_key, of a JSON lines file with artist_key and text."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["artist_key"]: row["text"] for row in rows}


@dataclass(frozen=True)
class Biographies:
    """The texts of clips and songs, as training and evaluation read them.

    All composed texts leave one release within the song's own years out, else the answer would be in the
    question.

    Attributes:
        table: all texts.
        whole: [N] int64, each clip's biography as a prediction would compose it, -1 where there is
            no such artist.
        composed: [N, V] int64, the same with facts dropped at random, -1 where nothing is left.
        leads: [N, 2] int64, the artist's lead with and without its years, -1 where there is none.
        song_composed: [M, V], song_leads: [M, 2], the same for songs.
    """

    table: TextTable
    whole: np.ndarray
    composed: np.ndarray
    leads: np.ndarray
    song_composed: np.ndarray
    song_leads: np.ndarray

    def save(self, path: Path) -> None:
        arrays = {name: value for name, value in vars(self).items() if name != "table"}
        np.savez(path, **arrays, **{f"table_{name}": value for name, value in vars(self.table).items()})

    @classmethod
    def load(cls, path: Path) -> "Biographies":
        with np.load(path, allow_pickle=False) as arrays:
            table = {n.removeprefix("table_"): arrays[n] for n in arrays.files if n.startswith("table_")}
            rest = {n: arrays[n] for n in arrays.files if not n.startswith("table_")}
        return cls(TextTable(**table), **rest)

    def draw(self, rng: np.random.Generator, clips: np.ndarray, of_songs: bool = False) -> np.ndarray:
        """One text for each clip (or song), at random among its kinds. Shape: [N] int -> [N] int64."""
        composed, leads = (self.song_composed, self.song_leads) if of_songs else (self.composed, self.leads)
        texts = composed[clips, rng.integers(composed.shape[1], size=len(clips))]
        chance = rng.random(len(clips))
        if not of_songs:
            texts = np.where(chance > 0.75, self.whole[clips], texts)
        lead = np.where(chance < 0.2, leads[clips, 0], np.where(chance < 0.3, leads[clips, 1], -1))
        return np.where(lead >= 0, lead, texts)


@dataclass(frozen=True)
class Material:
    """All that a model is trained on: clips, their features in each hearing, and for a model that reads
    their biographies and the songs of its artist side; what stands in the tagger's place, if anything."""

    clips: Sequence[Clip]
    features: dict[str, Features]
    songs: Sequence[Song] = ()
    biographies: Biographies | None = None
    encoder: Encoder | None = None


def build_biographies(
    clips: Sequence[Clip],
    songs: Sequence[Song],
    leads: dict[str, str],
    library: ArtistLibrary,
    reader: BiographyReader,
    variants: int = 4,
    song_variants: int = 2,
    seed: int = 0,
) -> Biographies:
    """Compose and read all texts that training needs."""
    rng = np.random.default_rng(seed)
    texts: list[tuple[str, str | None]] = []
    masked_leads: list[int] = []

    def add(text: str, name: str | None) -> int:
        if not text:
            return -1
        texts.append((text, name))
        return len(texts) - 1

    lead_of: dict[str, tuple[int, int]] = {}
    for key in sorted(leads):
        lead_of[key] = (add(leads[key], None), add(leads[key], None))
        masked_leads.append(lead_of[key][1])

    def compose(key: str, years: tuple[int, int], dropping: bool) -> int:
        artist = library.by_key(key)
        if artist is None:
            return -1
        return add(compose_biography(artist, years, rng if dropping else None), artist.name)

    def several(key: str, years: tuple[int, int], count: int) -> list[int]:
        return [compose(key, years, True) for _ in range(count)]

    whole = [compose(clip.artist_key, (clip.year_lo, clip.year_hi), False) for clip in clips]
    composed = [several(clip.artist_key, (clip.year_lo, clip.year_hi), variants) for clip in clips]
    song_composed = [several(song.artist_key, (song.year, song.year), song_variants) for song in songs]
    table = TextTable.build(reader, texts)
    for text in masked_leads:
        table.years[table.first[text] : table.first[text + 1]] = -1
    nothing = (-1, -1)
    return Biographies(
        table,
        np.array(whole),
        np.array(composed).reshape(len(clips), variants),
        np.array([lead_of.get(clip.artist_key, nothing) for clip in clips]).reshape(-1, 2),
        np.array(song_composed, dtype=np.int64).reshape(len(songs), song_variants),
        np.array([lead_of.get(song.artist_key, nothing) for song in songs], dtype=np.int64).reshape(-1, 2),
    )
