"""What is said of what could not be compared."""

from pathlib import Path

import pytest

from finer_ray.compare.joining import joined, not_joined
from finer_ray.compare.notes import notes
from finer_ray.store.reading import Export
from tests.report.site.exports import make


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return make(tmp_path_factory.mktemp("a"), images=4, embedding=6)


def test_nothing_is_said_of_an_export_and_itself(one: Export) -> None:
    assert notes(one, one, joined(one, one)) == []
    assert notes(one, one, not_joined(one, one)) == ["no image is joined: distributions are compared, not images"]


def test_what_one_of_the_two_lacks_is_named(one: Export, tmp_path: Path) -> None:
    other = make(
        tmp_path, images=4, classes=("cat", "dog", "emu"), references=2, metrics=False, maps=("gradcam", "layercam")
    )
    found = notes(one, other, joined(one, other))
    assert found == [
        "the classes are others: 4 in A, 3 in B, 2 by one name in both",
        "maps that only A has: finer_gradcam",
        "maps that only B has: layercam",
        "metrics that only A has: relative_drop_05, localisation",
        "embeddings are not compared: of each image A has 6 numbers, B none",
    ]


def test_no_map_in_common_is_said_once(one: Export, tmp_path: Path) -> None:
    other = make(tmp_path, images=4, maps=("layercam",), embedding=6)
    assert notes(one, other, joined(one, other))[-1] == (
        "A and B have no map of one name: maps and their metrics are not compared"
    )
