"""The training loop: first the artist side on songs, then both sides together on the clips.

Every random number of an epoch follows from the seed and the epoch's number, so a run that was interrupted
ends at the same weights as one that was not. Of several processes, each draws batches of its own.
"""

import hashlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from erarec.artist import LIBRARY, ArtistLibrary
from erarec.clips import (
    DAMAGED_COPIES,
    PROGRESS,
    Biographies,
    Clip,
    FeatureCache,
    Features,
    Material,
    Song,
    build_biographies,
)
from erarec.encoders import WIDTH, BiographyReader, CnnTower, TaggerTower, mel_frames
from erarec.losses import EraContrastiveLoss, MaximumLikelihoodLoss, MultimodalContrastiveLoss
from erarec.models import AudioArtMMC, AudioCNN, AudioSUC, Config, EraModel, Inputs, gather, resolve_device
from erarec.pretrained import Encoder, FinetunedTower
from erarec.years import decade, era, target_distribution

# The phone that figures are taken through is among them: music heard by any other is better known for it.
TRAINING_HEARINGS = (
    "clean",
    *(f"anything-{copy}" for copy in range(DAMAGED_COPIES)),
    "phone",
    "another-phone",
)
SONG_SIGMA = 1.5  # years: songs' years are exact, so their targets are narrower
DECIBEL = np.log(10) / 10  # of power, in the natural logarithm of the mels
TAUGHT_EXCERPTS = 4000  # that tell the principal components of the tagger's features
STANDARD_EXCERPTS = 256  # that tell mean and deviation of a pretrained network's features
AHEAD = 3  # batches that are prepared while one is computed with
SHOWN_STEPS = 10  # between two looks at the losses: each look makes a GPU wait
LONGEST_WAIT = timedelta(days=2)  # of other processes, while the first hears the clips


@dataclass(frozen=True)
class Settings:
    """Everything that decides how a model is trained, with the defaults of the shipped ones."""

    model: str
    towers: tuple[str, ...] = ("tagger",)
    epochs: int = 60
    batch_size: int = 128
    excerpts: int = 3  # of a clip at most in one batch, drawn at random
    words: int = 96  # of a biography at most in one batch, drawn at random
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    clean: float = 0.5  # share of the clips that are heard undamaged
    alpha: float = 0.2  # weight of L_EC
    beta: float = 0.2  # weight of L_MMC
    temperature: float = 0.1
    denominator: Literal["pair", "negatives", "all"] = "pair"  # of L_EC
    distil_epochs: int = 0  # of the CNN tower before all else, towards what the tagger hears in clean sound
    cnn_epochs: int = 15  # of each tower alone, before both together
    tagger_epochs: int = 60
    sound_epochs: int = 60  # of each side alone, before both together
    artist_epochs: int = 4
    artist_batch_size: int = 256
    pretrained_rate: float = 0.2  # learning rate of both sides then, relative to the fusion's
    encoder_rate: float = 0.02  # of a fine-tuned encoder, relative to the rest's
    without_text: float = 0.3  # modality dropout
    without_sound: float = 0.15
    seed: int = 0

    @property
    def distils(self) -> bool:
        """Whether this training distils. Where there are two towers, the CNN tower's own training does."""
        return self.distil_epochs > 0 and self.towers == ("cnn",)


def default_settings(model: str, seed: int = 0, towers: tuple[str, ...] | None = None) -> Settings:
    """How the shipped checkpoint of this name was trained, or is best trained with other towers."""
    if towers is None:
        towers = ("cnn",) if model == AudioCNN.name else ("cnn", "tagger")
    settings = Settings(model, towers, seed=seed)
    if towers == ("cnn",):
        settings = replace(settings, epochs=20, batch_size=64, excerpts=1)
    elif len(towers) > 1:
        settings = replace(
            settings, epochs=20, batch_size=64, excerpts=2, learning_rate=5e-4, distil_epochs=40
        )
    if model == AudioArtMMC.name:
        return replace(settings, epochs=15, batch_size=128, learning_rate=1e-3, sound_epochs=settings.epochs)
    return settings


def for_finetuning(settings: Settings) -> Settings:
    """The same with batches that a large network can be trained on with, in the memory of one GPU.

    A network that changes teaches no CNN tower.
    """
    return replace(settings, batch_size=32, excerpts=1, distil_epochs=0)


def prepare(
    clips: Sequence[Clip],
    settings: Settings,
    cache: Path,
    songs: Sequence[Song] = (),
    leads: dict[str, str] | None = None,
    device: str = "auto",
    encoder: Encoder | None = None,
) -> Material:
    """Compute what training reads again and again: features of frozen parts, clean and damaged, and texts.

    All of it is kept in the folder ``cache``, and taken from there when it has been computed before. Of
    several processes the first computes it, while the others wait.
    """
    on = resolve_device(device)
    with PartialState(cpu=on.type == "cpu", timeout=LONGEST_WAIT).main_process_first():
        return _prepare(clips, settings, cache, songs, leads or {}, on, encoder)


def _prepare(
    clips: Sequence[Clip],
    settings: Settings,
    cache: Path,
    songs: Sequence[Song],
    leads: dict[str, str],
    on: torch.device,
    encoder: Encoder | None,
) -> Material:
    features = FeatureCache(cache, on, encoder).features(
        clips, TRAINING_HEARINGS, with_mel="cnn" in settings.towers
    )
    if settings.model != AudioArtMMC.name:
        return Material(clips, features, encoder=encoder)
    # Named by all that it is made of, so that it is made anew when any of that changes.
    library = LIBRARY.stat()
    parts = [clips, songs, sorted(leads.items()), library.st_size, library.st_mtime_ns]
    kept = cache / f"biographies-{fingerprint(parts)}.npz"
    if not kept.exists():
        biographies = build_biographies(clips, songs, leads, ArtistLibrary.load(), BiographyReader(on))
        biographies.save(kept)
    return Material(clips, features, songs, Biographies.load(kept), encoder)


def train(
    material: Material,
    settings: Settings,
    members: Sequence[bool] | np.ndarray | None = None,
    state: Path | None = None,
    device: str = "auto",
    precision: str = "no",
    sides: Path | None = None,
) -> tuple[EraModel, Config]:
    """Train one model.

    Args:
        material: with features in each of TRAINING_HEARINGS.
        members: [N] bool, the clips to train on (all if None). Songs by artists of the others are left out.
        state: a folder for the state after each epoch, from which an interrupted run goes on.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "no", "bf16", "fp16", or "auto", bfloat16 where the hardware has it.
        sides: a folder that keeps AudioArt-MMC's sides as they are before both are trained together, for
            other runs on the same material and members; what these may differ in is in their names there.

    Returns the trained model on the CPU, ready to answer, and its config.
    Raises ValueError when there is nothing to train on, or no such device.
    """
    clips, features, biographies = material.clips, material.features, material.biographies
    members = np.ones(len(clips), bool) if members is None else np.asarray(members, bool)
    readable = np.diff(features["clean"].first) > 0
    train_clips = np.flatnonzero(members & readable)
    if not len(train_clips):
        raise ValueError("There is no readable clip to train on.")
    on = resolve_device(device)
    torch.manual_seed(settings.seed)
    config = Config(settings.model, settings.towers, material.encoder, training=asdict(settings))
    model = config.build()
    labels = Labels.of(clips)
    weights = balanced_weights(clips, train_clips)
    accelerator = Accelerator(
        cpu=on.type == "cpu",
        mixed_precision=resolve_precision(precision, on),
        # Not every batch reaches every parameter: a text may be there or not, a pretrained network has spare
        # ones.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    model.to(accelerator.device)
    encoder = material.encoder if "tagger" in settings.towers else None
    finetuned = encoder is not None and encoder.finetuned
    if encoder is not None and finetuned:
        tower = cast(FinetunedTower, model.sound_encoder.towers["tagger"])
        tower.network.load_state_dict(encoder.load().state_dict())
    _fit_standardisation(model, features["clean"], train_clips)
    sides = sides or state

    def alone(name: str, part: Settings) -> EraModel:
        """A part of the model, trained by itself."""
        if finetuned:
            part = replace(part, batch_size=settings.batch_size, excerpts=settings.excerpts)
        kept = sides and sides / f"{name}-{fingerprint(part)}"
        return train(material, part, members, kept, device, precision, sides)[0]

    if settings.distils:
        lessons = Lessons(labels, features, train_clips, weights, settings, None)
        _distil(accelerator, model, lessons, settings, state)
    if isinstance(model, AudioArtMMC):
        if biographies is None:
            raise ValueError(f"{settings.model} is trained with biographies.")
        held_out = {clip.artist_key for clip, member in zip(clips, members, strict=True) if not member}
        allowed = np.array([song.artist_key not in held_out for song in material.songs], bool)
        artist, sound = side_settings(settings)
        kept = sides and sides / f"artist-{fingerprint(artist)}"
        _fit_artist_side(accelerator, model, material.songs, allowed, biographies, artist, kept)
        if sound.epochs:
            trained = alone("sound", sound)
            model.sound_encoder.load_state_dict(trained.sound_encoder.state_dict())
            model.sound_head.load_state_dict(trained.sound_head.state_dict())
    elif len(settings.towers) > 1:
        cnn, tagger = tower_settings(settings)
        learned = alone("cnn", cnn).sound_encoder.towers["cnn"].state_dict()
        model.sound_encoder.towers["cnn"].load_state_dict(learned)
        model.load_state_dict(alone("tagger", tagger).state_dict(), strict=False)  # with its head, too

    texts = biographies if model.reads_text else None
    batches = ClipBatches(labels, features, train_clips, weights, settings, texts)
    _fit(
        accelerator,
        model,
        batches,
        ClipLoss(settings),
        epochs=settings.epochs,
        groups=_parameter_groups(model, settings),
        settings=settings,
        state=state / "clips" if state else None,
        title=settings.model,
    )
    return accelerator.unwrap_model(model).cpu().eval(), config


def tower_settings(settings: Settings) -> tuple[Settings, Settings]:
    """How the CNN and the tagger tower are trained alone, before both together.

    The CNN tower alone has heard too little music to know years well. Towards the tagger's features it learns
    from every excerpt, and to hear in damaged sound what the tagger hears in clean sound.
    """
    cnn = replace(
        default_settings(AudioCNN.name, settings.seed),
        distil_epochs=settings.distil_epochs,
        epochs=settings.cnn_epochs,
        learning_rate=1e-3,
        pretrained_rate=0.4,
    )
    tagger = replace(
        default_settings(settings.model, settings.seed, ("tagger",)),
        epochs=settings.tagger_epochs,
        **_era_loss(settings),
    )
    return cnn, tagger


def side_settings(settings: Settings) -> tuple[Settings, Settings]:
    """How AudioArt-MMC's artist and sound sides are trained alone, before both together.

    The artist side's are the model's own, less what is of no consequence to it. The sound side is trained as
    AudioSUC is, with the model's L_EC: where that is left out, it is left out everywhere.
    """
    plain = Settings(settings.model)
    of_both = ("epochs", "alpha", "beta", "temperature", "denominator")
    artist = replace(settings, **{name: getattr(plain, name) for name in of_both})
    sound = replace(
        default_settings(AudioSUC.name, settings.seed, settings.towers),
        epochs=settings.sound_epochs,
        distil_epochs=settings.distil_epochs,
        cnn_epochs=settings.cnn_epochs,
        tagger_epochs=settings.tagger_epochs,
        **_era_loss(settings),
    )
    return artist, sound


def _era_loss(settings: Settings) -> dict[str, Any]:
    """L_EC as the whole model has it: its parts are trained with the same."""
    return {name: getattr(settings, name) for name in ("alpha", "temperature", "denominator")}


def fingerprint(thing: object) -> str:
    """A file name for something, the same for whatever is written the same: 16 hexadecimal digits."""
    return hashlib.blake2b(repr(thing).encode(), digest_size=8).hexdigest()


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" is bfloat16 on a GPU that has it. On a CPU it is off: not every one is faster with it."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "no"


@dataclass(frozen=True)
class Labels:
    """What is known of each clip, as arrays. target: [N, 140]; eras, artists: [N] int64."""

    target: np.ndarray
    eras: np.ndarray
    artists: np.ndarray

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> "Labels":
        lo, hi = np.array([c.year_lo for c in clips]), np.array([c.year_hi for c in clips])
        _, artists = np.unique([clip.artist_key for clip in clips], return_inverse=True)
        return cls(target_distribution(lo, hi), era((lo + hi) / 2), artists)


def balanced_weights(clips: Sequence[Clip], members: np.ndarray) -> np.ndarray:
    """Sampling weights: the square root of each decade's inverse frequency. Shape: [M] -> [M], sum 1."""
    decades = np.array([decade(clips[clip].year) for clip in members])
    _, index, counts = np.unique(decades, return_inverse=True, return_counts=True)
    weights = counts[index] ** -0.5
    return weights / weights.sum()


class ClipBatches:
    """Batches of clips: which, how heard, which excerpts, which biography.

    One epoch draws as many clips as there are, with replacement, by their weights.
    """

    def __init__(
        self,
        labels: Labels,
        features: dict[str, Features],
        members: np.ndarray,
        weights: np.ndarray,
        settings: Settings,
        biographies: Biographies | None,
    ) -> None:
        self.labels, self.features, self.members, self.weights = labels, features, members, weights
        self.settings, self.biographies = settings, biographies
        self.damaged = [hearing for hearing in TRAINING_HEARINGS[1:] if hearing in features]

    def __len__(self) -> int:
        return -(-len(self.members) // self.settings.batch_size)

    def epoch(self, rng: np.random.Generator) -> Iterator[tuple[Inputs, dict[str, Tensor]]]:
        drawn = rng.choice(self.members, len(self.members), p=self.weights)
        for batch in np.array_split(drawn, len(self)):
            yield self.step(batch, rng)

    def step(self, clips: np.ndarray, rng: np.random.Generator) -> tuple[Inputs, dict[str, Tensor]]:
        return self.batch(clips, rng), self.targets(clips)

    def targets(self, clips: np.ndarray) -> dict[str, Tensor]:
        labels = self.labels
        return {
            "target": torch.from_numpy(labels.target[clips]),
            "eras": torch.from_numpy(labels.eras[clips]),
            "artists": torch.from_numpy(labels.artists[clips]),
        }

    def draw(self, clips: np.ndarray, rng: np.random.Generator) -> tuple[list[str], list[np.ndarray]]:
        """How each clip is heard, and which of its excerpts, by index."""
        settings = self.settings
        clean = (rng.random(len(clips)) < settings.clean) | (not self.damaged)
        hearings = [
            "clean" if is_clean else self.damaged[rng.integers(len(self.damaged))] for is_clean in clean
        ]
        excerpts = []
        for clip, hearing in zip(clips, hearings, strict=True):
            span = self.features[hearing].of(clip)
            count = min(settings.excerpts, span.stop - span.start)
            excerpts.append(span.start + rng.permutation(span.stop - span.start)[:count])
        return hearings, excerpts

    def hear(self, hearings: list[str], excerpts: list[np.ndarray], rng: np.random.Generator) -> Inputs:
        inputs = gather(self.features, hearings, excerpts, self.settings.towers)
        if inputs.mel is not None:
            inputs.mel = augment_mel(inputs.mel, rng)
        return inputs

    def batch(self, clips: np.ndarray, rng: np.random.Generator) -> Inputs:
        settings, inputs = self.settings, self.hear(*self.draw(clips, rng), rng)
        if self.biographies is not None:
            texts = self.biographies.draw(rng, clips)
            chance = rng.random(len(clips))
            texts = np.where(chance < settings.without_text, -1, texts)
            # A row must keep something: sound goes only where there is text.
            deaf = torch.from_numpy((chance > 1 - settings.without_sound) & (texts >= 0))
            if inputs.present[~deaf].sum() > 1:  # a batch norm needs as many
                inputs.present[deaf] = False
            vars(inputs).update(self.biographies.table.batch(texts, settings.words, rng))
        return inputs


class Lessons(ClipBatches):
    """Excerpts, each heard in its own way, with what the tagger hears in them undamaged."""

    def step(self, clips: np.ndarray, rng: np.random.Generator) -> tuple[Inputs, dict[str, Tensor]]:
        hearings, excerpts = self.draw(clips, rng)
        heard = self.features["clean"].tagger[np.concatenate(excerpts)].astype(np.float32)
        return self.hear(hearings, excerpts, rng), {"tagger": torch.from_numpy(heard)}


def augment_mel(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Fresh damage in the spectrogram itself: another level and equaliser, one band and one stretch masked.

    A gain that varies slowly over frequency only adds to a log-mel, so this costs next to nothing; rooms,
    noise and codecs come from the cached copies. Source of the masks: SpecAugment, arXiv 1904.08779.

    Shape: [N, E, 224, 130] -> the same.
    """
    n, excerpts, bands, frames = mel.shape
    points = rng.normal(0, 3 * DECIBEL, (n, 1, 8))
    places = np.linspace(0, 7, bands)
    low = np.minimum(places.astype(int), 6)
    curve = points[..., low] * (low + 1 - places) + points[..., low + 1] * (places - low)
    level = rng.uniform(-6, 2, (n, 1, 1)) * DECIBEL
    mel = mel + torch.from_numpy((curve + level).astype(np.float32))[..., None]
    first = torch.from_numpy(rng.integers(0, bands, (n, excerpts, 1)))
    index = torch.arange(bands)
    band = (index >= first) & (index < first + torch.from_numpy(rng.integers(0, 32, (n, excerpts, 1))))
    first = torch.from_numpy(rng.integers(0, frames, (n, excerpts, 1)))
    index = torch.arange(frames)
    time = (index >= first) & (index < first + torch.from_numpy(rng.integers(0, 32, (n, excerpts, 1))))
    hidden = band[..., None] | time[..., None, :]
    return torch.where(hidden, mel.mean((2, 3), keepdim=True), mel)


class ClipLoss:
    """L = L_MLE + alpha L_EC + beta L_MMC, and L_MLE of each modality's own head."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.likelihood = MaximumLikelihoodLoss()
        self.era = EraContrastiveLoss(settings.temperature, settings.denominator)
        self.multimodal = MultimodalContrastiveLoss(settings.temperature)

    def __call__(self, model: nn.Module, inputs: Inputs, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        settings, outputs, target = self.settings, model(inputs), labels["target"]
        losses = {"MLE": self.likelihood(outputs.years, target)}
        if settings.model == AudioSUC.name or settings.model == AudioArtMMC.name:
            losses["EC"] = settings.alpha * self.era(outputs.embedding, labels["eras"])
        if settings.model == AudioArtMMC.name:
            has_sound, has_text = inputs.present.any(1), inputs.text()[2].any(1)
            both = has_sound & has_text
            losses["MLE sound"] = self._of_some(outputs.sound_years, target, has_sound)
            losses["MLE artist"] = self._of_some(outputs.artist_years, target, has_text)
            losses["MMC"] = settings.beta * self.multimodal(
                outputs.text_embedding, outputs.sound_embedding, labels["eras"], labels["artists"], both
            )
        return losses

    def _of_some(self, years: Tensor, target: Tensor, there: Tensor) -> Tensor:
        return self.likelihood(years[there], target[there]) if there.any() else years.sum() * 0


class SongBatches:
    """Batches of songs' biographies and years; artists with many songs do not drown the others."""

    def __init__(
        self, songs: Sequence[Song], allowed: np.ndarray, biographies: Biographies, settings: Settings
    ) -> None:
        readable = (biographies.song_composed >= 0).any(1) | (biographies.song_leads >= 0).any(1)
        self.members = np.flatnonzero(allowed & readable)
        years = np.array([song.year for song in songs])
        self.target = target_distribution(years, years, SONG_SIGMA)
        artists = np.array([song.artist_key for song in songs])[self.members]
        _, index, counts = np.unique(artists, return_inverse=True, return_counts=True)
        weights = counts[index] ** -0.5
        self.weights = weights / weights.sum()
        self.biographies = biographies
        self.batch_size, self.words = settings.artist_batch_size, settings.words

    def __len__(self) -> int:
        return -(-len(self.members) // self.batch_size)

    def epoch(self, rng: np.random.Generator) -> Iterator[tuple[Inputs, dict[str, Tensor]]]:
        drawn = rng.choice(self.members, len(self.members), p=self.weights)
        for batch in np.array_split(drawn, len(self)):
            texts = self.biographies.draw(rng, batch, of_songs=True)
            batch, texts = batch[texts >= 0], texts[texts >= 0]
            inputs = Inputs(
                torch.zeros(len(batch), 0, dtype=torch.bool),
                **self.biographies.table.batch(texts, self.words, rng),
            )
            yield inputs, {"target": torch.from_numpy(self.target[batch])}


class ArtistSide(nn.Module):
    """The artist side of a model, to be trained alone. Shape: inputs with text -> logits [N, 140]."""

    def __init__(self, model: AudioArtMMC) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Tensor:
        return self.model.artist(*inputs.text())[2]


def _fit_artist_side(
    accelerator: Accelerator,
    model: AudioArtMMC,
    songs: Sequence[Song],
    allowed: np.ndarray,
    biographies: Biographies,
    settings: Settings,
    state: Path | None,
) -> None:
    if not len(songs) or not settings.artist_epochs:
        return
    likelihood = MaximumLikelihoodLoss()

    def loss(model: nn.Module, inputs: Inputs, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"MLE artist": likelihood(model(inputs), labels["target"])}

    parts = [model.text_encoder, model.artist_head]
    _fit(
        accelerator,
        ArtistSide(model),
        SongBatches(songs, allowed, biographies, settings),
        loss,
        epochs=settings.artist_epochs,
        groups=[{"params": [p for part in parts for p in part.parameters()], "lr": settings.learning_rate}],
        settings=settings,
        state=state,
        title="artist side",
    )


class Teacher(nn.Module):
    """What a CNN tower is to find: the tagger's features, in their principal components.

    A component's deviation is brought to its square root, so that those that vary little are learned too.

    Shape: the tagger's features [X, 4110] -> [X, 192] (fewer, where there are fewer of either).
    """

    COMPONENTS = 192

    def __init__(self, clean: Features, rows: np.ndarray) -> None:
        super().__init__()
        self.tagger = TaggerTower(clean.tagger.shape[1])  # of which only the standardisation is used
        _fit_tagger_standardisation(self.tagger, clean, rows)
        some = torch.from_numpy(clean.tagger[rows[:: -(-len(rows) // TAUGHT_EXCERPTS)]].astype(np.float32))
        heard = self.tagger.standardise(some)
        self.mean: Tensor
        self.register_buffer("mean", heard.mean(0))
        _, sizes, components = torch.linalg.svd(heard - self.mean, full_matrices=False)
        deviations = (sizes / len(heard) ** 0.5)[: self.COMPONENTS] + 1e-4
        self.components: Tensor
        self.register_buffer("components", components[: self.COMPONENTS].T / deviations.sqrt())

    def forward(self, tagger: Tensor) -> Tensor:
        return (self.tagger.standardise(tagger) - self.mean) @ self.components


class Pupil(nn.Module):
    """A CNN tower, asked what a teacher hears. Shape: inputs -> [X, 192] of X excerpts."""

    def __init__(self, tower: CnnTower, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.features = nn.Linear(WIDTH, width)

    def forward(self, inputs: Inputs) -> Tensor:
        mel, frames = cast(Tensor, inputs.mel), cast(Tensor, inputs.frames)
        return self.features(self.tower(mel[inputs.present], frames[inputs.present]))


def _distil(
    accelerator: Accelerator, model: EraModel, lessons: Lessons, settings: Settings, state: Path | None
) -> None:
    """Teach the CNN tower to hear in anything what the tagger hears in clean sound. It takes no labels."""
    clean, tower = lessons.features["clean"], cast(CnnTower, model.sound_encoder.towers["cnn"])
    teacher = Teacher(clean, _rows_of(clean, lessons.members)).to(accelerator.device)

    def loss(model: nn.Module, inputs: Inputs, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"tagger": F.mse_loss(model(inputs).float(), teacher(labels["tagger"]))}

    pupil = Pupil(tower, teacher.components.shape[1]).to(accelerator.device)
    groups = [{"params": list(pupil.parameters()), "lr": 2 * settings.learning_rate}]
    _fit(
        accelerator,
        pupil,
        lessons,
        loss,
        epochs=settings.distil_epochs,
        groups=groups,
        settings=settings,
        state=state / "distilled" if state else None,
        title="CNN tower",
    )


def _parameter_groups(model: EraModel, settings: Settings) -> list[dict]:
    """What was trained before moves slowly, so that it is not spoilt by a fusion that knows nothing yet."""
    sides: tuple[str, ...] = ()
    if model.reads_text:
        sides = ("sound_encoder", "sound_head", "text_encoder", "artist_head")
    elif settings.distils:
        sides = ("sound_encoder",)
    trained_before: list[nn.Parameter] = []
    new: list[nn.Parameter] = []
    encoder: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name.startswith("sound_encoder.towers.tagger.network."):
            encoder.append(parameter)
        else:
            (trained_before if name.startswith(sides) else new).append(parameter)
    rates = [(new, 1.0), (trained_before, settings.pretrained_rate), (encoder, settings.encoder_rate)]
    return [{"params": group, "lr": settings.learning_rate * rate} for group, rate in rates if group]


Batch = tuple[Inputs, dict[str, Tensor]]


def _ahead(batches: Iterator[Batch], pinned: bool) -> Iterator[Batch]:
    """The same batches, in their order, the next ones prepared by a thread while one is computed with."""

    def draw() -> Batch | None:
        batch = next(batches, None)
        if batch is None or not pinned:
            return batch
        inputs, labels = batch
        return inputs.pin_memory(), {name: tensor.pin_memory() for name, tensor in labels.items()}

    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(draw) for _ in range(AHEAD))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(draw))
            yield batch


def _fit(
    accelerator: Accelerator,
    model: nn.Module,
    batches: ClipBatches | SongBatches,
    losses_of: Callable[[nn.Module, Inputs, dict[str, Tensor]], dict[str, Tensor]],
    epochs: int,
    groups: list[dict],
    settings: Settings,
    state: Path | None,
    title: str,
) -> None:
    """The loop: AdamW on a one-cycle schedule, its state kept after each epoch.

    Several processes share an epoch's steps out: each draws its own batches, and gradients are averaged.
    """
    steps = -(-len(batches) // accelerator.num_processes)
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=epochs * steps
    )
    run, optimizer = accelerator.prepare(model, optimizer)
    done = _load_state(accelerator, run, optimizer, schedule, state)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=PROGRESS, disable=not accelerator.is_main_process) as progress:
        bar = progress.add_task(title, total=epochs * steps, completed=done * steps, losses="")
        run.train()
        device, process, began = accelerator.device, accelerator.process_index, time.perf_counter()
        for epoch in range(done, epochs):
            rng = np.random.default_rng([settings.seed, epoch, process])  # of process 0: [seed, epoch]
            torch.manual_seed(settings.seed * 100_003 + epoch + process * 10_000_019)
            sums: dict[str, Tensor] = {}
            drawn = _ahead(islice(batches.epoch(rng), steps), pinned=device.type == "cuda")
            for step, (inputs, labels) in enumerate(drawn, 1):
                inputs = inputs.to(device, non_blocking=True)
                labels = {name: tensor.to(device, non_blocking=True) for name, tensor in labels.items()}
                losses = losses_of(run, inputs, labels)  # the model under autocast, the losses in float32
                loss = torch.stack(list(losses.values())).sum()
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(run.parameters(), 5.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value.detach()
                progress.update(bar, advance=1)
                if step % SHOWN_STEPS == 0 or step == steps:
                    text = "  ".join(f"{name} {value.item() / step:.3f}" for name, value in sums.items())
                    rate = ((epoch - done) * steps + step) / (time.perf_counter() - began)
                    text = f"epoch {epoch + 1}/{epochs}  {rate:.1f} steps/s  {text}"
                    progress.update(bar, losses=text)
            if accelerator.is_main_process:
                _save_state(accelerator.unwrap_model(run), optimizer, schedule, epoch + 1, state)
    accelerator.unwrap_model(run, keep_fp32_wrapper=False)


def _save_state(model: nn.Module, optimizer, schedule, epochs_done: int, folder: Path | None) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "epochs": epochs_done,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }
    torch.save(parts, folder / "state.new")
    (folder / "state.new").replace(folder / "state")  # an interruption leaves the old one or the new one


def _load_state(accelerator: Accelerator, model: nn.Module, optimizer, schedule, folder: Path | None) -> int:
    """Bring back the state after the last whole epoch; returns how many there were."""
    if folder is None or not (folder / "state").exists():
        return 0
    parts = torch.load(folder / "state", map_location=accelerator.device, weights_only=True)
    accelerator.unwrap_model(model).load_state_dict(parts["model"])
    optimizer.load_state_dict(parts["optimizer"])
    schedule.load_state_dict(parts["schedule"])
    return parts["epochs"]


def _fit_standardisation(model: EraModel, clean: Features, members: np.ndarray) -> None:
    """Mean and deviation of what each tower reads, over the training clips' excerpts."""
    rows = _rows_of(clean, members)
    for name, tower in model.sound_encoder.towers.items():
        if isinstance(tower, FinetunedTower):
            values = _pretrained_features(tower, clean, rows)
            mean, deviation = values.mean(0), values.std(0)
            tower = tower.layers
        elif isinstance(tower, TaggerTower):
            _fit_tagger_standardisation(tower, clean, rows)
            continue
        elif isinstance(tower, CnnTower):
            mel = cast(np.ndarray, clean.mel)
            values = mel[rows[:: max(1, len(rows) // 4000)]].astype(np.float32)
            mean, deviation = values.mean((0, 2)), values.std((0, 2))
        else:
            raise TypeError(f"There is no way to standardise {name}.")
        tower.mean.copy_(torch.from_numpy(mean))
        tower.deviation.copy_(torch.from_numpy(deviation + 1e-4))


def _rows_of(features: Features, clips: np.ndarray) -> np.ndarray:
    """Indices of all excerpts of some clips."""
    return np.concatenate([np.arange(features.first[clip], features.first[clip + 1]) for clip in clips])


def _fit_tagger_standardisation(tower: TaggerTower, clean: Features, rows: np.ndarray) -> None:
    values = clean.tagger[rows].astype(np.float32)
    tower.mean.copy_(torch.from_numpy(values.mean(0)))
    tower.deviation.copy_(torch.from_numpy(values.std(0) + 1e-4))


@torch.inference_mode()
def _pretrained_features(tower: FinetunedTower, clean: Features, rows: np.ndarray) -> np.ndarray:
    """What a network says of some of the excerpts before it is trained on. Shape: [X] int -> [M, width]."""
    device = tower.layers.mean.device
    rows = rows[:: -(-len(rows) // STANDARD_EXCERPTS)]
    features = []
    for part in np.array_split(rows, -(-len(rows) // 16)):
        read = torch.from_numpy(clean.tagger[part].astype(np.float32)).to(device)
        frames = torch.from_numpy(mel_frames(clean.seconds[part])).to(device)
        features.append(tower.network(read, frames).cpu().numpy())
    return np.concatenate(features)


def clear_state(state: Path) -> None:
    """Remove what an interrupted run had left, once it is finished."""
    shutil.rmtree(state, ignore_errors=True)
