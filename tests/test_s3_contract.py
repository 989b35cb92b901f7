"""What local storage and memory promise, promised by S3: the same tests."""

from __future__ import annotations

import pytest

from tests import test_storage
from tests.test_storage import busy, storage  # noqa: F401 - fixtures

#: Those of a folder on a disk; the others hold everywhere.
_OF_A_DISK = ("local_folder", "hard_links", "failing", "descriptor", "swept", "power_cut", "four_processes")


@pytest.fixture
def url(s3_url: str) -> str:
    return s3_url


globals().update(
    {
        name: value
        for name, value in vars(test_storage).items()
        if name.startswith("test_") and not any(word in name for word in _OF_A_DISK)
    }
)
