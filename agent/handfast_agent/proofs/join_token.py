"""Join tokens: from a file that is read at each attempt, or once from stdin; never from argv or environment (threat B2).

The file is not deleted, since it may be a read-only mount. A token that was used or refused is remembered by its digest
and never sent again; another token in the same file counts as a new proof.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from handfast.errors import Invalid

__all__ = ["JoinToken", "token_digest"]

MAX_TOKEN_BYTES = 512


def token_digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class JoinToken:
    """Where the token comes from."""

    def __init__(self, file: Path | None = None, given: str | None = None) -> None:
        self._file = file
        self._given = given

    def read(self) -> str | None:
        """The token, or None when there is none (yet). Raises ``Invalid`` (``TOKEN_MALFORMED``), without its text."""
        text = self._given
        if self._file is not None:
            try:
                with self._file.open("rb") as stream:
                    text = stream.read(MAX_TOKEN_BYTES + 1).decode("ascii")
            except FileNotFoundError:
                return None
            except (OSError, UnicodeDecodeError) as error:
                raise Invalid(
                    f"join token file {self._file} cannot be read: {type(error).__name__}", reason="TOKEN_MALFORMED"
                ) from None
        token = (text or "").strip()
        if not token:
            return None
        if len(token) > MAX_TOKEN_BYTES or not token.startswith("hft_"):
            raise Invalid(
                "the join token does not look like one",
                reason="TOKEN_MALFORMED",
                hint="`handfast token create` makes one",
            )
        return token
