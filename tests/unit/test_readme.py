"""The README's generated part is what the code says."""

from worker.tools.readme import README, with_settings


def test_the_table_of_settings_is_not_stale() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_settings(text) == text, "run `make generate`"
    assert "| `kafka.group_id` |" in text
