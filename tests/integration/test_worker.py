"""`review-worker run` on real Kafka, as a process: good input, bad input, and how it stops."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas import headers
from schemas.dead_letter import unwrap
from tests.fakes.stream import StartWorker, Stream, committed, connection, event, run_until, send, written
from tests.fakes.worker import wait_until
from worker import __version__
from worker.configuration import load_settings
from worker.sizes import batch_bytes
from worker.tools.process import COMMAND, WorkerProcess
from worker.transport.admin import Admin


def test_every_offset_comes_out_once_in_order_and_as_classify_says(
    worker: StartWorker, stream: Stream, texts: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    count = 10_000
    send(stream, (event(number, texts[number]) for number in range(count)))
    settings = {**stream, "engine.dtype": "float32"}
    results, dead_letters = run_until(worker, settings, count)
    assert not dead_letters
    coordinates = [headers.parse_source(headers.last(result.headers, headers.SOURCE) or b"")[1:] for result in results]
    assert len(coordinates) == len(set(coordinates)) == count
    for partition in range(4):
        offsets = [offset for number, offset in coordinates if number == partition]
        assert offsets == list(range(count // 4))
    labelled = {}
    for result, (partition, offset) in zip(results, coordinates, strict=True):
        value, number = json.loads(result.value or b""), offset * 4 + partition
        assert value["review_id"] == f"r{number}" and value["review"]["text"] == texts[number]
        assert result.partition == partition and result.key == str(number).encode()
        assert result.headers[:2] == event(number, "")[2]
        labelled[value["review_id"]] = value

    file, output = tmp_path / "reviews.jsonl", tmp_path / "labelled.jsonl"
    file.write_bytes(b"\n".join(event(number, texts[number])[1] or b"" for number in range(count)))
    subprocess.run(
        [
            COMMAND,
            "classify",
            "--checkpoint",
            checkpoint,
            "--input",
            file,
            "--output",
            output,
            "--engine.dtype=float32",
        ],
        check=True,
    )
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(value["source"]["topic"], value["source"]["offset"]) for value in again] == [
        (str(file), line) for line in range(1, count + 1)
    ]
    for value in again:
        assert value["label"] == labelled[value["review_id"]]["label"]
        assert value["scores"] == pytest.approx(labelled[value["review_id"]]["scores"], abs=1e-5)


BAD = {
    b"not json canary": "invalid_json",
    b'["canary"]': "not_an_object",
    b'{"text":"canary"}': "invalid_review_id",
    b'{"review_id":"1","text":"  "}': "invalid_text",
    b'{"review_id":"1","text":"canary","schema_version":"2.0"}': "unsupported_schema_version",
    None: "null_value",
    b'{"review_id":"1","text":"canary \xff"}': "not_utf8",
    b'{"review_id":"1","text":"canary","score":NaN}': "invalid_json",
}


def test_bad_input_goes_to_the_dead_letters_and_disturbs_nothing_else(
    worker: StartWorker, stream: Stream, texts: list[str]
) -> None:
    own = (("h", b"1"), ("h", None), ("review-worker-reason", b"forged"))
    bad = [(f"bad{number}".encode(), value, own) for number, value in enumerate(BAD)]
    good = [event(number, texts[number]) for number in range(len(bad))]
    optional = b'{"review_id":"o","text":"fine","rating":"many","created_at":"yesterday","title":7}'
    records = [record for pair in zip(good, bad, strict=True) for record in pair] + [(b"optional", optional, ())]
    send(stream, records)

    def counted(process: WorkerProcess) -> None:
        for field in ("rating", "created_at", "title"):
            assert process.metric(f'review_worker_invalid_optional_fields_total{{field="{field}"}}') == 1, field

    results, letters = run_until(worker, {**stream, "breaker.ratio": 1.0}, len(records), counted)
    assert {result.key for result in results} == {key for key, _, _ in good} | {b"optional"}
    assert json.loads(next(r.value or b"" for r in results if r.key == b"optional"))["review"]["rating"] == "many"
    assert len(letters) == len(bad)
    for letter in letters:
        headers_then, info = unwrap(letter.headers)
        assert headers_then == own
        assert (letter.key, letter.value) in {(key, value) for key, value, _ in bad}
        assert info.reason == BAD[letter.value]
        assert info.attempt == 1 and info.stage == "decode" and info.model == "random@v0001"
        assert info.source.startswith(stream["kafka.input_topic"])
        assert "canary" not in info.error


def test_long_texts_are_labelled_and_results_too_large_go_without_the_review(
    worker: StartWorker, stream: Stream, checkpoint: Path
) -> None:
    with Admin(connection(stream)) as admin:
        limit = admin.topic(stream["kafka.input_topic"]).max_message_bytes  # type: ignore[union-attr]
    long = b'{"review_id":"long","text":"' + b"quite good " * 90_000 + b'"}'  # 1 MB
    room = limit - batch_bytes(b"full", b'{"review_id":"full","text":""}', ()) - 6
    full = b'{"review_id":"full","text":"' + b"x" * room + b'"}'
    while batch_bytes(b"full", full, ()) < limit:
        full = full[:-2] + b'y"}'
    assert batch_bytes(b"full", full, ()) == limit
    send(stream, [(b"long", long, ()), (b"full", full, ())])
    results, letters = run_until(worker, stream, 2)
    assert not letters
    by_key = {result.key: json.loads(result.value or b"") for result in results}
    assert by_key[b"long"]["truncated"] is True and by_key[b"long"]["token_count"] == 150
    assert by_key[b"full"]["review_omitted"] is True and "review" not in by_key[b"full"]


def mistakes(stream: Stream, checkpoint: Path, tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    flags = [f"--{name}={value}" for name, value in {**stream, "http.port": 0}.items()]
    tampered = tmp_path / "tampered"
    subprocess.run(["cp", "-r", checkpoint, tampered], check=True)
    with (tampered / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x7f")
    return {
        "missing topic": ([*flags, "--checkpoint", str(checkpoint), "--kafka.output_topic=nowhere"], "'nowhere'"),
        "wrong address": ([*flags, "--checkpoint", str(checkpoint), "--kafka.bootstrap_servers=127.0.0.1:9"], ":9"),
        "no checkpoint": ([*flags, "--checkpoint", str(tmp_path / "none")], "none"),
        "tampered": ([*flags, "--checkpoint", str(tampered)], "model.safetensors"),
        "bad setting": ([*flags, "--checkpoint", str(checkpoint), "--engine.token_budget=many"], "token_budget"),
    }


@pytest.mark.parametrize("mistake", ["missing topic", "wrong address", "no checkpoint", "tampered", "bad setting"])
def test_a_mistake_ends_with_exit_code_2_and_one_clear_line(
    mistake: str, stream: Stream, checkpoint: Path, tmp_path: Path
) -> None:
    flags, named = mistakes(stream, checkpoint, tmp_path)[mistake]
    ended = subprocess.run([COMMAND, "run", *flags], capture_output=True, text=True, timeout=40)
    assert ended.returncode == 2, ended.stderr
    complaints = [line for line in ended.stderr.splitlines() if line.startswith("review-worker: ")]
    assert len(complaints) == 1 and named in complaints[0]
    assert "Traceback" not in ended.stderr


def test_a_missing_topic_is_not_created_even_where_the_broker_would(
    local_kafka_factory: Callable[..., Any], checkpoint: Path
) -> None:
    kafka = local_kafka_factory(properties={"auto.create.topics.enable": "true"})
    flags = [f"--kafka.bootstrap_servers={kafka.bootstrap_servers}", "--http.port=0", "--checkpoint", str(checkpoint)]
    ended = subprocess.run([COMMAND, "run", *flags], capture_output=True, text=True, timeout=40)
    assert ended.returncode == 2 and "'reviews' does not exist" in ended.stderr, ended.stderr
    with Admin(load_settings(None, flags[:1]).kafka) as admin:
        assert admin.topic("reviews") is None


def test_the_breaker_ends_with_exit_code_3_at_the_first_unhandled_record(worker: StartWorker, stream: Stream) -> None:
    send(stream, ((b"k", b"bad", ()) for _ in range(3000)))
    with worker(stream) as process:
        assert process.wait(60) == 3, process.log
        assert "breaker" in process.log
    letters = written(stream, stream["kafka.dead_letter_topic"])
    assert len(letters) == sum(committed(stream).values()) < 3000
    handled = {tuple(unwrap(letter.headers)[1].source.rsplit("-", 2)[1:]) for letter in letters}
    assert handled == {(str(p), str(offset)) for p, end in committed(stream).items() for offset in range(end)}


def test_probes_and_information(worker: StartWorker, stream: Stream, texts: list[str]) -> None:
    send(stream, (event(number, texts[number]) for number in range(20)))
    with worker({**stream, "kafka.client": "kafka-python"}) as process:
        wait_until(lambda: process.get("/livez")[0] == 200, "alive from the start", 30)
        process.wait_ready()
        wait_until(lambda: process.metric("review_worker_labelled_records_total") == 20, "20 results", 30)
        info = json.loads(process.get("/info")[1])
        assert info["model"] == "random@v0001" and info["client"] == "kafka-python"
        assert process.metric(f'review_worker_build_info{{client="kafka-python",version="{__version__}"}}') == 1
        wait_until(lambda: process.metric("review_worker_lag_records") == 0, "lag 0", 15)
        assert "review-worker is ready" in process.get("/")[1]
        assert texts[3][:20] not in process.get("/metrics")[1]
