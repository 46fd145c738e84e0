"""Writes the published form of every shape below `schemas/json/`: JSON Schemas, and an AsyncAPI page of the topics.

    python -m schemas.generate            writes the files
    python -m schemas.generate --check    exit 1, naming what is stale

`schemas/json/v1.0/` keeps the schemas as they were first published; a test compares them with today's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from schemas import SCHEMA_VERSION, headers
from schemas.dead_letter import HEADER_COUNT, DeadLetterInfo
from schemas.labeled import LabeledReview
from schemas.manifest import Aliases, CheckpointManifest
from schemas.review import ReviewEvent

FOLDER = Path(__file__).parent / "json"
DAY_MS = 24 * 60 * 60 * 1000
KEY = {"type": ["string", "null"], "description": "Any bytes. A result and a dead letter carry their input's key."}
PARTITION_RULE = "Partition: the input record's partition modulo this topic's partition count."


class _Untitled(GenerateJsonSchema):
    """Without the titles that pydantic makes of field names: they say nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def documents() -> dict[str, str]:
    """Text of every file, by its name."""
    contents = {
        "review-event.json": _schema(ReviewEvent, "validation"),
        "labeled-review.json": _schema(LabeledReview, "serialization"),
        "dead-letter-headers.json": _dead_letter_headers(),
        "checkpoint-manifest.json": _schema(CheckpointManifest, "validation"),
        "aliases.json": _schema(Aliases, "validation"),
        "asyncapi.json": _asyncapi(),
    }
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in contents.items()}


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m schemas.generate", description="Writes schemas/json.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is stale")
    check = parser.parse_args(arguments).check
    paths = {folder / name: text for name, text in documents().items()}
    stale = [path for path, text in paths.items() if not path.is_file() or path.read_text("utf-8") != text]
    stale += sorted(set(folder.glob("*.json")) - set(paths))
    for path in stale:
        if check:
            print(f"{path}: stale; run python -m schemas.generate", file=sys.stderr)
        elif path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(paths[path], "utf-8")
        else:
            path.unlink()
    return 1 if check and stale else 0


def _schema(shape: type[BaseModel] | Any, mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    schema = TypeAdapter(shape).json_schema(mode=mode, schema_generator=_Untitled)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


def _dead_letter_headers() -> dict[str, Any]:
    """Our headers as an object from name to value; on the wire every value is text in UTF-8."""
    schema = _schema(DeadLetterInfo, "serialization")
    for field in schema["properties"].values():
        if field.get("type") == "integer":
            field.update(type="string", pattern="^-?[0-9]+$")
            field.pop("minimum", None)
        elif field.get("type") == "boolean":
            field.update(type="string", enum=["true", "false"])
            field["default"] = "false"
    schema["properties"][HEADER_COUNT] = {
        "type": "string",
        "pattern": "^[1-9][0-9]*$",
        "description": "Last header of all: how many of the last ones are ours, this one included; the rest are the "
        "record's own.",
    }
    schema["required"].append(HEADER_COUNT)
    return schema


def _asyncapi() -> dict[str, Any]:
    """The three topics as an AsyncAPI document; names, counts and times are the defaults."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Review stream classifier",
            "version": SCHEMA_VERSION,
            "description": "Labels review events read from one Kafka topic and writes them to another. Names of topics "
            "and of the consumer group are defaults. Readers take the last of headers with the same name.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "reviews": _channel(
                "reviews",
                7,
                "Review events, keyed and partitioned as their producer likes. The consumer group `review-worker` "
                "reads them, committed records only.",
                "ReviewEvent",
            ),
            "labelled": _channel(
                "reviews.labelled",
                7,
                "Labelled reviews; a null value where a tombstone was forwarded. Input order within each input "
                f"partition. {PARTITION_RULE}",
                "LabeledReview",
            ),
            "deadLetters": _channel(
                "reviews.dead-letters",
                30,
                f"Records that could not be labelled. Never compacted. {PARTITION_RULE}",
                "DeadLetter",
            ),
        },
        "operations": {
            "readReviews": _operation("receive", "reviews", groupId={"type": "string", "default": "review-worker"}),
            "writeLabelled": _operation("send", "labelled"),
            "writeDeadLetters": _operation("send", "deadLetters"),
        },
        "components": {
            "messages": {
                "ReviewEvent": _message("One review.", {"$ref": "./review-event.json"}),
                "LabeledReview": _message(
                    "One labelled review. Its headers are the input's own, then these.",
                    {"$ref": "./labeled-review.json"},
                    {
                        "type": "object",
                        "properties": {
                            headers.MODEL: {"type": "string", "description": "name@version of the checkpoint."},
                            headers.SOURCE: {
                                "type": "string",
                                "pattern": "^.+-[0-9]+-[0-9]+$",
                                "description": "topic-partition-offset of the input record: drop duplicates by it.",
                            },
                            headers.OWNER: {"type": "string", "description": "instance/epoch of the worker."},
                        },
                        "required": [headers.MODEL, headers.SOURCE, headers.OWNER],
                    },
                ),
                "DeadLetter": _message(
                    "The input record's key and value byte for byte, and its own headers followed by these.",
                    {"description": "Whatever the value was."},
                    {"$ref": "./dead-letter-headers.json"},
                    contentType="application/octet-stream",
                ),
            }
        },
    }


def _channel(address: str, days: int, description: str, message: str) -> dict[str, Any]:
    topic = {
        "topic": address,
        "partitions": 12,
        "topicConfiguration": {"cleanup.policy": ["delete"], "retention.ms": days * DAY_MS},
        "bindingVersion": "0.5.0",
    }
    return {
        "address": address,
        "description": description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {"kafka": topic},
    }


def _operation(action: str, channel: str, **binding: Any) -> dict[str, Any]:
    bindings = {"bindings": {"kafka": {**binding, "bindingVersion": "0.5.0"}}} if binding else {}
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, **bindings}


def _message(summary: str, payload: Any, headers: Any = None, **more: str) -> dict[str, Any]:
    message = {"summary": summary, "payload": payload, **more, "bindings": {"kafka": {"key": KEY}}}
    return message if headers is None else {**message, "headers": headers}


if __name__ == "__main__":
    sys.exit(main())
