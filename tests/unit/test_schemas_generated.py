"""What `python -m schemas.generate` writes: fresh, the same everywhere, and true to the settings and header names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from schemas import generate, headers
from schemas.dead_letter import ATTEMPT, HEADER_COUNT, DeadLetterInfo, RejectReason
from worker.settings import Settings

DOCUMENTS = {name: json.loads(text) for name, text in generate.documents().items()}


def test_the_files_in_the_tree_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_check_names_what_is_stale_and_writing_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0
    (tmp_path / "aliases.json").unlink()
    (tmp_path / "review-event.json").write_text("{}")
    (tmp_path / "left-over.json").write_text("{}")
    capsys.readouterr()
    assert generate.main(["--check"], tmp_path) == 1
    named = [Path(line.split(":")[0]).name for line in capsys.readouterr().err.splitlines()]
    assert sorted(named) == ["aliases.json", "left-over.json", "review-event.json"]
    assert not (tmp_path / "aliases.json").exists(), "--check writes nothing"
    assert generate.main([], tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(DOCUMENTS)
    assert generate.main(["--check"], tmp_path) == 0


def test_another_process_writes_the_same_bytes() -> None:
    script = "from schemas import generate; print(*generate.documents().values(), sep='', end='')"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    output = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True).stdout
    assert output.decode() == "".join(generate.documents().values())


@pytest.mark.parametrize("name", sorted(set(DOCUMENTS) - {"asyncapi.json"}))
def test_each_is_a_json_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENTS[name])


def test_every_reference_of_the_asyncapi_page_leads_somewhere() -> None:
    page = DOCUMENTS["asyncapi.json"]
    references = list(_references(page))
    assert len(references) >= 9
    for reference in references:
        file, _, path = reference.partition("#")
        target = DOCUMENTS[file.removeprefix("./")] if file else page
        for step in filter(None, path.split("/")):
            target = target[step]


def test_the_asyncapi_page_has_the_worker_s_own_names() -> None:
    page, kafka = DOCUMENTS["asyncapi.json"], Settings.model_construct().kafka
    addresses = {name: channel["address"] for name, channel in page["channels"].items()}
    assert addresses == {
        "reviews": kafka.input_topic,
        "labelled": kafka.output_topic,
        "deadLetters": kafka.dead_letter_topic,
    }
    assert page["operations"]["readReviews"]["bindings"]["kafka"]["groupId"]["default"] == kafka.group_id
    labelled = page["components"]["messages"]["LabeledReview"]["headers"]
    assert set(labelled["properties"]) == {headers.MODEL, headers.SOURCE, headers.OWNER}


def test_the_headers_of_a_dead_letter_are_all_described() -> None:
    schema = DOCUMENTS["dead-letter-headers.json"]
    assert len(schema["properties"]) == len(DeadLetterInfo.model_fields) + 1
    assert {HEADER_COUNT, ATTEMPT} <= set(schema["required"])
    assert schema["$defs"]["RejectReason"]["enum"] == [reason.value for reason in RejectReason]
    assert {field.get("type", "string") for field in schema["properties"].values()} == {"string"}, "text on the wire"


def _references(node: Any) -> Any:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for child in node.values():
            yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)
