"""Retrying: which failures of a store pass by themselves, and waiting for them."""

import errno
from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from finer_ray.errors import StoreError

T = TypeVar("T")
# What waiting may heal.  EREMOTEIO and EBUSY are what s3fs makes of a server's 500 and 503.
PASSING = {
    getattr(errno, name)
    for name in (
        *("EAGAIN", "EBUSY", "EINTR", "ETIMEDOUT", "ESTALE", "EREMOTEIO", "EPIPE"),
        *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH"),
    )
    if hasattr(errno, name)
}
# Stores' libraries raise errors of their own that are no OSError; these classes of theirs mean the network.
LIBRARIES = ("aiohttp", "botocore", "aiobotocore", "urllib3", "requests", "google", "gcsfs", "azure")
NETWORK = {
    *("HTTPClientError", "ConnectionError", "ClientConnectionError", "ClientPayloadError", "Timeout", "HTTPError"),
    *("ServerError", "RetryError", "ServiceRequestError", "ServiceResponseError"),
}
# What the operating system says of a file itself.
OF_FILE = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}
# How descriptions of actions that write begin: to them a missing folder or bucket is a fault.
WRITING = "write "
FIRST_WAIT, MAX_WAIT = 0.5, 20.0


def transient(error: BaseException) -> bool:
    """Whether an error of a file system may pass by itself: timeouts, refused connections, a server's 500 or 503.

    A full disk, a missing permission, file or bucket do not.
    """
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in PASSING
    return _of_library(error) and any(kind.__name__ in NETWORK for kind in type(error).__mro__)


def of_store(error: BaseException) -> bool:
    """Whether an error of reading is the store's, not that of what it reads: out of reach, a damaged disk, a file that
    is gone since it was listed.

    A missing permission is the file's own, and what libraries raise without a number of the operating system's (Arrow's
    OSError for a damaged page) is its contents'.
    """
    if transient(error) or isinstance(error, FileNotFoundError):
        return True
    return isinstance(error, OSError) and error.errno is not None and error.errno not in OF_FILE


def _of_library(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in LIBRARIES


def retry(action: Callable[[], T], what: str, seconds: float) -> T:
    """Do something that may be done twice, again and again while it fails in a way that may pass.

    Waits are random, below 0.5 s at first and twice as long each time, up to 20 s, so that workers do not return to
    a store all at once.

    Args:
        action: to do.
        what: it is, for the message: "read s3://bucket/a.tar".
        seconds: after which it is given up.

    Raises:
        StoreError: it was given up, or an error of the store came that waiting does not heal.
        FileExistsError, and FileNotFoundError of what is not written: these are answers, not faults.
        Exception: what else the action raises.
    """
    waits = wait_random_exponential(multiplier=FIRST_WAIT, max=MAX_WAIT)
    tries = Retrying(stop=stop_after_delay(seconds), wait=waits, retry=retry_if_exception(transient), reraise=True)
    try:
        return tries(action)
    except FileExistsError:
        raise
    except FileNotFoundError as error:
        if not what.startswith(WRITING):
            raise
        raise StoreError(_message(what, error, tries)) from error
    except OSError as error:
        raise StoreError(_message(what, error, tries)) from error
    except Exception as error:
        if _of_library(error):
            raise StoreError(_message(what, error, tries)) from error
        raise


def _message(what: str, error: Exception, tries: Retrying) -> str:
    count = tries.statistics.get("attempt_number", 1)
    times = f" ({count} attempts)" if count > 1 else ""
    advice = {
        errno.ENOSPC: "make room",
        errno.EDQUOT: "make room within the quota",
        errno.EACCES: "give the permission",
        errno.EROFS: "choose a place that can be written",
    }.get(
        getattr(error, "errno", None) or 0, "give the permission" if isinstance(error, PermissionError) else "mend it"
    )
    text = " ".join(str(error).split())[:300] or type(error).__name__
    kept = " (what is committed is kept)" if what.startswith(WRITING) else ""
    return f"cannot {what}: {text}{times}: {advice}, and run the same command again{kept}"
