"""Captions: each says of which species it is true; words are single tokens."""

import re
from pathlib import Path

import numpy as np
from open_clip.tokenizer import SimpleTokenizer

from birds.captions import EMPTY, GENERA, Caption, described, names, short, vocabulary
from birds.merges import learn_merges, write_merges
from birds.species import ATTRIBUTES, SPECIES, attributes


def drawn(seed: int, count: int = 300) -> list[Caption]:
    rng = np.random.default_rng(seed)
    return [*names(rng), *short(rng), *described(rng, count)]


def test_names_and_attributes_come_once_each_and_in_order() -> None:
    rng = np.random.default_rng(1)
    for label, caption in enumerate(names(rng)):
        assert SPECIES[label].name in caption.text
        assert np.flatnonzero(caption.true_of).tolist() == [label]
    for text, caption in zip(ATTRIBUTES, short(rng), strict=False):
        assert text in caption.text
        assert [attributes(species).count(text) == 1 for species in SPECIES] == caption.true_of[:EMPTY].tolist()
    assert {caption.true_of.shape for caption in drawn(2)} == {(EMPTY + 1,)}


def test_what_a_description_says_is_what_it_is_true_of() -> None:
    """Read the text again, word by word, against the species' own attributes."""
    said_false = 0
    for caption in described(np.random.default_rng(3), 400):
        told = [text for text in ATTRIBUTES if re.search(rf"\b{text}\b", caption.text)]
        assert 1 <= len(told) <= 3
        genus = next((genus for genus in GENERA if genus in caption.text), None)
        expected = [genus in (None, species.genus) and set(told) <= set(attributes(species)) for species in SPECIES]
        assert caption.true_of.tolist() == [*expected, False], caption.text
        said_false += not caption.true_of.any()
    assert 10 < said_false < 200


def test_only_the_word_for_nothing_is_true_of_an_empty_picture() -> None:
    true = [caption.text for caption in drawn(4) if caption.true_of[EMPTY]]
    assert len(true) == 1
    assert "without a bird" in true[0]
    of_all = [caption for caption in short(np.random.default_rng(4)) if caption.true_of.all()]
    assert not of_all


def test_every_word_is_one_token_of_open_clips_own_tokenizer(tmp_path: Path) -> None:
    merges = learn_merges(vocabulary())
    write_merges(merges, tmp_path / "bpe.txt.gz")
    tokenizer = SimpleTokenizer(str(tmp_path / "bpe.txt.gz"), context_length=32)
    assert tokenizer.vocab_size == 512 + len(merges) + 2 < 1000
    for caption in drawn(5):
        words = re.findall(r"[a-z]+|[^\sa-z]+", caption.text)
        assert len(tokenizer.encode(caption.text)) == len(words), caption.text
        assert tokenizer.decode(tokenizer.encode(caption.text)).split() == words
    lengths = [(tokenizer([caption.text]) > 0).sum().item() for caption in drawn(6)]
    assert max(lengths) < 32
    again = tmp_path / "again.txt.gz"
    write_merges(learn_merges(sorted(vocabulary(), reverse=True)), again)
    assert again.read_bytes() == (tmp_path / "bpe.txt.gz").read_bytes()
