"""What an audit found, as values: findings about cells, and files that nobody needs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["error", "warning"]
#: Files younger than this may belong to a job that runs.
GRACE_SECONDS = 3600.0


class Finding(BaseModel):
    """One thing that is not as it should be.

    severity   error: what was promised is not there or is wrong. warning: legal, and worth a look
    column     ``expert@version``, "" for the store itself
    shard      index of the shard, None for the column (or the store) as a whole
    what       in plain words
    receipt    sha256 of the receipt's bytes as they were judged; "" where the finding is not about a committed cell, or about
               one that must not be taken back
    """

    model_config = ConfigDict(frozen=True)

    severity: Severity
    column: str
    shard: int | None
    what: str
    receipt: str = ""


class Garbage(BaseModel):
    """A file of the store that no receipt names. ``age``: seconds since its last change or since it lost its receipt.

    ``young``: younger than the grace period of the audit, so it may belong to a running job. ``why``: what it was.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    bytes: int
    age: float
    young: bool
    why: str


class AuditReport(BaseModel):
    """What `audit` saw. ``cells``: committed cells looked at; ``missing``: cells of these columns not committed."""

    deep: bool
    columns: list[str]
    cells: int = 0
    missing: int = 0
    rows: int = 0
    findings: list[Finding] = Field(default_factory=list)
    garbage: list[Garbage] = Field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def damaged(self) -> dict[tuple[str, int], str]:
        """(column, shard) of every damaged cell, and the sha256 of the receipt that was judged."""
        return {(f.column, f.shard): f.receipt for f in self.errors if f.shard is not None and f.receipt}


class Repairs(BaseModel):
    """What `repair` did.

    withdrawn   cells whose commit was taken back: the next labelling job fills them
    changed     damaged cells that somebody else replaced or withdrew since the audit: left alone
    swept       files removed, those of withdrawn cells included, with ``bytes_freed`` in all
    kept        garbage that is too young to touch
    beyond      errors that no relabelling heals (a manifest, a card, a receipt of another format): for the user
    """

    withdrawn: list[tuple[str, int]] = Field(default_factory=list)
    changed: list[tuple[str, int]] = Field(default_factory=list)
    swept: list[str] = Field(default_factory=list)
    bytes_freed: int = 0
    kept: list[Garbage] = Field(default_factory=list)
    beyond: list[Finding] = Field(default_factory=list)
