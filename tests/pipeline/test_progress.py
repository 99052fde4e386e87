"""Progress in a log: one line for what is begun, then counts."""

import pytest

from finer_ray.pipeline.progress import Progress, announce, run_bar


def test_a_log_has_a_line_for_what_is_begun_and_then_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with run_bar() as bar:
        bar.announce("loading the model")
        with run_bar() as same:
            assert same is bar
        announce("starting Ray")
        for done in (1, 2, 3):
            bar.show(Progress(3, done, 0, new=done))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["loading the model", "starting Ray"]
    assert [line.split(" images")[0] for line in lines[2:]] == ["1/3", "3/3"]


def test_nothing_is_said_where_no_bar_is(capsys: pytest.CaptureFixture[str]) -> None:
    announce("starting Ray")
    with run_bar():
        pass
    assert capsys.readouterr().err == ""


def test_a_bar_is_gone_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="x"), run_bar() as first:
        raise ValueError("x")
    with run_bar() as second:
        assert second is not first
