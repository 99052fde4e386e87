"""Retrying: passing faults are waited for, lasting ones are not."""

import errno
import time
from collections.abc import Callable

import botocore.exceptions
import pytest

from finer_ray import retry as module
from finer_ray.errors import StoreError
from finer_ray.retry import retry, transient


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[float]]:
    tried: list[float] = []

    def action() -> str:
        tried.append(time.monotonic())
        if len(tried) <= times:
            raise error
        return "done"

    return action, tried


PASSING = [
    TimeoutError("slow"),
    ConnectionResetError("reset"),
    OSError(errno.EBUSY, "503 SlowDown"),
    OSError(errno.EREMOTEIO, "500 InternalError"),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
    botocore.exceptions.ReadTimeoutError(endpoint_url="http://127.0.0.1:1"),
]
LASTING = [
    OSError(errno.ENOSPC, "No space left on device"),
    PermissionError(errno.EACCES, "denied"),
    PermissionError("AccessDenied"),
    OSError(errno.EROFS, "Read-only file system"),
    botocore.exceptions.NoCredentialsError(),
]


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_what_passes_is_waited_for(error: Exception) -> None:
    action, tried = failing(3, error)
    assert retry(action, "read it", 30) == "done"
    assert len(tried) == 4


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_patience_ends(error: Exception) -> None:
    action, tried = failing(10**9, error)
    with pytest.raises(StoreError, match=r"cannot read it: .*attempts\)"):
        retry(action, "read it", 0.3)
    assert len(tried) > 1


@pytest.mark.parametrize("error", LASTING, ids=str)
def test_what_lasts_is_told_at_once(error: Exception) -> None:
    action, tried = failing(10**9, error)
    with pytest.raises(StoreError):
        retry(action, "write it", 60)
    assert len(tried) == 1


@pytest.mark.parametrize(
    "error", [FileNotFoundError("none"), FileExistsError("there"), ValueError("wrong"), KeyError("x")]
)
def test_answers_and_mistakes_are_no_faults_of_the_store(error: Exception) -> None:
    action, tried = failing(10**9, error)
    with pytest.raises(type(error)):
        retry(action, "read it", 60)
    assert len(tried) == 1
    assert not transient(error)


def test_a_missing_bucket_is_an_answer_to_readers_alone() -> None:
    action, _ = failing(10**9, FileNotFoundError("The specified bucket does not exist"))
    with pytest.raises(StoreError, match=r"cannot write s3://b/x: The specified bucket does not exist"):
        retry(action, "write s3://b/x", 60)
