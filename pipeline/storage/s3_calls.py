"""Calls to an S3 API: repeated with growing pauses while the trouble may pass, and told in words that hold no secret.

What s3fs and botocore would repeat by themselves is switched off, for they give up on HTTP 500 after few tries. Some calls are
repeated unseen all the same, by the HTTP client where a connection breaks. So whoever makes an object exclusively `signed` it: of
a call that came through twice, the second one finds the first one's object and knows it for its own.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from manifests.location import filesystem
from pipeline.errors import StoreError, Unreachable

#: With the pauses below a call is given up after 46 seconds at most, plus what the tries themselves take.
TRIES = 10
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 20.0
#: Codes of answers that ask to come again, whatever their HTTP status: throttling, and what a conditional call says while
#: another one is at work on the same key. A body that did not arrive as it was sent is sent again.
_COME_AGAIN = {
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded", "RequestTimeout",
    "ConditionalRequestConflict", "OperationAborted", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch",
}  # fmt: skip
#: Seconds without a byte until a call counts as lost, unless the user's own `config_kwargs` say otherwise.
_READ_TIMEOUT = 60
_MADE_BY = "made-by"


class Refused(Unreachable):
    """An answer that will not change. An earlier try, whose answer got lost, may have done the work all the same."""

    def __init__(self, what: str, status: int, code: str) -> None:
        super().__init__(
            f"{what}: the store refuses with {f'{status} {code}'.strip()}; look at the endpoint, region and bucket"
        )
        self.status = status
        self.code = code


class S3Calls:
    """Calls for the objects of one bucket. Thread-safe; a forked process makes connections of its own."""

    def __init__(self, url: str) -> None:
        if "@" in urlsplit(url).netloc:
            raise StoreError(
                "a user name or key in an s3:// URL; expected s3://BUCKET/PREFIX, and the credentials in the environment or in "
                "~/.aws (docs/object-stores.md)"
            )
        self.url = url
        self._fs, root = self._connected()
        self._process = os.getpid()
        self.bucket, _, self.prefix = root.partition("/")
        self.endpoint = str(self._fs.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3", ""))

    def _connected(self) -> tuple[Any, str]:
        import fsspec

        own = dict(fsspec.config.conf.get("s3", {}).get("config_kwargs", {}))
        own = {"read_timeout": _READ_TIMEOUT, "max_pool_connections": 32} | own | {"retries": {"total_max_attempts": 1}}
        try:
            files, root = filesystem(self.url, config_kwargs=own)
        except ValueError as error:
            raise StoreError(str(error)) from error
        files.retries = 1  # this object has options that nobody else's has, so it is ours alone
        return files, root

    def call(self, operation: str, key: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The answer, its body read. Raises FileNotFoundError for no such object, Refused for another answer that will not
        change, StoreError for no such bucket, Unreachable when it was tried in vain often enough or the user is not let in.
        """
        from fsspec.asyn import sync

        if self._process != os.getpid():  # an event loop and its sockets do not survive a fork
            self._fs, _ = self._connected()
            self._process = os.getpid()
        named = {"Bucket": self.bucket} | ({} if key is None else {"Key": key}) | parameters
        began = time.monotonic()
        for turn in range(TRIES):
            if turn:
                time.sleep(pause(turn))
            try:
                answer: dict[str, Any] = sync(self._fs.loop, _answer, self._fs, operation, named)
                return answer
            except Exception as error:
                why = self._judged(error, operation, key)
        seconds = time.monotonic() - began
        raise Unreachable(
            f"{operation} of {self._place(key)}: {TRIES} tries in {seconds:.0f} s, the last one ended with {why}; look at the "
            "object store and the network, then run the same command again"
        )

    def made(self, key: str, signature: Mapping[str, str]) -> bool:
        """Whether the object that stands there has this signature."""
        try:
            return bool(self.call("head_object", key).get("Metadata", {}).get(_MADE_BY) == signature[_MADE_BY])
        except FileNotFoundError:
            return False

    def _judged(self, error: Exception, operation: str, key: str | None) -> str:
        """What is wrong, in a word, if it may pass; else raises. What the server wrote beyond its code is never quoted."""
        from botocore import exceptions as boto

        cause = error if isinstance(error, boto.ClientError) else error.__cause__
        if isinstance(cause, boto.ClientError):
            status = int(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = str(cause.response.get("Error", {}).get("Code", ""))[:60]
            if code in _COME_AGAIN or status in (408, 429) or (status >= 500 and status != 501):
                return f"{status} {code}"
            if status == 404 and code not in ("NoSuchBucket", "NoSuchUpload"):
                raise FileNotFoundError(f"{self._place(key)} is not there") from None
            if status in (401, 403) or code in ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"):
                raise Unreachable(
                    f"{self._place(key)}: {operation} is not allowed ({status} {code}); expected credentials that may read "
                    "and write there (docs/object-stores.md)"
                ) from None
            if code == "NoSuchBucket":
                raise StoreError(f"{self.url}: there is no bucket {self.bucket}; make it, or name another") from None
            raise Refused(f"{operation} of {self._place(key)}", status, code) from None
        if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound)):
            raise Unreachable(
                f"{self.url}: no credentials found; expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in ~/.aws, "
                "or a machine with a role (docs/object-stores.md)"
            ) from None
        if isinstance(error, _passing()):
            return type(error).__name__
        raise error

    def _place(self, key: str | None) -> str:
        return f"s3://{self.bucket}/{key}" if key else self.url


async def _answer(files: Any, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = await files._call_s3(operation, **parameters)
    if "Body" in answer:
        async with answer["Body"] as body:
            answer["Body"] = await body.read()
    return answer


def _passing() -> tuple[type[Exception], ...]:
    """Errors of a connection that may be better the next time."""
    import aiohttp
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    return (
        boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, boto.CredentialRetrievalError,
        ResponseParserError, aiohttp.ClientError, ConnectionError, TimeoutError,
    )  # fmt: skip


def signed() -> dict[str, str]:
    """Metadata for one object that is made once."""
    return {_MADE_BY: uuid.uuid4().hex}


def pause(turn: int) -> float:
    """Seconds before the ``turn``-th repetition (from 1): twice as long each time, and no two workers in step."""
    return min(FIRST_PAUSE * 2.0 ** (turn - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
