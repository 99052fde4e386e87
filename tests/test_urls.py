"""Secrets of URLs: every form is seen, and hidden in messages; what only looks like one is left alone."""

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from finer_ray.config.schema import without_secrets
from finer_ray.errors import StoreError
from finer_ray.urls import holds_secret, redacted

S = "S3CR3T"
NAMES = (
    "access_token", "api_key", "apikey", "hf_token", "token", "pwd", "passwd", "password", "auth", "authorization",
    "sig", "signature", "Policy", "Key-Pair-Id", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token",
    "X-Goog-Signature", "X-Goog-Credential", "AWSAccessKeyId", "GoogleAccessId", "accountKey", "client_secret", "jwt",
    "key", "sv", "authToken", "subscription-key",
)  # fmt: skip
USERS = (
    "https://u:{}@host/x.tar",
    "https://u:{}/y@host/x.tar",
    "https://{}@host/x.tar",
    "HTTP://{}@host/x.tar",
    "https://u:a@{}@host/x.tar",
    "https://u:a::{}@host/x.tar",
    "http://u:{}@[::1]:8080/x.tar",
    "https:/u:{}@host/x.tar",
    "s3://key:{}@bucket/a.tar",
    "s3://key%3A{}@bucket/a.tar",
    "ftp://me:{}@host/*.tar",
    "ssh://me:{}@host/x",
    "sftp://me:{}@host:22/x",
    "tar://x.tar::https://u:{}@host/x.tar",
    "simplecache::https://me:{}@host/a.tar",
    "https://host/get?from=https%3A%2F%2Fu%3A{}%40other%2Fx",
)
PLAIN = (
    "s3://bucket/train-{0000..0015}.tar",
    "/data/a:b@c/*.tar",
    "file:///data:x@y/z.tar",
    "memory://x",
    "ssh://git@host/x",
    "sftp://user@host:22/x",
    "hdfs://user@host:9000/x",
    "abfs://container@account.dfs.core.windows.net/x",
    "hf://datasets/org/name@revision/train/*.parquet",
    "https://huggingface.co/org/name@v1/x.tar",
    "http://127.0.0.1:8080/name@v1/x.tar",
    "http://[::1]:8080/name@v1/x.tar",
    "tar://x.tar::https://host/name@v1/x.tar",
    "zip://*.jpg::hf://datasets/org/name@main/x.zip",
    "https://host/x.tar?download=true&versionId=3&tokenizer=a&monkey=b&sort_key=c",
    "s3://bucket/part-?/key=5/x.parquet",
)


@pytest.mark.parametrize("url", [*(user.format(S) for user in USERS), *(f"https://h/x.tar?{n}={S}" for n in NAMES)])
def test_secrets_are_refused_and_never_repeated(url: str) -> None:
    assert holds_secret(url)
    assert S not in redacted(f"input.shards.0: cannot read {url}: 403")
    assert S not in str(StoreError(f"cannot read '{url}'"))
    with pytest.raises(Exception, match="must not hold a password") as caught:
        without_secrets(url)
    assert S not in str(caught.value)


@pytest.mark.parametrize("url", PLAIN)
def test_what_only_looks_like_one_is_left_alone(url: str) -> None:
    assert without_secrets(url) == url
    assert redacted(f"cannot read {url}: 403") == f"cannot read {url}: 403"


@pytest.mark.parametrize(
    "text",
    [
        "RAY_ADDRESS is http://127.0.0.1:8265: no cluster answers there; ask me@here",
        "is https://host: a;key=5 right? 100% of a@b",
        "a label must be 'a' or 'b'; got key=5",
    ],
)
def test_messages_without_one_stay_as_they_are(text: str) -> None:
    assert redacted(text) == text


@given(
    # No digit is first: `u:8080/x@y` is a host's port and a path.
    password=st.text(string.ascii_letters + string.digits + "/:!$&'()*+,;=._~%-", min_size=8, max_size=40).map(
        "p".__add__
    ),
    user=st.text(string.ascii_letters + string.digits + "._-", max_size=10),
    scheme=st.sampled_from(["http", "https", "s3", "gs", "ftp", "sftp", "ssh", "webdav", "abfs"]),
    before=st.sampled_from(["", "simplecache::", "tar://a/b.tar::", "filecache::zip://*.jpg::"]),
)
def test_any_password(password: str, user: str, scheme: str, before: str) -> None:
    assume("::" not in password)
    url = f"{before}{scheme}://{user}:{password}@host/path/x.tar"
    assert holds_secret(url)
    assert password not in redacted(f"cannot read {url}")


@given(
    value=st.text(string.ascii_letters + string.digits + "+/._~%-", min_size=8, max_size=40),
    name=st.sampled_from(NAMES),
    case=st.sampled_from([str, str.upper, str.lower]),
    encoded=st.sets(st.integers(0, 40)),
    mark=st.sampled_from(["?", "?a=1&", "?a=1;", "#", "?a&"]),
)
def test_any_parameter(value: str, name: str, case: type[str], encoded: set[int], mark: str) -> None:
    written = "".join(f"%{ord(c):02x}" if place in encoded else c for place, c in enumerate(case(name)))
    url = f"https://host/x.tar{mark}{written}={value}"
    assert holds_secret(url)
    assert value not in redacted(url)
