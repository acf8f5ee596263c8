"""The model card that stands beside a checkpoint of one's own."""

from collections.abc import Sequence

import erarec
from erarec.clips import Clip
from erarec.models import Config

LOSSES = {
    "audio-cnn": "L_MLE",
    "audio-suc": "L_MLE + alpha L_EC",
    "audioart-mmc": "L_MLE + alpha L_EC + beta L_MMC",
}


def model_card(name: str, config: Config, clips: Sequence[Clip]) -> str:
    """What a checkpoint is, what it was trained on and how, and whose licence it is under, as Markdown.

    ``clips`` are those it was trained on.
    """
    settings = {key: value for key, value in config.training.items() if key not in ("model", "towers")}
    settings = {key.replace("_", " "): value for key, value in settings.items()}
    first, last = min(clip.year_lo for clip in clips), max(clip.year_hi for clip in clips)
    artists = len({clip.artist_key for clip in clips})
    lines = [
        f"# {name}",
        "",
        f"Tells when a recording was made: {config.model}, trained with erarec {erarec.__version__}.",
        "",
        f"- **Sound encoder:** {', '.join(_towers(config))}; one token for each excerpt of three seconds.",
        f"- **Loss:** {LOSSES[config.model]}.",
        f"- **Data:** {len(clips):,} clips by {artists:,} artists, {first} to {last}.",
        f"- **Training:** {', '.join(f'{key} {value}' for key, value in settings.items())}.",
        "- **Answer:** a distribution over the years 1890 to 2029.",
        f"- **Licence:** {_licence(config)}",
        "",
        "How good it is has not been measured: `python -m erarec evaluate` does that, on other artists.",
    ]
    return "\n".join(lines) + "\n"


def _towers(config: Config) -> list[str]:
    encoder = config.encoder
    if encoder is None:
        return [f"{tower} tower" for tower in config.towers]
    how = "fine-tuned" if encoder.finetuned else "frozen"
    own = [f"{tower} tower" for tower in config.towers if tower != "tagger"]
    return [*own, f"{encoder.name} at {encoder.revision}, {how}"]


def _licence(config: Config) -> str:
    encoder = config.encoder
    if encoder is None:
        own = "what was trained here is yours to license"
        return f"{own}; the tagger's network is under ISC." if "tagger" in config.towers else f"{own}."
    holds = "holds its weights" if encoder.finetuned else "only names it"
    return f"{encoder.licence}, that of {encoder.name} as its card states it; the checkpoint {holds}."
