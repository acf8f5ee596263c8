"""Audio models in the tagger's place: each kind, frozen and trained on, small and with random weights."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from conftest import melody
from safetensors import safe_open
from typer.testing import CliRunner, Result

from erarec import clips, training
from erarec.audio import tagger_sound
from erarec.cli import app
from erarec.models import load_checkpoint
from erarec.pretrained import Encoder

CLAP = {
    "audio_config": {
        "hidden_size": 16,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [1, 2],
        "num_mel_bins": 16,
        "spec_size": 64,
        "window_size": 4,
        "projection_dim": 8,
    },
    "text_config": {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 20,
    },
}
WAVEFORM = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8, 8),
    "conv_stride": (10, 8, 4),
    "conv_kernel": (10, 8, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
AST = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
AST |= {"num_mel_bins": 16, "max_length": 304}


def clap(fused: bool) -> tuple:
    audio = CLAP["audio_config"] | {"enable_fusion": fused}
    config = transformers.ClapConfig(**(CLAP | {"audio_config": audio}), projection_dim=8)
    heard = "fusion" if fused else "rand_trunc"
    extractor = transformers.ClapFeatureExtractor(feature_size=16, hop_length=2000, truncation=heard)
    return transformers.ClapModel(config), extractor


def waveform(kind: str, **changes) -> transformers.PreTrainedModel:
    return getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(**WAVEFORM, **changes)
    )


KINDS: dict[str, Callable[[], tuple]] = {
    "clap": lambda: clap(fused=False),
    "clap-fused": lambda: clap(fused=True),
    "ast": lambda: (
        transformers.ASTForAudioClassification(transformers.ASTConfig(**AST)),  # as those that were published
        transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=304),
    ),
    "wav2vec2": lambda: (waveform("Wav2Vec2"), transformers.Wav2Vec2FeatureExtractor()),
    "hubert": lambda: (
        waveform("Hubert", feat_extract_norm="layer", do_stable_layer_norm=True),
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True),
    ),
    "wavlm": lambda: (waveform("WavLM"), transformers.Wav2Vec2FeatureExtractor()),
}
WAVEFORMS = ("wav2vec2", "hubert", "wavlm")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each kind, one of them with a model card."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, make in KINDS.items():
        model, extractor = make()
        model.save_pretrained(folder / name)
        extractor.save_pretrained(folder / name)
    (folder / "ast" / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n# An AST\n")
    return folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    with (folder / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "artist", "year_lo", "year_hi"])
        for n in range(6):
            soundfile.write(folder / f"{n}.wav", melody(1.5 + n / 2, 22050, seed=n), 22050)
            rows.writerow([f"{n}.wav", f"Artist {n}", 1960 + 10 * n, 1960 + 10 * n])
    return folder / "manifest.csv"


class InThisProcess:
    """In place of a pool of processes, each of which would import for seconds before it hears a clip."""

    def __init__(self, initializer: Callable, initargs: tuple, **_) -> None:
        initializer(*initargs)

    def __enter__(self) -> "InThisProcess":
        return self

    def __exit__(self, *_) -> None:
        pass

    map = staticmethod(map)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(clips, "ProcessPoolExecutor", InThisProcess)
    # Codecs and loudspeakers take most of the time, and are not what is tested here.
    monkeypatch.setattr(training, "TRAINING_HEARINGS", ("clean", "low-pass-4k"))
    yield
    torch.set_num_threads(threads)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(manifest: Path, encoder: Path | str, out: Path, *more: str | Path) -> Result:
    options = ["--model", "audio-suc", "--epochs", "2", "--batch-size", "3", "--cache", out.parent / "cache"]
    return run("train", manifest, "--encoder", encoder, "--out", out, *options, *more)


def excerpts(count: int = 2) -> np.ndarray:
    return np.stack([melody(3, 22050, seed=n) for n in range(count)])


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_says_what_the_model_says_that_was_saved(
    models: Path, kind: str, capfd: pytest.CaptureFixture
) -> None:
    saved, extractor = KINDS[kind]()
    saved = type(saved).from_pretrained(models / kind).eval()
    capfd.readouterr()
    encoder = Encoder.find(str(models / kind))
    heard = encoder.load().hear(excerpts())
    assert heard.shape == (2, encoder.width)
    assert capfd.readouterr().err == ""
    with torch.inference_mode():
        if kind.startswith("clap"):
            read = encoder.load().inputs(excerpts(), np.full(2, 3.0))
            is_longer = torch.zeros(2, 1, dtype=torch.bool)
            expected = saved.audio_model(torch.from_numpy(read), is_longer=is_longer).pooler_output
        else:
            sound = list(tagger_sound(excerpts()))  # 16 kHz, as all but CLAP hear
            read = extractor(sound, sampling_rate=16000, return_tensors="pt")["input_values"]
            output = (saved.audio_spectrogram_transformer if kind == "ast" else saved)(read)
            states = output.last_hidden_state
            pooled = [states.mean(1), states.amax(1)]
            expected = output.pooler_output if kind == "ast" else torch.cat(pooled, dim=1)
    np.testing.assert_allclose(heard, expected.numpy(), atol=1e-4)


def test_an_extractor_s_chance_has_no_say(models: Path) -> None:
    network = Encoder.find(str(models / "clap-fused")).load()
    assert np.array_equal(network.hear(excerpts(4)), network.hear(excerpts(4)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_in_the_padding_is_not_heard(models: Path, kind: str) -> None:
    network = Encoder.find(str(models / kind)).load()
    sound, seconds = excerpts(), np.array([3.0, 1.5])
    noisy = sound.copy()
    noisy[1, len(noisy[1]) // 2 :] = 1.0
    assert np.array_equal(network.inputs(sound, seconds), network.inputs(noisy, seconds))


@pytest.mark.parametrize("kind", WAVEFORMS)
def test_padding_is_not_pooled(models: Path, kind: str) -> None:
    network = Encoder.find(str(models / kind)).load()
    sound = torch.from_numpy(network.inputs(excerpts(1), np.array([1.5])))
    with torch.inference_mode():
        pooled, whole = network(sound, torch.tensor([65])), network(sound, torch.tensor([130]))
        states = network.network(sound).last_hidden_state[0]
    assert not torch.allclose(pooled, whole, atol=1e-3)
    if kind != "hubert":  # which is told of the padding, so that its states are others
        heard = states[: network.network._get_feat_extract_output_lengths(65 * 512 * 16000 // 22050)]
        torch.testing.assert_close(pooled[0], torch.cat([heard.mean(0), heard.amax(0)]))


@pytest.mark.parametrize("kind", ["clap", "ast", "wav2vec2", "hubert"])
@pytest.mark.usefixtures("in_this_process")
def test_a_frozen_encoder_is_only_named(models: Path, manifest: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "mine.safetensors"
    folder = shutil.copytree(models / kind, tmp_path / "encoder")
    result = train(manifest, folder, out)
    assert result.exit_code == 0, result.stderr
    assert "steps/s" in result.stderr
    with safe_open(out, "pt") as file:
        assert not [name for name in file.keys() if "network" in name]  # noqa: SIM118 (no mapping)
        config = json.loads(file.metadata()["config"])
    assert (config["encoder"]["name"], config["encoder"]["finetuned"]) == (str(folder), False)
    licence = "bsd-3-clause" if kind == "ast" else "not stated"
    assert config["encoder"]["licence"] == licence
    assert f"- **Licence:** {licence}, that of {folder} " in out.with_suffix(".md").read_text()

    answer = json.loads(run("predict", manifest.parent / "5.wav", "--model", out, "--json").stdout)
    assert 1890 <= answer["year"] <= 2029
    assert not [notice for notice in answer["notices"] if "unlike the music" in notice]
    evaluated = run("evaluate", manifest, "--model", out, "--cache", tmp_path / "cache")
    assert evaluated.exit_code == 0, evaluated.stderr

    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    refused = run("predict", manifest.parent / "5.wav", "--model", out)
    assert refused.exit_code == 2
    assert "no longer the one that was trained with" in refused.stderr


@pytest.mark.parametrize("kind", ["clap", "ast", "wav2vec2", "hubert"])
@pytest.mark.usefixtures("in_this_process")
def test_a_finetuned_encoder_is_in_the_checkpoint(
    models: Path, manifest: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "mine.safetensors"
    folder = shutil.copytree(models / kind, tmp_path / "encoder")
    result = train(manifest, folder, out, "--finetune", "--learning-rate", "0.1")
    assert result.exit_code == 0, result.stderr
    before = Encoder.find(str(folder)).load().state_dict()
    shutil.rmtree(folder)
    model, config = load_checkpoint(out)
    assert config.encoder is not None
    assert config.encoder.finetuned
    after = model.sound_encoder.towers["tagger"].network.state_dict()
    moved = [name for name in before if not torch.allclose(before[name], after[name], atol=1e-3)]
    assert len(moved) > len(before) / 3
    assert "fine-tuned" in out.with_suffix(".md").read_text()
    answer = json.loads(run("predict", manifest.parent / "5.wav", "--model", out, "--json").stdout)
    assert 1890 <= answer["year"] <= 2029


def test_a_finetuned_encoder_hears_beside_the_cnn(models: Path, manifest: Path, tmp_path: Path) -> None:
    encoder = Encoder.find(str(models / "wav2vec2"), finetuned=True)
    few = {"epochs": 1, "cnn_epochs": 1, "tagger_epochs": 1, "batch_size": 4, "excerpts": 1}
    settings = training.Settings("audio-suc", ("cnn", "tagger"), **few)
    material = training.prepare(
        clips.read_manifest(manifest), settings, tmp_path, device="cpu", encoder=encoder
    )
    model, _ = training.train(material, settings, device="cpu")
    assert set(model.sound_encoder.towers) == {"cnn", "tagger"}
    before, after = encoder.load().state_dict(), model.sound_encoder.towers["tagger"].network.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.usefixtures("in_this_process")
def test_interrupted_finetuning_ends_at_the_same_weights(
    models: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, resumed = tmp_path / "straight.safetensors", tmp_path / "resumed.safetensors"
    assert train(manifest, models / "wav2vec2", straight, "--finetune").exit_code == 0
    save = training._save_state

    def save_and_stop(*arguments) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save_state", save_and_stop)
    assert train(manifest, models / "wav2vec2", resumed, "--finetune").exit_code != 0
    assert not resumed.exists()
    assert resumed.with_suffix(".state").is_dir()
    monkeypatch.setattr(training, "_save_state", save)
    assert train(manifest, models / "wav2vec2", resumed, "--finetune").exit_code == 0
    first, second = load_checkpoint(straight)[0].state_dict(), load_checkpoint(resumed)[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not resumed.with_suffix(".state").exists()


def test_a_hub_model_is_pinned_to_its_commit(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the hub's folder of what was fetched before, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--nobody--tiny"
    commits = {"ast": "a" * 40, "wavlm": "b" * 40}
    for kind, commit in commits.items():
        shutil.copytree(models / kind, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commits["ast"])
    found = Encoder.find("nobody/tiny")
    assert (found.name, found.revision, found.licence) == ("nobody/tiny", commits["ast"], "bsd-3-clause")
    (repository / "refs" / "main").write_text(commits["wavlm"])
    assert np.array_equal(
        found.load().hear(excerpts()), Encoder.find(str(models / "ast")).load().hear(excerpts())
    )
    assert Encoder.find("nobody/tiny").revision == commits["wavlm"]
    assert Encoder.find(f"nobody/tiny@{commits['ast']}") == found


def test_features_are_kept_apart_by_encoder(models: Path, manifest: Path, tmp_path: Path) -> None:
    listed = clips.read_manifest(manifest)
    found = [None, Encoder.find(str(models / "ast")), Encoder.find(str(models / "wavlm"))]
    found.append(Encoder.find(str(models / "ast"), finetuned=True))
    assert len({clips.FeatureCache(tmp_path, encoder=each)._key(listed, "clean") for each in found}) == 4


def text_model(folder: Path) -> str:
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=20
    )
    transformers.BertModel(config).save_pretrained(folder)
    return "no audio model"


def code_of_its_own(folder: Path) -> str:
    auto_map = {"AutoConfig": "configuration.Own", "AutoModel": "modeling.Own"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    (folder / "configuration.py").write_text("raise SystemExit('run')\n")
    return "code from elsewhere is not run"


def pickled(folder: Path) -> str:
    model, extractor = KINDS["hubert"]()
    model.config.save_pretrained(folder)
    extractor.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return "no weights as safetensors"


def another_kind(folder: Path) -> str:
    transformers.WhisperConfig(d_model=8).save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return "no audio model that can be used"


def nothing(folder: Path) -> str:
    return "no model that transformers can load"


@pytest.mark.parametrize("make", [text_model, code_of_its_own, pickled, another_kind, nothing])
def test_what_cannot_be_an_encoder_is_refused_in_one_sentence(
    manifest: Path, tmp_path: Path, make: Callable[[Path], str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    why = make(folder)
    result = train(manifest, folder, tmp_path / "mine.safetensors")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert why in result.stderr


@pytest.mark.parametrize("name", ["nobody/no-such-model", "nobody/no-such-model@main", "no/such/thing"])
def test_a_model_that_is_not_there_is_refused_in_one_sentence(
    manifest: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = train(manifest, name, tmp_path / "mine.safetensors")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "There is no model" in result.stderr


def test_options_that_do_not_go_together_are_refused(models: Path, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    assert run("train", manifest, "--out", out, "--finetune").exit_code == 2
    assert train(manifest, models / "ast", out, "--towers", "cnn").exit_code == 2
