"""A real S3-compatible server (moto's) on loopback, whose answers can be made to fail."""

import logging
import os
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import s3fs
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}, says the test</Message></Error>"
STATUS = {"InternalError": "500 Internal Server Error", "SlowDown": "503 Slow Down", "AccessDenied": "403 Forbidden"}


class Server:
    """The server.

    Attributes:
        share: of requests that fail, 0 to 1.
        kinds: how they fail: InternalError (500), SlowDown (503), AccessDenied (403), hang (a while without answer).
        applies: to which requests, by method and path.
        requests, failed: how many there were.
    """

    def __init__(self) -> None:
        self.share = 0.0
        self.kinds: tuple[str, ...] = ("InternalError", "SlowDown")
        self.applies: Callable[[str, str], bool] = lambda method, path: True
        self.requests = self.failed = 0
        self._random = random.Random(0)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()

    @contextmanager
    def failing(self, share: float, *kinds: str, applies: Callable[[str, str], bool] | None = None) -> Iterator[None]:
        """Let a share of the requests fail for a while."""
        before = self.share, self.kinds, self.applies
        self.share, self.kinds, self.applies = share, kinds or self.kinds, applies or self.applies
        try:
            yield
        finally:
            self.share, self.kinds, self.applies = before

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        self.requests += 1
        if self.applies(environ["REQUEST_METHOD"], environ["PATH_INFO"]) and self._random.random() < self.share:
            self.failed += 1
            kind = self._random.choice(self.kinds)
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            if kind == "hang":
                time.sleep(0.3)
                kind = "InternalError"
            body = ERROR.format(code=kind).encode()
            start(STATUS[kind], [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
        answer: Iterable[bytes] = self._app(environ, start)
        return answer


@contextmanager
def served() -> Iterator[Server]:
    """A server with the bucket `bucket`, which s3:// leads to in this process and those that it starts."""
    server = Server()
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL=server.url)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        # Buckets are the process's, and outlive a server.
        request = urllib.request.Request(f"{server.url}/moto-api/reset", method="POST")
        urllib.request.urlopen(request, timeout=60).close()
        fsspec.filesystem("s3").mkdir("bucket")
        yield server
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        os.environ.clear()
        os.environ.update(before)
        server.close()
