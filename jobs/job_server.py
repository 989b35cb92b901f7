"""The job server of a Ray cluster, spoken to through Ray's own client; whatever goes wrong is one line.

Ray's client reads its own mind about three things, and each is decided here before it is made: the address (RAY_ADDRESS in the
environment would win over the one that was named), the token (used if there is one, as `ray start` does), and its chatter.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import JobError
from pipeline.redaction import redacted

#: Seconds until a connection that is not answered counts as none.
CONNECT_SECONDS = 10.0
#: Seconds without a line of a log after which it is asked whether the job still lives.
SILENCE = 60.0
#: What a user means who names no address: the dashboard of this machine.
HERE = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class NoAnswer(JobError):
    """Nothing answers at the address, or nothing that is able to: it may be different in a moment."""


class NoSuchJob(JobError):
    """The cluster knows no job of that name; one that was restarted has forgotten those before."""


class JobServer:
    """Submits, lists, follows and stops jobs of one cluster. Raises JobError, in one line, for whatever cannot be done."""

    def __init__(self, address: str | None) -> None:
        self._url = _checked(address or _address_of_environment() or HERE)
        self.address = redacted(self._url)
        _use_token()
        self._knock()
        with self._in_one_line(), _environment_without(ADDRESS_VARIABLES):
            from ray.job_submission import JobSubmissionClient

            for name in ("dashboard_sdk", "job.sdk"):
                logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
            for name in ("ray._private.runtime_env.packaging", "ray._private.authentication.http_token_authentication"):
                logging.getLogger(name).setLevel(logging.ERROR)
            self._client = JobSubmissionClient(self._url, headers=_headers())

    def submit(self, submission_id: str, entrypoint: str, *, folder: Path, metadata: dict[str, str]) -> None:
        """Uploads ``folder``, unless the cluster has it, and runs ``entrypoint`` in a copy of it."""
        with self._in_one_line():
            self._client.submit_job(
                submission_id=submission_id,
                entrypoint=entrypoint,
                runtime_env={"working_dir": str(folder)},
                metadata=metadata,
            )

    def job(self, submission_id: str) -> Any:
        """Ray's JobDetails of one job."""
        with self._in_one_line():
            return self._client.get_job_info(submission_id)

    def jobs(self) -> list[Any]:
        """Ray's JobDetails of all jobs that were submitted, oldest first."""
        with self._in_one_line():
            found = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: job.start_time or 0)

    def log(self, submission_id: str) -> str:
        """All that a job has written so far, on both of its streams."""
        with self._in_one_line():
            return str(self._client.get_job_logs(submission_id))

    def stop(self, submission_id: str) -> bool:
        """Asks a job to end; whether it was still running."""
        with self._in_one_line():
            return bool(self._client.stop_job(submission_id))

    def follow(self, submission_id: str, seen: int, show: Callable[[str], None]) -> int:
        """Shows what a job writes, from character ``seen`` on, until it ends or the line breaks; how much was seen then."""
        self._knock()
        return asyncio.run(self._tail(submission_id, seen, show))

    async def _tail(self, submission_id: str, seen: int, show: Callable[[str], None]) -> int:
        import aiohttp

        at = 0
        tail = self._client.tail_job_logs(submission_id).__aiter__()
        while True:
            try:
                text = await asyncio.wait_for(anext(tail), SILENCE)
            except (StopAsyncIteration, TimeoutError, RuntimeError, OSError, aiohttp.ClientError):
                return max(seen, at)
            new = text[max(0, seen - at) :]
            at += len(text)
            if new:
                show(new)

    def _knock(self) -> None:
        """Ray's client waits for ever for a host that does not answer."""
        from urllib.request import getproxies, proxy_bypass

        parts = urlsplit(self._url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        if parts.scheme in getproxies() and not proxy_bypass(host):
            return
        try:
            socket.create_connection((host, port), CONNECT_SECONDS).close()
        except OSError as error:
            raise self._nobody(error.strerror or str(error)) from error

    def _nobody(self, why: str) -> NoAnswer:
        return NoAnswer(
            f"no cluster answers at {self.address} ({why}); expected the dashboard of a running head, usually http://HEAD:8265 "
            "(a head has one where `ray[default]` is installed and it was not started with --include-dashboard=false)"
        )

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        try:
            import requests
            from ray.exceptions import AuthenticationError
        except ImportError as error:
            raise JobError(f"jobs cannot be submitted from here: {error}; install `ray[default]`") from error
        try:
            yield
        except AuthenticationError as error:  # never its text: who knows what a server repeats
            there = " and ".join(name for name in TOKEN_VARIABLES if os.environ.get(name)) or "no token"
            raise JobError(
                f"{self.address} does not let us in ({there} found here, RAY_AUTH_MODE {os.environ.get('RAY_AUTH_MODE', 'unset')}); "
                "expected the cluster's own token in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
            ) from error
        except (ConnectionError, requests.ConnectionError, requests.Timeout) as error:
            raise self._nobody(type(error).__name__) from error
        except (requests.RequestException, KeyError, ValueError) as error:
            raise self._no_dashboard(str(error)) from error
        except RuntimeError as error:
            raise self._refusal(str(error)) from error

    def _no_dashboard(self, why: str) -> JobError:
        return JobError(
            f"what answers at {self.address} is no Ray dashboard ({' '.join(why.split())[:120]}); expected that of a head, "
            "usually http://HEAD:8265"
        )

    def _refusal(self, text: str) -> JobError:
        lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
        if "ray[default]" in text:
            return JobError("jobs cannot be submitted from here: install `ray[default]`")
        if "404" in lines[0]:
            if "Version check" in lines[0]:
                return self._no_dashboard("it knows no /api/version")
            return NoSuchJob(f"{self.address} knows no such job; `expert-labels jobs list` shows them")
        # The last line of a traceback is the one that says something; a server that is just starting answers so, too.
        kind = NoAnswer if re.search(r"status code 5\d\d", lines[0]) else JobError
        return kind(f"{self.address} refused: {lines[-1][:300]}")


def _address_of_environment() -> str | None:
    found = [os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)]
    return found[0] if found else None


def _checked(address: str) -> str:
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise JobError(
            f"--address {redacted(address)!r}: expected the dashboard of a cluster's head, e.g. http://HEAD:8265 (not the port "
            "that workers join, 6379, nor a ray:// address)"
        )
    return address.rstrip("/")


def _use_token() -> None:
    """A token that is there is used, unless RAY_AUTH_MODE says otherwise; Ray's client alone would want that said."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if given and not os.environ.get("RAY_AUTH_TOKEN"):
        try:  # Ray ends the whole process here, with a page of C++
            empty = not Path(given).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"RAY_AUTH_TOKEN_PATH: cannot read {given}; expected a file with the token") from error
        if empty:
            raise JobError(f"RAY_AUTH_TOKEN_PATH: {given} is empty; expected a file with the token")
    there = any(os.environ.get(name) for name in TOKEN_VARIABLES) or (Path.home() / ".ray/auth_token").is_file()
    if there and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"


def _headers() -> dict[str, str]:
    """RAY_JOB_HEADERS, as `ray job` reads it: for a proxy before the cluster that wants to know who asks."""
    text = os.environ.get("RAY_JOB_HEADERS")
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise JobError('RAY_JOB_HEADERS: expected a JSON object of texts, e.g. {"X-Team": "labels"}')
    return found


@contextmanager
def _environment_without(names: tuple[str, ...]) -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)
