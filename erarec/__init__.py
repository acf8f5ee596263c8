"""erarec: hear a recording, name its year."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is imported: its threads spin for some microseconds while they wait for each other, then sleep.
# Spinning on, as they do else, makes small operations ten times as slow whenever anything else wants the
# processor; not spinning at all makes them twice as slow when nothing does.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

if TYPE_CHECKING:
    from erarec.prediction import EraPrediction, EraRecognizer

__version__ = "0.5.0"
__all__ = ["MODELS", "EraPrediction", "EraRecognizer", "load"]

ASSETS = Path(__file__).parents[1] / "assets"
CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
MODELS = ("audioart-mmc", "audio-suc", "audio-cnn")  # best first


def load(model: str = MODELS[0], device: str = "auto") -> "EraRecognizer":
    """A recogniser with its checkpoint, artist library and map.

    Args:
        model: one of MODELS, or the path of a checkpoint.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        ValueError: there is no such model, or the device is not there.
    """
    from erarec.prediction import EraRecognizer

    return EraRecognizer(model, device)


def __getattr__(name: str) -> Any:  # torch is imported only when it is needed
    if name in ("EraPrediction", "EraRecognizer"):
        from erarec import prediction

        return getattr(prediction, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
