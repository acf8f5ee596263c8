"""Audio models of the Hugging Face hub in the tagger's place: frozen, or trained on with the rest."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from erarec.audio import EXCERPT_SAMPLES, EXCERPT_SECONDS, HOP, MEL_FRAMES, SAMPLE_RATE
from erarec.encoders import TaggerTower

# All that is read of a model: no code, and weights as safetensors only.
FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "README.md")
WEIGHTS = "model*.safetensors"
UNUSED_WEIGHTS = {"masked_spec_embed"}  # which not every model of Wav2Vec2's kind was saved with
CLAP, AST, WAVEFORM = "ClapFeatureExtractor", "ASTFeatureExtractor", "Wav2Vec2FeatureExtractor"


@dataclass(frozen=True)
class Encoder:
    """An audio model in the tagger's place, as a checkpoint keeps it.

    Attributes:
        name: its id on the hub, or its folder.
        revision: the hub's commit, or a digest of the folder's files.
        licence: as its model card states it.
        width: how many numbers it makes of an excerpt.
        finetuned: whether it is trained on; its weights are then in the checkpoint, else only its name.
        network, extractor: transformers' configurations, from which it is built without its files.
    """

    name: str
    revision: str
    licence: str
    width: int
    finetuned: bool = False
    network: dict[str, Any] = field(default_factory=dict)
    extractor: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, name: str, finetuned: bool = False) -> "Encoder":
        """What is known of a model: ``name`` is a folder, or a hub id, with "@" and a revision where wanted.

        Raises ValueError, with one sentence, where there is no such model or none that can be used.
        """
        if Path(name).is_dir():
            name = str(Path(name).resolve())
            folder, revision = Path(name), _digest(Path(name))
        else:
            name, _, wanted = name.partition("@")
            folder = _download(name, wanted or None)
            revision = folder.name
        network, extractor = _read(folder, name)
        # None of what transformers masks at random in training: it goes by no seed of ours.
        settings = {"apply_spec_augment": False, "layerdrop": 0.0}
        if type(extractor).__name__ == WAVEFORM:
            network.config.update(settings)
        found = cls(
            name,
            revision,
            _licence(folder / "README.md"),
            width=0,
            finetuned=finetuned,
            network=json.loads(network.config.to_json_string(use_diff=False)),
            extractor=json.loads(extractor.to_json_string()),
        )
        width = PretrainedNetwork(found).hear(np.zeros((1, EXCERPT_SAMPLES), np.float32)).shape[1]
        return cls(**{**vars(found), "width": width})

    def load(self) -> "PretrainedNetwork":
        """The network with its pretrained weights.

        Raises ValueError where the model, as it was when it was found, is not to be had.
        """
        if Path(self.name).is_dir():
            folder = Path(self.name)
            if _digest(folder) != self.revision:
                raise ValueError(f"The encoder in {self.name} is no longer the one that was trained with.")
        else:
            folder = _download(self.name, self.revision)
        network = PretrainedNetwork(self)
        network.network.load_state_dict(_read(folder, self.name)[0].state_dict())
        return network


class PretrainedNetwork(nn.Module):
    """The audio tower of CLAP, an AST, or a model of Wav2Vec2's kind: one vector of each excerpt.

    Built with fresh weights; :meth:`Encoder.load` brings the pretrained ones. CLAP and AST pool by
    themselves; what hears waveforms is pooled over time, mean and maximum, without the padding.

    Shape: what :meth:`inputs` gives [E, ...] float32, mel frames that are sound [E] int64 -> [E, width].
    """

    def __init__(self, encoder: Encoder) -> None:
        import transformers

        super().__init__()
        self.kind = encoder.extractor["feature_extractor_type"]
        if self.kind not in (CLAP, AST, WAVEFORM):
            raise ValueError(f"An encoder with a {self.kind} cannot be built.")
        self.extractor = getattr(transformers, self.kind).from_dict(encoder.extractor)
        if self.kind == CLAP:
            tower = transformers.ClapAudioConfig.from_dict(encoder.network)
            self.network: Any = transformers.ClapAudioModel(tower)
        else:
            config = transformers.AutoConfig.for_model(**encoder.network)
            self.network = transformers.AutoModel.from_config(config, trust_remote_code=False)
        self.float().eval()

    def inputs(self, sound: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """What the network reads of excerpts.

        Shape: [E, 66150] float32 at 22,050 Hz, [E] seconds of sound -> [E, ...] float32: a spectrogram for
        CLAP and AST, else the waveform at the network's rate.
        """
        rate = self.extractor.sampling_rate
        lengths = np.round(seconds * SAMPLE_RATE).astype(int)
        pieces = [
            soxr.resample(samples[:length], SAMPLE_RATE, rate)
            for samples, length in zip(sound, lengths, strict=True)
        ]
        if self.kind == WAVEFORM:
            read = self.extractor(
                pieces,
                sampling_rate=rate,
                padding="max_length",
                max_length=round(EXCERPT_SECONDS * rate),
                truncation=True,
                return_attention_mask=True,  # so that padding does not count in the normalisation
            )["input_values"]
        else:
            read = self.extractor(pieces, sampling_rate=rate)
            read = read["input_features" if self.kind == CLAP else "input_values"]
        return np.stack(read).astype(np.float32)

    def forward(self, read: Tensor, frames: Tensor) -> Tensor:
        if self.kind == CLAP:
            # A fused CLAP asks; no excerpt is longer than what it hears at once.
            is_longer = torch.zeros(len(read), 1, dtype=torch.bool, device=read.device)
            return self.network(input_features=read, is_longer=is_longer).pooler_output.float()
        if self.kind == AST:
            return self.network(read).pooler_output.float()
        samples = frames * HOP * self.extractor.sampling_rate // SAMPLE_RATE
        heard = torch.arange(read.shape[1], device=read.device) < samples[:, None]
        # Some of these models were trained to see padding as silence, the others to be told of it.
        told = {"attention_mask": heard} if self.extractor.return_attention_mask else {}
        states = self.network(read, **told).last_hidden_state.float()
        heard = self.network._get_feature_vector_attention_mask(states.shape[1], heard).bool()[..., None]
        mean = (states * heard).sum(1) / heard.sum(1)
        return torch.cat([mean, states.masked_fill(~heard, -torch.inf).amax(1)], dim=1)

    @torch.inference_mode()
    def hear(self, sound: np.ndarray) -> np.ndarray:
        """Whole excerpts, on the CPU. Shape: [E, 66150] float32 at 22,050 Hz -> [E, width] float32."""
        read = torch.from_numpy(self.inputs(sound, np.full(len(sound), EXCERPT_SECONDS)))
        return self(read, torch.full((len(sound),), MEL_FRAMES)).numpy()


class FinetunedTower(nn.Module):
    """A pretrained network that is trained on, and the tagger tower's layers after it: one token an excerpt.

    Shape: what the network reads [N, ...] float32, mel frames that are sound [N] int64 -> [N, 128].
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.network = PretrainedNetwork(encoder)
        self.layers = TaggerTower(encoder.width)

    def forward(self, read: Tensor, frames: Tensor) -> Tensor:
        return self.layers(self.network(read, frames))


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*FILES, f"{WEIGHTS}*"]))
    except (OSError, ValueError) as error:  # not there, no network, no such revision, no id at all
        asked = f"{name} at {revision}" if revision else name
        raise ValueError(f"There is no model {asked} here, and none could be fetched.") from error


def _read(folder: Path, name: str) -> tuple[Any, Any]:
    """Network with its weights, and feature extractor, of a model's files. Raises ValueError, a sentence."""
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()  # weights of heads that are not used here are no news; missing ones are told below
    there = {"trust_remote_code": False, "local_files_only": True}
    if not (folder / "config.json").is_file():
        raise ValueError(f"{name} is no model that transformers can load.")
    try:
        config = AutoConfig.from_pretrained(folder, **there)
    except ValueError as error:
        raise ValueError(
            f"{name} is of a kind that transformers has no code for, and code from elsewhere is not run."
        ) from error
    kinds = f"{name} is no audio model that can be used; CLAP, AST and those of Wav2Vec2's kind can."
    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder, **there)
    except (OSError, ValueError) as error:
        raise ValueError(kinds) from error
    kind = type(extractor).__name__
    if kind not in (CLAP, AST, WAVEFORM) or config.is_encoder_decoder:
        raise ValueError(kinds)
    if not any(folder.glob(WEIGHTS)):
        raise ValueError(f"{name} has no weights as safetensors, and others are not loaded.")
    network, info = AutoModel.from_pretrained(
        folder, **there, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    if kind == WAVEFORM and not hasattr(network, "_get_feature_vector_attention_mask"):
        raise ValueError(kinds)
    if missing := set(info["missing_keys"]) - UNUSED_WEIGHTS:
        raise ValueError(f"{name} lacks {len(missing)} of its weights.")
    return (network.audio_model if kind == CLAP else network), extractor


def _licence(card: Path) -> str:
    """What the front matter of a model card names, "not stated" where it names none."""
    from huggingface_hub import ModelCard

    if not card.is_file():
        return "not stated"
    data = ModelCard.load(card, ignore_metadata_errors=True).data
    # "other" has a name of its own beside it.
    licence = data.get("license_name") or data.license or "not stated"
    return ", ".join(licence) if isinstance(licence, list) else str(licence)


def _digest(folder: Path) -> str:
    """Of all that is read of a model in a folder, but for its card."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*config.json"), *folder.glob(WEIGHTS)]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
