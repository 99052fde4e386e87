"""Class names: one form of writing on both sides, and what a number stands for."""

import json
import unicodedata
from pathlib import Path

import pytest

from finer_ray.errors import ConfigError
from finer_ray.models.classes import ClassNames, read_classes

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "Épervier"), unicodedata.normalize("NFD", "Épervier")


@pytest.mark.parametrize("stored", [COMPOSED, DECOMPOSED, f" {COMPOSED} ", f"\t{DECOMPOSED}\u3000"])
@pytest.mark.parametrize("asked", [COMPOSED, DECOMPOSED, f"{COMPOSED} ", f"\u00a0{DECOMPOSED}"])
@pytest.mark.parametrize("kind", ["list", "txt", "json", "alias"])
def test_names_are_compared_in_one_form(stored: str, asked: str, kind: str, tmp_path: Path) -> None:
    if kind == "list":
        classes = read_classes(["crow", stored])
    elif kind == "alias":
        classes = ClassNames(("crow", "hawk"), {stored: 1})
    else:
        path = tmp_path / f"classes.{kind}"
        text = f"crow\n\n{stored}\n" if kind == "txt" else json.dumps(["crow", stored], ensure_ascii=False)
        # As Windows' editors write it, with a byte order mark.
        path.write_text(text, encoding="utf-8-sig")
        classes = read_classes(str(path))
    assert classes.index(asked) == 1
    assert classes.index(" crow") == 0
    assert classes.names == ("crow", "hawk" if kind == "alias" else COMPOSED)


def test_blanks_inside_of_a_name_stay() -> None:
    classes = ClassNames(("a  b", "a b"))
    assert (classes.index("a  b"), classes.index("a b")) == (0, 1)


def test_names_that_become_one_are_told_apart_by_no_name() -> None:
    classes = ClassNames(("crow", DECOMPOSED, f"{COMPOSED} "))
    with pytest.raises(LookupError, match="more than one class is called 'Épervier': give the index"):
        classes.index(COMPOSED)
    assert classes.index(2) == 2
    # A name goes before an alias that says the same.
    assert ClassNames(("crow", "rook"), {"rook": 0}).index("rook") == 1


@pytest.mark.parametrize(
    ("name", "asked", "escaped"),
    [
        ("go away bird", "go\u00a0away bird", r"go\xa0away bird"),
        ("crow", "cr\u200bow", r"cr\u200bow"),
        ("crow", "\uff43\uff52\uff4f\uff57", r"\uff43\uff52\uff4f\uff57"),
        ("a  b", "a b", "a b"),
    ],
)
def test_names_that_look_alike_are_shown_by_their_characters(name: str, asked: str, escaped: str) -> None:
    with pytest.raises(LookupError) as caught:
        ClassNames(("rook", name)).index(asked)
    assert f"'{name}' looks the same, but has other characters than '{escaped}'" in str(caught.value.args[0])


@pytest.mark.parametrize("label", ["10", "0", "zebra"])
def test_classes_without_names_have_no_name_that_is_a_number(label: str) -> None:
    classes = ClassNames.numbered(12)
    with pytest.raises(LookupError, match=r"model\.classes is not given.*which name is which class.*sorted order"):
        classes.index(label)
    assert classes.index(10) == 10
    assert classes.names[10] == "10"
    # Where they are given, a number is as good a name as any.
    assert ClassNames(("10", "2")).index("2") == 1


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_bytes(b'\xef\xbb\xbf["a"')
    with pytest.raises(ConfigError, match=r"model\.concepts: .*cannot be read"):
        read_classes(str(path), "concepts")


def test_among_many_names_those_of_the_same_beginning_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = ClassNames(("House Sparrow", "Mouse Sparrow", "Robin"))
    message = "no class is called 'House Sparow'"
    with pytest.raises(LookupError, match=rf"{message} \(nearest: House Sparrow, Mouse Sparrow\)"):
        classes.index("House Sparow")
    monkeypatch.setattr("finer_ray.models.classes.MANY", 2)
    with pytest.raises(LookupError, match=rf"{message} \(nearest: House Sparrow\)"):
        classes.index("House Sparow")
    with pytest.raises(LookupError, match="looks the same"):
        classes.index("House\u200b Sparrow")
