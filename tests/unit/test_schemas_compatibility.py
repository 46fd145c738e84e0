"""Within a major version whoever reads or writes a shape may be of another minor version, on either side.

So an existing field stays, stays required or optional, and keeps its type and bounds: narrower would break new readers
of old data, wider old readers of new data. New fields are optional; a list of allowed words may grow.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from schemas import SCHEMA_VERSION, generate

PUBLISHED = sorted(generate.FOLDER.glob(f"v{SCHEMA_VERSION.split('.')[0]}.*/*.json"))
ABOUT = {"description", "title", "default", "enum", "properties", "required", "$defs", "$schema"}
Fields = dict[str, dict[str, Any]]


def fields(schema: dict[str, Any]) -> Fields:
    """What readers rely on, by path: whether it must be there, its words, and its types and bounds as JSON."""
    found: Fields = {}

    def walk(path: str, node: Any, required: bool) -> None:
        if not isinstance(node, dict):
            node = {"anything": node}
        node = {**schema["$defs"][node["$ref"].rsplit("/", 1)[1]], **node} if "$ref" in node else node
        bounds = {name: value for name, value in node.items() if name not in ABOUT | {"$ref"}}
        if "properties" in node:
            bounds.setdefault("additionalProperties", True)
        for index, choice in enumerate(bounds.pop("anyOf", [])):
            walk(f"{path}|{choice.get('type', index)}", choice, required)
        for name, mark in (("items", "[]"), ("additionalProperties", "{}")):
            if name in bounds:
                walk(path + mark, bounds.pop(name), False)
        found[path] = {
            "required": required,
            "words": set(node.get("enum", [])),
            "bounds": json.dumps(bounds, sort_keys=True),
        }
        for name, child in node.get("properties", {}).items():
            walk(f"{path}.{name}", child, name in node.get("required", []))

    walk("", schema, True)
    return found


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What of `new` a reader or writer of `old` could not live with."""
    before, after = fields(old), fields(new)
    problems = [f"{path} is gone" for path in before.keys() - after.keys()]
    problems += [f"{path} is new and required" for path in after.keys() - before.keys() if after[path]["required"]]
    for path in before.keys() & after.keys():
        for aspect in ("required", "bounds"):
            if before[path][aspect] != after[path][aspect]:
                problems.append(f"{path}: {aspect} was {before[path][aspect]}, is {after[path][aspect]}")
        if not before[path]["words"] <= after[path]["words"]:
            problems.append(f"{path}: no longer {before[path]['words'] - after[path]['words']}")
        if after[path]["words"] and not before[path]["words"]:
            problems.append(f"{path}: only certain words now")
    return sorted(problems)


def published(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((generate.FOLDER / "v1.0" / name).read_text("utf-8"))
    return schema


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_reader_of_an_earlier_version_breaks(path: Any) -> None:
    today = json.loads(generate.documents()[path.name])
    assert not breaks(json.loads(path.read_text("utf-8")), today)


def test_every_shape_has_a_published_version() -> None:
    assert {path.name for path in PUBLISHED} == set(generate.documents()) - {"asyncapi.json"}


def change(name: str, edit: Callable[[dict[str, Any]], object]) -> list[str]:
    schema = published(name)
    new = copy.deepcopy(schema)
    edit(new)
    return breaks(schema, new)


@pytest.mark.parametrize(
    ("name", "edit", "named"),
    [
        ("review-event.json", lambda s: s["properties"].pop("rating"), ".rating is gone"),
        ("review-event.json", lambda s: s["required"].append("rating"), ".rating: required"),
        ("review-event.json", lambda s: s["properties"].update(stars={}) or s["required"].append("stars"), "is new"),
        ("review-event.json", lambda s: s["properties"]["review_id"]["anyOf"].pop(), ".review_id|integer is gone"),
        ("review-event.json", lambda s: s["properties"]["rating"]["anyOf"][0].update(maximum=4), ".rating|number"),
        ("review-event.json", lambda s: s["properties"]["text"].update(minLength=3), ".text: bounds"),
        ("review-event.json", lambda s: s.update(additionalProperties=False), "{}: bounds"),
        ("labeled-review.json", lambda s: s["properties"].pop("score"), ".score is gone"),
        ("labeled-review.json", lambda s: s["required"].remove("score"), ".score: required"),
        ("labeled-review.json", lambda s: s["properties"]["token_count"].update(type="string"), ".token_count"),
        ("labeled-review.json", lambda s: s["$defs"]["SourceInfo"]["properties"].pop("offset"), ".source.offset is"),
        (
            "labeled-review.json",
            lambda s: s["properties"]["scores"]["additionalProperties"].update(type="integer"),
            ".scores{}: bounds",
        ),
        ("labeled-review.json", lambda s: s["properties"]["label"].update(enum=["good"]), "only certain words"),
        ("dead-letter-headers.json", lambda s: s["$defs"]["RejectReason"]["enum"].remove("not_utf8"), "no longer"),
        ("dead-letter-headers.json", lambda s: s["required"].remove("review-worker-header-count"), "header-count"),
        ("checkpoint-manifest.json", lambda s: s["$defs"]["Metrics"]["properties"].pop("ece"), ".ece is gone"),
        ("aliases.json", lambda s: s["$defs"]["Alias"]["required"].append("previous"), "{}.previous"),
    ],
)
def test_a_breaking_change_is_noticed(name: str, edit: Callable[[dict[str, Any]], object], named: str) -> None:
    assert any(named in problem for problem in change(name, edit)), change(name, edit)


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("review-event.json", lambda s: s["properties"].update(country={"type": "string"})),
        ("review-event.json", lambda s: s["properties"]["text"].update(description="Other words.")),
        ("review-event.json", lambda s: s["properties"]["schema_version"].update(default="1.1")),
        ("dead-letter-headers.json", lambda s: s["$defs"]["RejectReason"]["enum"].append("too_rude")),
        ("labeled-review.json", lambda s: s["$defs"]["ModelInfo"]["properties"].update(url={"type": "string"})),
    ],
)
def test_a_harmless_change_passes(name: str, edit: Callable[[dict[str, Any]], object]) -> None:
    assert change(name, edit) == []
