"""`python -m worker.tools.readme`: writes the generated part of README.md, the table of settings."""

from __future__ import annotations

import re
from pathlib import Path

from worker.tools.config import table

README = Path(__file__).parents[2] / "README.md"
_SECTION = re.compile(r"(<!-- settings:[^>]*-->\n).*?(<!-- /settings -->)", re.DOTALL)


def with_settings(text: str) -> str:
    """The README with its table of settings as it should be now."""
    return _SECTION.sub(lambda found: f"{found[1]}{table()}\n{found[2]}", text)


if __name__ == "__main__":
    README.write_text(with_settings(README.read_text(encoding="utf-8")), encoding="utf-8")
