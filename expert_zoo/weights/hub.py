"""What a repository of the Hub holds at one commit. The only module that speaks to the Hub; bytes come through `download`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from expert_zoo.weights.lock import LockedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """``files``: size and SHA-256 by path; the digest is "" for small files, of which the Hub keeps none."""

    name: str
    commit: str
    files: dict[str, LockedFile]

    def url(self, path: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.name, path, revision=self.commit, endpoint=_endpoint())


def repository(name: str, revision: str) -> Repository:
    """The repository ``name`` at ``revision`` (a commit; "" is the newest).

    The user's token counts as everywhere (HF_TOKEN, `hf auth login`), so does a mirror named by HF_ENDPOINT. Raises ValueError:
    gated, not there, no such revision, offline.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = place()
    try:
        info = HfApi(endpoint=_endpoint()).model_info(name, revision=revision or None, files_metadata=True, timeout=30)
    except RevisionNotFoundError as error:
        raise ValueError(
            f"{name} has no revision {revision} at {where} any more; copy a weights folder that has it"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{where} shows no repository {name}; expected one that exists and that your token may read (HF_TOKEN, `hf auth login`)"
        ) from error
    except OfflineModeIsEnabled as error:
        raise ValueError(
            f"cannot ask {where} for {name}: HF_HUB_OFFLINE is set; unset it to fetch, or copy a weights folder here"
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(
            f"{where} answers {error.response.status_code} when asked for {name}; try again later"
        ) from error
    except Exception as error:
        if not _is_of_the_network(error):
            raise
        raise ValueError(
            f"cannot reach {where} for {name} ({' '.join(str(error).split()) or type(error).__name__}); expected a network, or a "
            "weights folder that was copied here (docs/weights.md)"
        ) from error
    assert info.sha, "a repository always has a commit"
    return Repository(name=name, commit=info.sha, files={file.rfilename: _stated(file) for file in info.siblings or []})


def token_headers() -> dict[str, str]:
    """What identifies the user to the Hub; no token, no such header."""
    from huggingface_hub.utils import build_hf_headers

    return {str(name): str(value) for name, value in build_hf_headers(library_name="expert-labels").items()}


def if_refused(name: str) -> str:
    """The way out where the Hub shows a repository, but gives none of its files."""
    return f"accept the licence at {place()}/{name}, log in with `hf auth login` or set HF_TOKEN, and fetch again"


def place() -> str:
    """Address of the Hub."""
    from huggingface_hub import constants

    return _endpoint() or str(constants.ENDPOINT)


def _stated(file: Any) -> LockedFile:
    lfs = file.lfs
    return LockedFile(bytes=file.size or 0, sha256=lfs.sha256 if lfs else "")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _is_of_the_network(error: Exception) -> bool:
    """Told by name: the Hub's client changed its HTTP library before, and each has errors of its own."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(names & {"TransportError", "RequestException"})
