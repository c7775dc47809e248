"""Errors meant for the user: one sentence, and the exit status of the command line."""

import difflib
from collections.abc import Iterable


class RecbenchError(Exception):
    """The work failed; the message is one clear sentence that says what was expected and what was found."""

    exit_status = 1


class UsageError(RecbenchError):
    """The request itself was wrong (an unknown name or key, a wrong type, an impossible value)."""

    exit_status = 2


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """Return the error for a ``name`` that is not among the ``known`` ones, with the nearest of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    meant = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UsageError(f"unknown {kind} '{name}'; {meant}{f' ({hint})' if hint else ''}")
