"""The frozen tagger: MSD_musicnn and MSD_vgg, re-implemented for inference, with weights from assets.

Both were trained by Pons and Serra on the same 200,000 songs for the same 50 tags ("musicnn: pre-trained
convolutional neural networks for music audio tagging", 2019, arXiv 1909.06654). They are built so differently
that together they tell more than either alone.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from erarec import ASSETS
from erarec.audio import TAGGER_FRAMES, TAGGER_HOP, TAGGER_SAMPLE_RATE

MUSICNN_PATH = ASSETS / "tagger.safetensors"
VGG_PATH = ASSETS / "tagger-vgg.safetensors"
PENULTIMATE = 200
POOLED = 1506
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
MUSICNN_FEATURES = PENULTIMATE + len(TAGS) + POOLED  # 1,756 numbers an excerpt
VGG_WIDTH = 128  # channels of each of its five layers
VGG_BANDS = 6  # frequencies left after the fourth
VGG_FEATURES = (3 * 3 + VGG_BANDS + 1 + 2) * VGG_WIDTH + len(TAGS)  # 2,354
TAGGER_FEATURES = MUSICNN_FEATURES + VGG_FEATURES


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


class Musicnn(nn.Module):
    """MSD_musicnn, for inference: 50 Last.fm tags of a three-second excerpt."""

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
        self.pooled_norm, self.dense_norm = _Norm(POOLED), _Norm(PENULTIMATE)
        self.dense = nn.Linear(POOLED, PENULTIMATE)
        self.tags = nn.Linear(PENULTIMATE, len(TAGS))
        self._blocks: list[Tensor] | None = None
        self.requires_grad_(False).eval()

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


class Vgg(nn.Module):
    """MSD_vgg, for inference: the same tags from five layers of 3 x 3 convolutions, time by frequency."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, *[VGG_WIDTH] * 5]
        self.layers = nn.ModuleList([nn.Conv2d(before, VGG_WIDTH, 3, padding=1) for before in widths[:5]])
        self.norms = nn.ModuleList([_Norm(width) for width in widths])
        self.tags = nn.Linear(2 * VGG_WIDTH, len(TAGS))
        self.requires_grad_(False).eval()

    def forward(self, mel: Tensor, frames: Tensor | None = None) -> Tensor:
        """Pools of every layer and log tags of each excerpt.

        Of the first three layers mean, maximum and deviation over time and frequency, of the fourth the mean
        over time of each frequency and the maximum over both, of the fifth all that there is.

        Shape: mel [E, 187, 96] float32, frames [E] int64 (how many of the 187 are sound; all if None)
        -> [E, 2354] float32.
        """
        if frames is None:
            frames = torch.full((len(mel),), TAGGER_FRAMES, device=mel.device)
        # As above: pooled before bias and ReLU would be due, with kernels negated where the norm's scale is.
        norms = list(cast(Iterable[_Norm], self.norms))
        scales = [norm.weight / (norm.running_var + norm.eps).sqrt() for norm in norms]
        shifts = [n.bias - n.running_mean * scale for n, scale in zip(norms, scales, strict=True)]
        layers = []
        convolutions = cast(Iterable[nn.Conv2d], self.layers)
        for layer, scale, shift in zip(convolutions, scales[1:], shifts[1:], strict=True):
            sign = scale.sign()
            weight = (layer.weight * sign[:, None, None, None]).contiguous(memory_format=torch.channels_last)
            layers.append((weight, cast(Tensor, layer.bias) * sign, sign, scale, shift))
        # One excerpt at a time keeps the wide first layers in the processor's cache.
        size = 1 if mel.device.type == "cpu" else 64
        parts = zip((mel * scales[0] + shifts[0]).split(size), frames.split(size), strict=True)
        return torch.cat([self._hear(part, heard, layers) for part, heard in parts])

    def _hear(self, mel: Tensor, frames: Tensor, layers: Sequence[tuple[Tensor, ...]]) -> Tensor:
        x = mel[:, None].contiguous(memory_format=torch.channels_last)
        features = []
        for number, (weight, bias, sign, scale, shift) in enumerate(layers):
            if number == 0:
                # Pooled [4 x 1] with strides of 2: every other frequency is never looked at.
                x = F.conv2d(x, weight, bias, stride=(1, 2), padding=1)
                size, step, bands = 4, 2, 1
            else:
                x = F.conv2d(x, weight, bias, padding=1)
                size = step = bands = 4 if number == 4 else 2
            x = self._pool(x, size, step, bands).permute(0, 2, 3, 1)  # [E, frames, frequencies, 128]
            x = F.relu(x * sign) * scale + shift
            frames = ((frames - size) // step + 1).clamp(1)
            features.extend(self._pools(number, x, frames))
            x = x.permute(0, 3, 1, 2)
        features.append(F.logsigmoid(self.tags(features[-1])).float())
        return torch.cat(features, dim=1)

    @staticmethod
    def _pool(x: Tensor, size: int, step: int, bands: int) -> Tensor:
        """Maximum over ``size`` frames and ``bands`` frequencies; slices beat the library's own pooling."""
        count, wide = (x.shape[2] - size) // step + 1, x.shape[3] // bands
        frames = [x[:, :, at : at + step * (count - 1) + 1 : step] for at in range(size)]
        x = functools.reduce(torch.maximum, frames)
        return functools.reduce(torch.maximum, [x[..., at : wide * bands : bands] for at in range(bands)])

    @staticmethod
    def _pools(number: int, x: Tensor, frames: Tensor) -> list[Tensor]:
        """What is kept of a layer. Shape: [E, frames, frequencies, 128], heard frames [E] -> each [E, n]."""
        if number == 4:
            # Its two positions in time; where the second hears only padding, the first stands for both.
            second = torch.where((frames > 1)[:, None], x[:, 1, 0], x[:, 0, 0])
            return [torch.cat([x[:, 0, 0], second], 1)]
        heard = (torch.arange(x.shape[1], device=x.device) < frames[:, None])[..., None, None]
        silenced = x * heard
        by_band = silenced.sum(1) / frames[:, None, None]
        mean, highest = by_band.mean(1), x.masked_fill(~heard, -torch.inf).amax((1, 2))
        if number == 3:
            return [by_band.transpose(1, 2).flatten(1), highest]
        square = silenced.square().sum((1, 2)) / (frames[:, None] * x.shape[2])
        return [mean, highest, (square - mean.square()).clamp(0).sqrt()]


class Tagger(nn.Module):
    """Both networks on the same spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        self.musicnn, self.vgg = Musicnn(), Vgg()
        self.eval()

    @classmethod
    def load(cls) -> "Tagger":
        """The tagger with its imported weights. Raises FileNotFoundError where an asset is missing."""
        tagger = cls()
        for network, path in ((tagger.musicnn, MUSICNN_PATH), (tagger.vgg, VGG_PATH)):
            network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        return tagger

    def forward(self, mel: Tensor, frames: Tensor | None = None) -> Tensor:
        """Shape: mel [E, 187, 96] float32, frames [E] int64 (of sound; all if None) -> [E, 4110] float32."""
        return torch.cat([self.musicnn(mel, frames).float(), self.vgg(mel, frames)], dim=1)


def tagger_frames(seconds: np.ndarray) -> np.ndarray:
    """How many of the tagger's 187 frames hear sound. Shape: [E] float seconds -> [E] int64."""
    return np.clip(np.ceil(seconds * TAGGER_SAMPLE_RATE / TAGGER_HOP), 1, TAGGER_FRAMES).astype(np.int64)
