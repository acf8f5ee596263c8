"""Every sentence is there in every language, and says the same things."""

import ast
import copy
import json
import string
from pathlib import Path

import pytest

from erarec.texts import LANGUAGES, Sentence, Texts, catalogue, choose_language

ROOT = Path(__file__).parents[1]
SAID_BY = {"say", "label", "Sentence", "UnusableAudio"}  # their first argument is a template


def templates() -> set[str]:
    """All English templates in the code: first arguments of what says them, or names that stand for one."""
    found = set()
    for path in [ROOT / "app.py", *(ROOT / "erarec").glob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args:
                name = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                if name in SAID_BY:
                    found |= _constants(node.args[0], tree)
    return found


def _constants(node: ast.expr, tree: ast.Module) -> set[str]:
    """The strings that an argument may be: itself, or what is assigned to its name anywhere in the file."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    if isinstance(node, ast.Subscript):
        node = node.value
    if not isinstance(node, ast.Name):
        return set()
    values = [
        assigned.value
        for assigned in ast.walk(tree)
        if isinstance(assigned, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == node.id for target in assigned.targets)
    ]
    return {
        part.value
        for value in values
        for part in (value.values if isinstance(value, ast.Dict) else [value])
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


def gaps(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_a_catalogue_holds_every_sentence_and_no_other(language: str) -> None:
    assert set(catalogue(language)) == templates()


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_a_translation_has_the_same_gaps(language: str) -> None:
    for english, translated in catalogue(language).items():
        assert gaps(translated) == gaps(english), english
        assert translated.strip()


def test_a_sentence_is_english_and_can_be_said_again() -> None:
    sentence = Sentence("{name} is empty.", name="a{b}.mp3")
    assert sentence == "a{b}.mp3 is empty."
    assert Texts("de").again(sentence) == "a{b}.mp3 ist leer."
    assert Texts("de").again(copy.deepcopy(sentence)) == "a{b}.mp3 ist leer."
    assert json.dumps(sentence) == '"a{b}.mp3 is empty."'
    assert Texts("de").again("as it is {") == "as it is {"


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("de-CH,de;q=0.9,en;q=0.5", "de"),
        ("nl,fr;q=0.3,en;q=0.8", "en"),
        ("ja", "ja"),
        ("pt-BR", "en"),
        ("es;q=x,fr;q=0.1", "fr"),
        ("", "en"),
        (None, "en"),
    ],
)
def test_the_browser_says_which_language(accepted: str | None, language: str) -> None:
    assert choose_language(accepted) == language
