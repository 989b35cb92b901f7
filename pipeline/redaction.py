"""Redaction: texts that people and stores get to see, without the keys that they may hold.

A reason in a label is kept for ever and copied to whoever trains with it; a log line goes to a collector. Yet what libraries
raise quotes what they were given: a presigned address whole, the options of an object store, the header of a request.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

HIDDEN = "***"
#: Texts are looked at up to here, and cut.
LONGEST = 20_000

#: scheme://user:password@host. The part before the "@" can hold no "/" that is not encoded.
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,20}://)[^\s/@'\"]{1,2000}@")
#: Parameters of an address or of an object store that are, or sign for, a secret.
_GIVEN_NAMES = (
    r"x-(?:amz|goog|oss)-(?:signature|credential|security-token)|(?:security|session|access|refresh|auth|sas|id)[_-]?token|token"
    r"|sig|signature|googleaccessid|awsaccesskeyid|ossaccesskeyid|key-pair-id|policy"
    r"|(?:aws_)?(?:secret_)?access_?key(?:_id)?|(?:aws_)?secret(?:_key)?|(?:account|api|client|private|shared)[_-]?(?:key|secret)|key"
    r"|password|passwd|pwd|credentials?|authorization|x-ray-authorization"
)
#: name=value, 'name': 'value' and "name": "value"; in each the value ends where the next one may begin.
_GIVEN = re.compile(
    rf"""(?ix)(?<![a-z0-9_-])({_GIVEN_NAMES})
    (\s?=\s?["']?|["']\s?:\s?b?["'])
    [^\s"'&;,)}}\]]{{1,4000}}"""
)
#: The schemes of HTTP's Authorization header, wherever they are quoted.
_HEADER = re.compile(r"(?i)\b(bearer|basic|aws4-hmac-sha256)\s+[a-z0-9+/=_.~-]{8,4000}")
#: Forms that a key's issuer gave it: the Hub's, AWS's, GitHub's, Google's.
_FORMS = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|A[KS]IA[A-Z0-9]{16}|gh[opsu]_[A-Za-z0-9]{20,}|AIza[A-Za-z0-9_-]{30,})\b")
#: Variables of the environment whose values are secrets: what is quoted of them is hidden to the letter.
_SECRET_VARIABLE = re.compile(r"(?:.*_)?(?:TOKEN|SECRET|SECRET_ACCESS_KEY|ACCESS_KEY_ID|PASSWORD|API_KEY|ACCOUNT_KEY)")
_SHORTEST_VALUE = 8


def redacted(text: str) -> str:
    """``text`` with what looks like a secret, and the values of the environment's secret variables, replaced by ``***``."""
    text = text[:LONGEST]
    for value in _secrets_of_environment():
        text = text.replace(value, HIDDEN)
    text = _USER.sub(rf"\1{HIDDEN}@", text)
    text = _HEADER.sub(rf"\1 {HIDDEN}", text)
    text = _GIVEN.sub(rf"\1\2{HIDDEN}", text)
    return _FORMS.sub(HIDDEN, text)


def _secrets_of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_VALUE and _SECRET_VARIABLE.fullmatch(name.upper()):
            yield value
