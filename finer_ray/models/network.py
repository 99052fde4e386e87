"""Whether a server of weights answers, asked once: libraries ask again and again, for a minute."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled

from finer_ray.config.messages import brief

# Until an answer, unless the hub's own variable says otherwise.
SECONDS, VARIABLE = 3.0, "HF_HUB_ETAG_TIMEOUT"


def silence(ask: Callable[[], Any], server: str) -> str:
    """Why a server does not answer; '' where it does.

    Args:
        ask: sends a request, and raises an exception where no answer comes.
        server: what messages call it.
    """
    seconds, faults = float(os.environ.get(VARIABLE) or SECONDS), [f"{server} does not answer"]

    def run() -> None:
        try:
            ask()
            faults.append("")
        except Exception as error:
            faults.append(f"{server} cannot be reached ({brief(error)})")

    # Whatever takes long: names, connections, answers.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return faults[-1] if len(faults) > 1 else f"{faults[0]} within {seconds:g} s ({VARIABLE} sets how long to wait)"


@contextmanager
def hub_asked_once() -> Iterator[None]:
    """Have the hub's library take what is in the cache, and ask no more, once the hub has not answered a first request.

    Where it is never asked, nothing is. Proxies and HF_ENDPOINT are as the library knows them.
    """
    client, asker = get_session(), threading.local()
    found: list[str] = []

    def check(request: object) -> None:
        if getattr(asker, "asks", False):
            return
        if not found:
            found.append(silence(ask, constants.ENDPOINT))
        if found[0]:
            raise OfflineModeIsEnabled(found[0])

    def ask() -> None:
        asker.asks = True
        client.head(constants.ENDPOINT)

    before = client.event_hooks
    client.event_hooks = {**before, "request": [*before.get("request", ()), check]}
    try:
        yield
    finally:
        client.event_hooks = before


def hub_fault(error: BaseException) -> str:
    """In one line, why files of the hub's library could not be had."""
    fault: BaseException | None = error
    while fault is not None:
        if isinstance(fault, OfflineModeIsEnabled):
            away = constants.HF_HUB_OFFLINE
            why = "HF_HUB_OFFLINE is set" if away else str(fault)
            return f"they are not in the cache {constants.HF_HUB_CACHE}, and {why}"
        fault = fault.__cause__ or fault.__context__
    return brief(error)
