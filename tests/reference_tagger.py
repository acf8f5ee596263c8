"""MSD_musicnn and MSD_vgg once more, in NumPy alone: slow, sharing only the weights' files with erarec.

    python tests/reference_tagger.py

writes tests/tagger_reference.npz, what the networks say of two sounds; tests/test_encoders.py holds
erarec.tagger.Tagger against it. Convolutions are written as they are defined: no block matrices, no
maximum before its time, norms where they stand.
"""

from pathlib import Path

import librosa
import numpy as np
from conftest import melody
from safetensors.numpy import load_file

REFERENCE = Path(__file__).with_name("tagger_reference.npz")
WEIGHTS = Path(__file__).parents[1] / "assets" / "tagger.safetensors"
VGG_WEIGHTS = WEIGHTS.with_name("tagger-vgg.safetensors")
SAMPLE_RATE = 16000
FRAMES = (187, 90)  # how many frames of each sound are pooled


def sounds() -> np.ndarray:
    """A tune, and half a tune in louder noise. Shape: [2, 48000] float32 at 16 kHz."""
    noise = np.random.default_rng(1).standard_normal(48000) * np.linspace(0.01, 0.2, 48000)
    half = np.where(np.arange(48000) < 24000, melody(3, SAMPLE_RATE, seed=1), 0)
    return np.stack([melody(3, SAMPLE_RATE, seed=0), half + noise]).astype(np.float32)


def spectrogram(sound: np.ndarray) -> np.ndarray:
    """Shape: [48000] -> [187, 96]."""
    # Reflected edges were librosa's default when the network was trained.
    power = librosa.feature.melspectrogram(
        y=sound, sr=SAMPLE_RATE, n_fft=512, hop_length=256, n_mels=96, pad_mode="reflect"
    )
    return np.log10(10000 * power.T.astype(np.float64) + 1)[:187]


def features(mel: np.ndarray, weights: dict[str, np.ndarray], frames: int = 187) -> np.ndarray:
    """Penultimate layer, log tags, pools of the first ``frames`` frames. Shape: [187, 96] -> [1756]."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        scale = weights[f"{name}.weight"] / np.sqrt(weights[f"{name}.running_var"] + 1e-3)
        return (x - weights[f"{name}.running_mean"]) * scale + weights[f"{name}.bias"]

    def convolve(x: np.ndarray, kernel: np.ndarray, name: str) -> np.ndarray:
        """'Valid' in both axes. Shape: [T, F], [t, f, K] -> [T - t + 1, F - f + 1, K]."""
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2])
        return np.tensordot(windows, kernel, axes=([2, 3], [0, 1])) + weights[f"{name}.bias"]

    x = norm(mel, "input_norm")
    front = []
    for i in range(2):
        kernel = weights[f"timbre.{i}.weight"]  # [7, 38 or 67, 204]: time, frequency, filter
        y = convolve(np.pad(x, ((3, 3), (0, 0))), kernel, f"timbre.{i}")
        front.append(norm(np.maximum(y, 0), f"timbre_norms.{i}").max(axis=1))
    for i, (before, after) in enumerate([(63, 64), (31, 32), (15, 16)]):
        kernel = weights[f"temporal.{i}.weight"].transpose(2, 1, 0)  # [128, 64 or 32, 1, 51]
        y = convolve(np.pad(x, ((before, after), (0, 0))), kernel, f"temporal.{i}")
        front.append(norm(np.maximum(y, 0), f"temporal_norms.{i}").max(axis=1))
    layers = [np.concatenate(front, axis=1)]  # [187, 561]
    for i in range(3):
        kernel = weights[f"middle.{i}.weight"].transpose(2, 1, 0)  # [7, 561 or 64, 64]
        y = convolve(np.pad(layers[-1], ((3, 3), (0, 0))), kernel, f"middle.{i}")[:, 0]
        y = norm(np.maximum(y, 0), f"middle_norms.{i}")
        layers.append(y + layers[-1] if i else y)
    heard = np.concatenate(layers, axis=1)[:frames]  # [frames, 753]
    pools = np.empty(2 * heard.shape[1])
    pools[0::2], pools[1::2] = heard.max(axis=0), heard.mean(axis=0)
    hidden = weights["dense.weight"] @ norm(pools, "pooled_norm") + weights["dense.bias"]
    penultimate = norm(np.maximum(hidden, 0), "dense_norm")
    tags = weights["tags.weight"] @ penultimate + weights["tags.bias"]
    return np.concatenate([penultimate, -np.log1p(np.exp(-tags)), pools])


def vgg_features(mel: np.ndarray, weights: dict[str, np.ndarray], frames: int = 187) -> np.ndarray:
    """Pools of five layers and log tags. Shape: [187, 96] -> [2354]."""

    def norm(x: np.ndarray, number: int) -> np.ndarray:
        name = f"norms.{number}"
        scale = weights[f"{name}.weight"] / np.sqrt(weights[f"{name}.running_var"] + 1e-3)
        return (x - weights[f"{name}.running_mean"]) * scale + weights[f"{name}.bias"]

    x, parts = norm(mel[..., None], 0), []
    for number, (size, step) in enumerate([((4, 1), 2), ((2, 2), 2), ((2, 2), 2), ((2, 2), 2), ((4, 4), 4)]):
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
        kernel, bias = weights[f"layers.{number}.weight"], weights[f"layers.{number}.bias"]
        x = np.tensordot(windows, kernel, axes=([2, 3, 4], [1, 2, 3])) + bias
        x = norm(np.maximum(x, 0), number + 1)
        windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=(0, 1))
        x = windows[::step, ::step].max(axis=(-2, -1))
        frames = max(1, (frames - size[0]) // step + 1)
        heard = x[:frames]
        if number < 3:
            parts += [heard.mean((0, 1)), heard.max((0, 1)), heard.std((0, 1))]
        elif number == 3:
            parts += [heard.mean(0).T.reshape(-1), heard.max((0, 1))]
        else:
            parts.append(np.concatenate([x[0, 0], x[1 if frames > 1 else 0, 0]]))
    tags = weights["tags.weight"] @ parts[-1] + weights["tags.bias"]
    return np.concatenate([*parts, -np.log1p(np.exp(-tags))])


def reference() -> np.ndarray:
    """Features of both sounds by both networks, the second masked. Shape: [2, 4110] float64."""
    musicnn, vgg = (
        {name: value.astype(np.float64) for name, value in load_file(path).items()}
        for path in (WEIGHTS, VGG_WEIGHTS)
    )
    mels = [spectrogram(sound) for sound in sounds()]
    return np.stack(
        [
            np.concatenate([features(mel, musicnn, frames), vgg_features(mel, vgg, frames)])
            for mel, frames in zip(mels, FRAMES, strict=True)
        ]
    )


if __name__ == "__main__":
    np.savez_compressed(REFERENCE, features=reference().astype(np.float32))
    print(f"{REFERENCE}: {REFERENCE.stat().st_size:,} bytes")
