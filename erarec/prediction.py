"""From a file and an artist's name to an answer."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class EraPrediction:
    """What was heard, and how sure it is. Field by field the JSON that the command line prints.

    Attributes:
        model, version: which checkpoint and which erarec answered.
        year: the year whose +-3 years hold most probability.
        interval: first and last year of the smallest span that holds 80 %.
        years: the classes, 1890 to 2029.
        probabilities: "sound", "artist" and "both", each over ``years``; None where not given.
        decades: probability by decade ("1970s": 0.41).
        attention: "sound" + "artist" = 1, by attention rollout from the class token.
        sound_attention: [{"start": s, "end": s, "share": float}], shares summing to attention["sound"].
        word_attention: [{"word": str, "share": float}], summing to attention["artist"].
        shift_without: how many years ``year`` moves when "sound" or "artist" is taken away.
        artist: {"query", "name", "match", "biography", "source"}.
        embedding: 64 numbers, length 1. map: its place, [x, y].
        neighbours: ten of {"artist", "title", "year", "similarity"}, nearest in the embedding space.
        notices: sentences that the user should read beside the answer.
        seconds: where the time went.
    """

    model: str
    version: str
    year: int
    interval: list[int]
    years: list[int]
    probabilities: dict[str, list[float] | None]
    decades: dict[str, float]
    attention: dict[str, float]
    sound_attention: list[dict[str, float]]
    word_attention: list[dict[str, str | float]]
    shift_without: dict[str, int | None]
    artist: dict[str, str | None]
    embedding: list[float]
    map: list[float]
    neighbours: list[dict[str, str | int | float]]
    notices: list[str]
    seconds: dict[str, float]

    def to_dict(self) -> dict:
        return asdict(self)

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)
