"""What pydantic says of a wrong value, as a person should read it."""

from __future__ import annotations

from pydantic_core import ErrorDetails


def said(problem: ErrorDetails) -> str:
    """One problem in words: those of our own validators as they were written."""
    return problem["msg"].removeprefix("Value error, ")
