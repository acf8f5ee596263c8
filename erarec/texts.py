"""What the page says, in five languages.

Sentences stand in English where they are said, with named gaps: ``say("Probably {year}.", year=1977)``. The
catalogues in ``assets/texts`` give each of them in another language, under the English one.
"""

import json
import string
from functools import cache
from typing import Any, Self

from babel.numbers import format_decimal, get_decimal_symbol, get_group_symbol

from erarec import ASSETS

LANGUAGES = {"en": "English", "de": "Deutsch", "fr": "Français", "es": "Español", "ja": "日本語"}
CATALOGUES = ASSETS / "texts"
# Python's formats, as Unicode's patterns.
PATTERNS = {",": "#,##0", ".0f": "0", ".1f": "0.0", ".2f": "0.00", ".3f": "0.000"}


class Sentence(str):
    """An English sentence that can be said in another language: it remembers what it was made from.

    Attributes:
        template: with named gaps. values: what fills them.
    """

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, **values: Any) -> Self:
        sentence = super().__new__(cls, template.format(**values) if values else template)
        sentence.template, sentence.values = template, values
        return sentence


class Texts(string.Formatter):
    """Says sentences in one language; what its catalogue lacks, in English."""

    def __init__(self, language: str = "en") -> None:
        self.language = language if language in LANGUAGES else "en"
        self._catalogue = catalogue(self.language)
        self.separators = get_decimal_symbol(self.language) + get_group_symbol(self.language)

    def __call__(self, template: str, **values: Any) -> str:
        """An English template in this language, its gaps filled."""
        template = self._catalogue.get(template, template)
        return self.format(template, **values) if values else template

    def format_field(self, value: Any, format_spec: str) -> str:
        """A number with this language's comma and point; what has no format, as years have none, as it is."""
        return format_decimal(value, PATTERNS[format_spec], self.language) if format_spec else str(value)

    def again(self, sentence: str) -> str:
        """A :class:`Sentence` in this language; any other text as it is."""
        return self(sentence.template, **sentence.values) if isinstance(sentence, Sentence) else sentence


@cache
def catalogue(language: str) -> dict[str, str]:
    """English templates and their translations; English itself has none."""
    if language == "en":
        return {}
    return json.loads((CATALOGUES / f"{language}.json").read_text(encoding="utf-8"))


def choose_language(accepted: str | None) -> str:
    """The first of our languages in a browser's Accept-Language ("de-CH,de;q=0.9,en;q=0.5"), else English."""
    asked = []
    for place, part in enumerate((accepted or "").split(",")):
        name, _, quality = part.strip().partition(";q=")
        try:
            asked.append((-float(quality or 1), place, name.split("-")[0].lower()))
        except ValueError:
            continue
    return next((name for _, _, name in sorted(asked) if name in LANGUAGES), "en")


ENGLISH = Texts()
