"""What a photo may cost to read, and PhotoError: why one was not read."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Web(BaseModel):
    """How photos at http and https addresses are read.

    ``timeout``     seconds that one attempt may take, from looking up the host to the last byte, redirects included
    ``retries``     further attempts after 408, 425, 429, a 5xx, a broken connection or a body that was cut off, with growing pauses
    ``connections`` open at one time in one worker process
    ``redirects``   that one photo may take; each address is checked like the first
    ``private``     also hosts with private, loopback, link-local or other addresses that are not of the public internet
    ``opt_out``     leave out photos that are sent with an X-Robots-Tag of noai, noimageai, noindex or noimageindex
    ``user_agent``  what servers are told that we are
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout: float = Field(20.0, gt=0, allow_inf_nan=False)
    retries: int = Field(2, ge=0, le=10)
    connections: int = Field(16, gt=0)
    redirects: int = Field(5, ge=0)
    private: bool = False
    opt_out: bool = True
    user_agent: str = Field("expert-labels", pattern=r"^[ -~]+$")


class Limits(BaseModel):
    """What a photo may cost: ``max_pixels`` (width x height, from the header), ``max_bytes`` (of the file), ``web``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pixels: int = Field(100_000_000, gt=0)
    max_bytes: int = Field(100_000_000, gt=0)
    web: Web = Web()

    def check_pixels(self, width: int, height: int) -> None:
        """Raises PhotoError where an image of that size is beyond the limit, or has no pixel."""
        if width < 1 or height < 1:
            raise PhotoError(f"corrupt: the size is {width}x{height}")
        if width * height > self.max_pixels:
            raise PhotoError(f"too many pixels: {width}x{height} = {width * height}, the limit is {self.max_pixels}")

    def check_bytes(self, size: int) -> None:
        """Raises PhotoError where a file of ``size`` bytes is beyond the limit."""
        if size > self.max_bytes:
            raise PhotoError(f"too many bytes: {size}, the limit is {self.max_bytes}")


class PhotoError(Exception):
    """A photo that cannot be read. ``reason``: "code: detail"; the codes are

    missing, unreadable, not a file, empty file, too many bytes, not an image, too many pixels, corrupt, out of memory

    and of photos on the web also, see `pipeline.web`: refused, server error, no connection, timed out, cut off,
    forbidden address, too many redirects, opted out
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
