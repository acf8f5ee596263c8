"""Bring the tagger's weights, both networks', from the musicnn wheel into assets, as float16 safetensors.

    pip download --no-deps musicnn==0.1.0
    python -m erarec.tools.import_tagger musicnn-0.1.0-py3-none-any.whl

The wheel holds TensorFlow checkpoints: ``.index`` is an uncompressed LevelDB table from variable names to
protobuf messages (dtype, shape, offset, size), ``.data-00000-of-00001`` the raw little-endian float32.
"""

import argparse
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from erarec.tagger import MUSICNN_PATH, VGG_PATH, Musicnn, Vgg

LICENCE = "ISC, Copyright (c) 2019 Music Technology Group, Universitat Pompeu Fabra, Jordi Pons"


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _block(table: bytes, offset: int, size: int) -> list[tuple[bytes, bytes]]:
    """Entries of one LevelDB block: keys share prefixes with the key before them."""
    block = table[offset : offset + size]
    restarts = struct.unpack("<I", block[-4:])[0]
    end, at, key, entries = len(block) - 4 * (restarts + 1), 0, b"", []
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        entries.append((key, block[at : at + length]))
        at += length
    return entries


def _message(data: bytes) -> dict[int, list]:
    """Fields of a protobuf message, by number."""
    fields: dict[int, list] = {}
    at = 0
    value: int | bytes
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
            case 2:
                length, at = _varint(data, at)
                value, at = data[at : at + length], at + length
            case 5:
                value, at = data[at : at + 4], at + 4
            case kind:
                raise ValueError(f"Unexpected protobuf wire type {kind}.")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def read_checkpoint(wheel: Path, folder: str) -> dict[str, np.ndarray]:
    """Variables of a network in the wheel ("MSD_musicnn"), by TensorFlow name, without the optimiser's."""
    with zipfile.ZipFile(wheel) as archive:
        index = next(n for n in archive.namelist() if f"/{folder}/" in n and n.endswith(".index"))
        table = archive.read(index)
        data = archive.read(index.removesuffix(".index") + ".data-00000-of-00001")
    at = len(table) - 48  # the footer: handles of the metaindex and the index block
    for _ in range(2):
        _, at = _varint(table, at)
    offset, at = _varint(table, at)
    size, at = _varint(table, at)
    variables = {}
    for _, handle in _block(table, offset, size):
        block_offset, after = _varint(handle, 0)
        block_size, _ = _varint(handle, after)
        for key, value in _block(table, block_offset, block_size):
            name, entry = key.decode(), _message(value)
            if not name or "Adam" in name or entry.get(1) != [1]:  # dtype 1 is float32
                continue
            shape = [_message(size).get(1, [0])[0] for size in _message(entry[2][0]).get(2, [])]
            start, count = entry.get(4, [0])[0], entry[5][0]
            variables[name] = np.frombuffer(data[start : start + count], "<f4").reshape(shape)
    return variables


NORM_PARTS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def _pick(variables: dict[str, np.ndarray], layer: str, part: str) -> torch.Tensor:
    found = [v for n, v in variables.items() if n == f"{layer}/{part}" or n.endswith(f"/{layer}/{part}")]
    if len(found) != 1:
        raise ValueError(f"The checkpoint has {len(found)} variables {layer}/{part}, not one.")
    return torch.from_numpy(found[0].copy())


def _norm(variables: dict[str, np.ndarray], name: str, number: int) -> dict[str, torch.Tensor]:
    """One of TensorFlow's batch norms, which are numbered, under our name."""
    layer = "batch_normalization" + (f"_{number}" if number else "")
    return {f"{name}.{part}": _pick(variables, layer, theirs) for part, theirs in NORM_PARTS.items()}


def vgg_state(variables: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """TensorFlow's variables under the names and in the layouts of :class:`erarec.tagger.Vgg`."""
    state: dict[str, torch.Tensor] = {}
    for number in range(6):
        state |= _norm(variables, f"norms.{number}", number)
    for number in range(5):
        kernel = _pick(variables, f"{number + 1}CNN", "kernel")  # time x frequency x in x out
        state[f"layers.{number}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        state[f"layers.{number}.bias"] = _pick(variables, f"{number + 1}CNN", "bias")
    state["tags.weight"] = _pick(variables, "dense", "kernel").T.contiguous()
    state["tags.bias"] = _pick(variables, "dense", "bias")
    return state


def musicnn_state(variables: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """TensorFlow's variables under the names and in the layouts of :class:`erarec.tagger.Musicnn`."""
    state: dict[str, torch.Tensor] = {}
    norms = ["input_norm", "timbre_norms.0", "timbre_norms.1"]
    norms += [f"temporal_norms.{i}" for i in range(3)] + [f"middle_norms.{i}" for i in range(3)]
    norms += ["pooled_norm", "dense_norm"]
    for i, name in enumerate(norms):
        state |= _norm(variables, name, i)
    for i in range(8):
        layer = "conv2d" + (f"_{i}" if i else "")
        kernel = _pick(variables, layer, "kernel")  # height x width x in x out
        if i < 2:
            name, weight = f"timbre.{i}", kernel[:, :, 0, :]  # time, frequency, filter
        elif i < 5:
            name, weight = f"temporal.{i - 2}", kernel[:, 0].permute(2, 1, 0)  # filter, 1, time
        else:
            # The first middle layer spans the 561 features, the others the 64 of the layer before;
            # TensorFlow keeps them as height 7 (time) x width (features) x 1 x 64.
            name, weight = f"middle.{i - 5}", kernel[:, :, 0, :].permute(2, 1, 0)
        state[f"{name}.weight"] = weight.contiguous()
        state[f"{name}.bias"] = _pick(variables, layer, "bias")
    for i, name in enumerate(["dense", "tags"]):
        layer = "dense" + (f"_{i}" if i else "")
        state[f"{name}.weight"] = _pick(variables, layer, "kernel").T.contiguous()
        state[f"{name}.bias"] = _pick(variables, layer, "bias")
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    networks: list[tuple[str, nn.Module, Callable, Path]] = [
        ("MSD_musicnn", Musicnn(), musicnn_state, MUSICNN_PATH),
        ("MSD_vgg", Vgg(), vgg_state, VGG_PATH),
    ]
    for folder, network, to_state, path in networks:
        state = to_state(read_checkpoint(wheel, folder))
        network.load_state_dict(state)  # complains if a name or a shape is off
        half = {name: tensor.half() for name, tensor in state.items()}
        for name, tensor in half.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} does not fit float16.")
        save_file(half, path, {"source": f"{folder} of musicnn 0.1.0", "licence": LICENCE})
        print(f"{path}: {len(half)} tensors, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
