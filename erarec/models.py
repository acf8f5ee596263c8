"""The three models of the paper: encoders, heads, and the format of a checkpoint."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from erarec.clips import Features
from erarec.encoders import TEXT_WIDTH, WIDTH, CnnTower, TaggerTower, TextEncoder, mel_frames
from erarec.fusion import Fusion, attention_rollout
from erarec.pretrained import Encoder, FinetunedTower
from erarec.years import FIRST_YEAR, YEAR_COUNT

PROJECTION = 64  # width of the contrastive embeddings
TOWERS = ("cnn", "tagger")
MODALITIES = ("sound", "artist")  # each by itself has its own temperature


@dataclass
class Inputs:
    """A batch of recordings, padded to the same number of excerpts and words.

    Attributes:
        present: [N, E] bool, which excerpts there are. A row without any has no sound.
        tagger: [N, E, 4110] float32 (or as ``Features`` has it, of an encoder in the tagger's place), or None
            where no tower reads it.
        mel: [N, E, 224, 130] float32, or None where no tower reads it.
        frames: [N, E] int64, how many mel frames of each excerpt are sound.
        words: [N, T, 384] float32, or None where the model does not read.
        word_years: [N, T, 2] int64, first and last year mentioned, -1 for none.
        words_present: [N, T] bool. A row without any has no artist.
    """

    present: Tensor
    tagger: Tensor | None = None
    mel: Tensor | None = None
    frames: Tensor | None = None
    words: Tensor | None = None
    word_years: Tensor | None = None
    words_present: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Inputs":
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Inputs":
        """The same where a GPU can fetch it while both go on computing."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        changed: dict[str, Any] = {k: v if v is None else change(v) for k, v in vars(self).items()}
        return Inputs(**changed)

    def text(self) -> tuple[Tensor, Tensor, Tensor]:
        """words, word_years and words_present, of a batch for a model that reads."""
        if self.words is None or self.word_years is None or self.words_present is None:
            raise ValueError("A model that reads needs text, or no_words() in its place.")
        return self.words, self.word_years, self.words_present


@dataclass
class Outputs:
    """What a model says of a batch.

    Attributes:
        years: [N, 140] log-probabilities, from all that there is.
        sound_years, artist_years: [N, 140] log-probabilities from one modality; artist_years may be None.
        embedding: [N, 64] length 1: where the recording lies.
        sound_embedding, text_embedding: [N, 64] length 1, for L_MMC; None without text.
        attention: [N, E * towers + T], shares of the tokens, summing to 1.
    """

    years: Tensor
    sound_years: Tensor
    embedding: Tensor
    attention: Tensor
    artist_years: Tensor | None = None
    sound_embedding: Tensor | None = None
    text_embedding: Tensor | None = None


class Projection(nn.Sequential):
    """Two layers to the contrastive embedding, of length 1. Shape: [N, in] -> [N, 64]."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(super().forward(x).float(), dim=-1)


@dataclass
class Sound:
    """Encoded sound.

    Attributes:
        tokens: [N, E * towers, 128], all excerpts of the first tower, then of the second.
        present: [N, E * towers] bool.
        pooled: [N, 128], the tokens' average by learned weights.
        weights: [N, E * towers], summing to 1; zeros where there is no sound.
    """

    tokens: Tensor
    present: Tensor
    pooled: Tensor
    weights: Tensor


class SoundEncoder(nn.Module):
    """f_E: one token an excerpt and tower, and their average by learned weights."""

    def __init__(self, towers: tuple[str, ...], encoder: Encoder | None = None) -> None:
        super().__init__()
        makers: dict[str, Callable[[], nn.Module]] = {"cnn": CnnTower, "tagger": TaggerTower}
        if encoder is not None:
            in_place = FinetunedTower(encoder) if encoder.finetuned else TaggerTower(encoder.width)
            makers["tagger"] = lambda: in_place
        self.towers = nn.ModuleDict({tower: makers[tower]() for tower in towers})
        self.score = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.score.weight)

    def forward(self, inputs: Inputs) -> Sound:
        present = inputs.present
        tokens = []
        for name, tower in self.towers.items():
            # Only excerpts that are there go through, so that padding does not touch the batch norms.
            read = cast(Tensor, inputs.mel if name == "cnn" else inputs.tagger)[present].float()
            if isinstance(tower, TaggerTower):
                heard = tower(read)
            else:
                heard = tower(read, cast(Tensor, inputs.frames)[present])
            padded = heard.new_zeros(*present.shape, WIDTH)
            padded[present] = heard
            tokens.append(padded)
        sound, present = torch.cat(tokens, 1), present.repeat(1, len(tokens))
        weights = _masked_softmax(self.score(sound).squeeze(-1), present)
        pooled = (weights[..., None] * sound).sum(1)
        return Sound(sound, present, pooled, weights)


def _masked_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax over what is there; zeros where nothing is. Shape: [N, L], [N, L] bool -> [N, L] float32."""
    return scores.float().masked_fill(~present, -1e4).softmax(-1) * present


class SoundHead(nn.Sequential):
    """p_sound. Shape: pooled [N, 128] -> logits [N, 140]."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU(), nn.Dropout(0.3), nn.Linear(WIDTH, YEAR_COUNT))


class ArtistHead(nn.Module):
    """p_artist: a few learned questions to the biography, each answered by an average of its words.

    Shape: tokens [N, T, 128], present [N, T] -> hidden [N, 256], logits [N, 140].
    """

    QUESTIONS = 8

    def __init__(self) -> None:
        super().__init__()
        self.questions = nn.Linear(WIDTH, self.QUESTIONS)
        self.hidden = nn.Sequential(
            nn.Linear(self.QUESTIONS * WIDTH, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 256), nn.ReLU()
        )
        self.years = nn.Sequential(nn.Dropout(0.2), nn.Linear(256, YEAR_COUNT))

    def forward(self, tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.questions(tokens).transpose(1, 2)
        weights = _masked_softmax(scores, present[:, None].expand_as(scores))
        hidden = self.hidden((weights.to(tokens.dtype) @ tokens).flatten(1))
        return hidden, self.years(hidden)


class AudioCNN(nn.Module):
    """Sound encoder and year head, trained with L_MLE alone: the paper's floor."""

    name = "audio-cnn"
    reads_text = False

    def __init__(self, towers: tuple[str, ...], encoder: Encoder | None = None) -> None:
        super().__init__()
        self.sound_encoder = SoundEncoder(towers, encoder)
        self.sound_head = SoundHead()
        self.projection = Projection()
        self.temperatures: Tensor
        self.register_buffer("temperatures", torch.ones(len(MODALITIES)))

    def forward(self, inputs: Inputs) -> Outputs:
        return self.answer(self.sound_encoder(inputs), inputs)

    def answer(self, sound: Sound, inputs: Inputs) -> Outputs:
        """From encoded sound to an answer; what each of ``inputs`` lacks is left out of it."""
        years = (self.sound_head(sound.pooled).float() / self.temperatures[0]).log_softmax(-1)
        return Outputs(years, years, self.projection(sound.pooled), sound.weights)


class AudioSUC(AudioCNN):
    """The same network, trained with L_MLE and the era contrastive loss L_EC on its projection."""

    name = "audio-suc"


class AudioArtMMC(nn.Module):
    """Sound and biography, fused by self-attention; trained with L_MLE, L_EC and L_MMC.

    The answer is a log p_sound + b log p_artist + what the fusion adds, renormalised. a and b go by how sure
    each of the two is, and of which year. They begin at 1 and what is added at zero, so that training begins
    at the product of both and can only learn to be better.
    """

    name = "audioart-mmc"
    reads_text = True

    def __init__(self, towers: tuple[str, ...], encoder: Encoder | None = None) -> None:
        super().__init__()
        self.sound_encoder = SoundEncoder(towers, encoder)
        self.sound_head = SoundHead()
        self.text_encoder = TextEncoder()
        self.artist_head = ArtistHead()
        self.fusion = Fusion()
        self.fused_years = nn.Linear(WIDTH, YEAR_COUNT)
        nn.init.zeros_(self.fused_years.weight)
        nn.init.zeros_(self.fused_years.bias)
        self.weighing = nn.Linear(4, 2)
        nn.init.zeros_(self.weighing.weight)
        nn.init.ones_(self.weighing.bias)
        self.projection = Projection()
        self.sound_projection = Projection()
        self.text_projection = Projection(256)
        self.temperatures: Tensor
        self.register_buffer("temperatures", torch.ones(len(MODALITIES)))

    def artist(self, words: Tensor, word_years: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Text tokens [N, T, 128], hidden [N, 256] and year logits [N, 140] of biographies alone."""
        tokens = self.text_encoder(words, word_years)
        return tokens, *self.artist_head(tokens, present)

    def product_weights(self, sound_years: Tensor, artist_years: Tensor) -> Tensor:
        """a and b. Shape: log-probabilities [N, 140] of sound and of artist -> [N, 2]."""
        return self.weighing(sureness(sound_years, artist_years)).clamp_min(0)

    def forward(self, inputs: Inputs) -> Outputs:
        return self.answer(self.sound_encoder(inputs), inputs)

    def answer(self, sound: Sound, inputs: Inputs) -> Outputs:
        """From encoded sound to an answer; what each of ``inputs`` lacks is left out of it."""
        words, word_years, words_present = inputs.text()
        has_sound, has_text = inputs.present.any(1), words_present.any(1)
        text, hidden, artist_logits = self.artist(words, word_years, words_present)
        sound_years = self.sound_head(sound.pooled).float().log_softmax(-1)
        artist_years = artist_logits.float().log_softmax(-1)
        token, attentions = self.fusion(sound.tokens, sound.present, text, words_present)
        # A modality by itself has a temperature; where there are both, the weights take its place.
        there = torch.stack([has_sound, has_text], 1).float()
        both = has_sound & has_text
        weights = torch.where(both[:, None], self.product_weights(sound_years, artist_years), there)
        product = sound_years * weights[:, :1] + artist_years * weights[:, 1:]
        temperature = torch.where(both, 1.0, self.temperatures[has_text.long() * ~has_sound])
        years = ((product + self.fused_years(token).float()) / temperature[:, None]).log_softmax(-1)
        return Outputs(
            years=years,
            sound_years=sound_years,
            artist_years=artist_years,
            embedding=self.projection(token),
            sound_embedding=self.sound_projection(sound.pooled),
            text_embedding=self.text_projection(hidden),
            attention=attention_rollout(attentions),
        )


def sureness(*years: Tensor) -> Tensor:
    """How sure each of some answers is, and of which year: its entropy and its mean, centred and scaled.

    What it tells is to weigh the answers by; it shall not shape them, so no gradient goes through it.

    Shape: log-probabilities [N, 140] each -> [N, 2 * answers].
    """
    columns = []
    for logs in years:
        probabilities = logs.detach().exp()
        entropy = -(probabilities * logs.detach()).sum(-1)  # nats
        mean = (probabilities * torch.arange(YEAR_COUNT, device=logs.device)).sum(-1)
        columns += [(entropy - 3.2) / 0.4, (FIRST_YEAR + mean - 1990) / 20]
    return torch.stack(columns, -1)


EraModel = AudioCNN | AudioArtMMC
_CLASSES: dict[str, type[AudioCNN] | type[AudioArtMMC]] = {
    model.name: model for model in (AudioCNN, AudioSUC, AudioArtMMC)
}


@dataclass(frozen=True)
class Config:
    """What it takes to build a model again, and how it came to be. Kept in the checkpoint's metadata."""

    model: str
    towers: tuple[str, ...] = ("tagger",)
    encoder: Encoder | None = None  # in the tagger's place
    version: str = ""
    training: dict[str, Any] = field(default_factory=dict)

    def build(self) -> EraModel:
        """A model with fresh weights. Raises ValueError for a name or tower that there is not."""
        if self.model not in _CLASSES or not self.towers or not set(self.towers) <= set(TOWERS):
            raise ValueError(f"There is no model {self.model} with the towers {', '.join(self.towers)}.")
        if self.model == AudioArtMMC.name:
            return AudioArtMMC(self.towers, self.encoder)
        return _CLASSES[self.model](self.towers, self.encoder)


def save_checkpoint(model: nn.Module, config: Config, path: Path) -> None:
    """Weights as float16 safetensors, with the config as JSON in the metadata."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        half = tensor.detach().cpu().contiguous()
        if half.is_floating_point():
            half = half.clamp(-65504, 65504).half()
        tensors[name] = half
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"config": json.dumps(asdict(config))})


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> tuple[EraModel, Config]:
    """The model, in float32 and ready to answer, and its config.

    Raises FileNotFoundError, or ValueError for a file that is no checkpoint of this project.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a checkpoint of erarec.") from error
    if "config" not in metadata:
        raise ValueError(f"{path.name} is not a checkpoint of erarec.")
    raw = json.loads(metadata["config"])
    encoder = Encoder(**raw["encoder"]) if raw.get("encoder") else None
    config = Config(**{**raw, "towers": tuple(raw["towers"]), "encoder": encoder})
    model = config.build()
    model.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in tensors.items()})
    return model.to(device).eval(), config


def gather(
    features: dict[str, Features],
    hearings: Sequence[str],
    excerpts: Sequence[np.ndarray],
    towers: Sequence[str],
) -> Inputs:
    """Inputs of some clips, each heard in its own way, from the excerpts given by index."""
    longest = max(len(rows) for rows in excerpts)
    present = np.arange(longest) < np.array([len(rows) for rows in excerpts])[:, None]
    seconds = np.zeros(present.shape, np.float32)
    arrays: dict[str, np.ndarray] = {}
    for tower, name in (("tagger", "tagger"), ("cnn", "mel")):
        if tower in towers:
            shape = getattr(features["clean" if "clean" in features else hearings[0]], name).shape[1:]
            arrays[name] = np.zeros((*present.shape, *shape), np.float32)
    for n, (hearing, rows) in enumerate(zip(hearings, excerpts, strict=True)):
        seconds[n, : len(rows)] = features[hearing].seconds[rows]
        for name, array in arrays.items():
            array[n, : len(rows)] = getattr(features[hearing], name)[rows]
    return Inputs(
        present=torch.from_numpy(present),
        frames=torch.from_numpy(mel_frames(seconds)),
        **{name: torch.from_numpy(array) for name, array in arrays.items()},
    )


def no_words(count: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Text inputs of recordings whose artist is not known."""
    return {
        "words": torch.zeros(count, 1, TEXT_WIDTH, device=device),
        "word_years": torch.full((count, 1, 2), -1, dtype=torch.int64, device=device),
        "words_present": torch.zeros(count, 1, dtype=torch.bool, device=device),
    }


def resolve_device(device: str) -> torch.device:
    """ "auto" is the GPU where there is one. Raises ValueError for a device that is not there."""
    if device == "auto":
        device = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device, False):
        raise ValueError(f"there is no device {device} here")
    return torch.device(device)
