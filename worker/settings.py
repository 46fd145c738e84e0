"""Every setting of the worker, each defined once: environment, TOML file and command-line flag all come from this tree.

`kafka.input_topic` is WORKER_KAFKA__INPUT_TOPIC in the environment, `input_topic` below `[kafka]` in the file and
`--kafka.input_topic` on the command line; flags win over the environment, the environment over the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


def _one_of_these(choices: str) -> Callable[[Any, ValidatorFunctionWrapHandler], Any]:
    """For a union: one complaint instead of one a member."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(f"expected {choices}") from None

    return validate


Seconds = Annotated[float, Field(gt=0)]


class KafkaSettings(_Group):
    """Where the reviews come from and the results go."""

    bootstrap_servers: Annotated[
        str,
        Field(min_length=1, description="host:port of one or more brokers, with commas; two survive the loss of one."),
    ] = "localhost:9092"
    client: Annotated[
        Literal["auto", "kafka-python", "librdkafka"],
        Field(
            description="auto takes librdkafka where the extra of that name is installed: it costs a tenth of the CPU."
        ),
    ] = "auto"
    input_topic: Annotated[
        str | list[str], Field(min_length=1, description="Topic of review events, or a JSON list of topics.")
    ] = "reviews"
    output_topic: Annotated[str, Field(min_length=1, description="Topic of labelled reviews.")] = "reviews.labelled"
    dead_letter_topic: Annotated[
        str, Field(min_length=1, description="Topic of rejected records; must not be compacted.")
    ] = "reviews.dead-letters"
    group_id: Annotated[
        str, Field(min_length=1, description="Consumer group: replicas of one deployment share it, deployments differ.")
    ] = "review-worker"
    group_protocol: Annotated[
        Literal["classic", "consumer"],
        Field(description="consumer is KIP-848 (faster rebalances, Kafka 4, librdkafka only)."),
    ] = "classic"
    instance_id: Annotated[
        str | None,
        Field(description="Stable name of this replica: static membership, so a restart within the session timeout "
              "moves no partitions. Must be unique in the group; leave empty unless something assigns names."),
    ] = None  # fmt: skip
    start: Annotated[
        Literal["earliest", "latest"] | AwareDatetime,
        WrapValidator(_one_of_these("earliest, latest or a time with its zone, such as 2026-05-01T12:00:00Z")),
        Field(description="Where a group that has never committed begins: earliest, latest or a time (RFC 3339)."),
    ] = "earliest"
    startup_timeout: Annotated[
        Seconds,
        Field(description="Seconds to wait at start for a broker; longer where brokers start beside the worker."),
    ] = 15.0
    outage_deadline: Annotated[
        Seconds,
        Field(
            description="Seconds to wait for brokers that went away or take no results, then the worker ends (exit 1)."
        ),
    ] = 600.0
    session_timeout: Annotated[
        Seconds,
        Field(description="Seconds without a heartbeat after which the group moves a dead worker's partitions."),
    ] = 15.0
    heartbeat_interval: Annotated[Seconds, Field(description="Seconds; a third of the session timeout or less.")] = 3.0
    max_poll_interval: Annotated[
        Seconds, Field(description="Seconds without progress after which the group takes a stuck worker's partitions.")
    ] = 300.0
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], Field(description="As the brokers' listener asks.")
    ] = "PLAINTEXT"
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None, Field(description="With SASL: as the brokers ask.")
    ] = None
    sasl_username: Annotated[str | None, Field(description="With SASL: the name the brokers know this worker by.")] = (
        None
    )
    sasl_password: Annotated[SecretStr | None, Field(description="With SASL: best given in the environment.")] = None
    ssl_cafile: Annotated[Path | None, Field(description="CA certificates (PEM); the system's where not given.")] = None
    ssl_certfile: Annotated[Path | None, Field(description="Client certificate (PEM), where the brokers ask one.")] = (
        None
    )
    ssl_keyfile: Annotated[Path | None, Field(description="Key of the client certificate (PEM).")] = None
    ssl_key_password: Annotated[SecretStr | None, Field(description="Of the key, where it is encrypted.")] = None

    @property
    def input_topics(self) -> list[str]:
        """The input topics as a list."""
        return [self.input_topic] if isinstance(self.input_topic, str) else self.input_topic

    @model_validator(mode="after")
    def _consistent(self) -> KafkaSettings:
        outputs = [self.output_topic, self.dead_letter_topic]
        if len({*self.input_topics, *outputs}) != len(self.input_topics) + len(outputs):
            raise ValueError("input, output and dead-letter topics must all differ")
        for server in self.bootstrap_servers.split(","):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"bootstrap_servers: {server.strip()!r} is not host:port")
        if not all(self.input_topics):
            raise ValueError("input_topic must not be empty")
        if self.security_protocol.startswith("SASL") and not (
            self.sasl_mechanism and self.sasl_username and self.sasl_password
        ):
            raise ValueError("SASL needs sasl_mechanism, sasl_username and sasl_password")
        if self.heartbeat_interval * 3 > self.session_timeout:
            raise ValueError("heartbeat_interval must be a third of session_timeout or less")
        return self


FieldPath = Annotated[
    str,
    Field(pattern=r"^[^.]+([.][^.]+)*$", description="Where it stands in the input; dots reach into objects."),
]


class FieldNames(_Group):
    """Names of the event's fields in the input, where they differ: dotted paths reach into nested objects."""

    review_id: FieldPath = "review_id"
    text: FieldPath = "text"
    title: FieldPath = "title"
    rating: FieldPath = "rating"
    product_id: FieldPath = "product_id"
    author_id: FieldPath = "author_id"
    created_at: FieldPath = "created_at"
    language: FieldPath = "language"
    schema_version: FieldPath = "schema_version"


class InputSettings(_Group):
    """How to read what producers send."""

    fields: FieldNames = FieldNames()
    tombstones: Annotated[
        Literal["dead_letter", "forward", "skip"],
        Field(description="What becomes of a null value: forward carries a deletion on to a compacted output topic."),
    ] = "dead_letter"


class OutputSettings(_Group):
    """What results carry."""

    include_review: Annotated[
        bool, Field(description="Whether a result carries the event's own JSON; false makes results some 300 bytes.")
    ] = True


class CheckpointSettings(_Group):
    """Which model to run."""

    ref: Annotated[
        str | None, Field(description="Directory, or STORE/NAME@VERSION_OR_ALIAS; the flag --checkpoint.")
    ] = None
    cache_dir: Annotated[
        Path, Field(description="Where remote checkpoints are kept; may vanish at any time.")
    ] = Path(tempfile.gettempdir()) / "review-worker-checkpoints"  # fmt: skip


class EngineSettings(_Group):
    """How the model runs."""

    device: Annotated[
        str,
        Field(
            description="auto, cpu, cuda, cuda:N or simulated[:tokens/s]; auto takes every GPU there is, else the CPU."
        ),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        Field(description="Arithmetic of the large products; auto is the fastest that needs no calibration."),
    ] = "auto"
    calibration: Annotated[
        str | None,
        Field(description="For int8: a file (CSV, JSONL, Parquet) of 2,400 reviews such as come; keeps their labels."),
    ] = None
    token_budget: Annotated[
        int | None,
        Field(ge=1, le=65_536, description="Tokens in one batch; found by measuring at warm-up where not given."),
    ] = None

    @model_validator(mode="after")
    def _calibrated(self) -> EngineSettings:
        if self.dtype == "int8" and not self.calibration:
            raise ValueError("dtype int8 needs engine.calibration, a file of reviews such as come")
        return self


class InFlightSettings(_Group):
    """How much may be on its way at once; at any of the bounds the worker stops fetching until some is done."""

    records: Annotated[int, Field(ge=1, description="Records; bounds the duplicates a crash can cause.")] = 20_000
    bytes: Annotated[int, Field(ge=1, description="Bytes of keys, values and headers; bounds the memory.")] = 64 * 2**20
    seconds: Annotated[
        Seconds, Field(description="Work at the measured token rate; bounds the wait of a drain or rebalance.")
    ] = 2.0


class BreakerSettings(_Group):
    """Stops the worker (exit 3) when too much is rejected: then the stream is at fault, not its records."""

    ratio: Annotated[
        float, Field(gt=0, le=1, description="Share of rejected records that stops it; 1.0 turns it off.")
    ] = 0.2
    window: Annotated[int, Field(ge=1, description="Over how many of the last records.")] = 1000
    minimum: Annotated[int, Field(ge=1, description="Records to have seen before it may stop the worker.")] = 100


class HttpSettings(_Group):
    """Metrics, probes and the status page."""

    host: Annotated[str, Field(description="Address to listen on; 0.0.0.0 lets other hosts scrape and probe.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Field(ge=0, le=65535, description="0 takes a free one and logs it.")] = 9464


class LogSettings(_Group):
    """What is logged, to standard error. Review text never is."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="debug is for finding faults only.")
    ] = "info"
    format: Annotated[Literal["text", "json"], Field(description="json for log collectors.")] = "text"


class Settings(BaseSettings):
    """All settings of `review-worker run`."""

    model_config = SettingsConfigDict(
        env_prefix="WORKER_",
        env_nested_delimiter="__",
        extra="forbid",
        hide_input_in_errors=True,
        nested_model_default_partial_update=True,
    )

    delivery: Annotated[
        Literal["at_least_once", "exactly_once"],
        Field(description="exactly_once writes results and offsets in one transaction: no duplicates, some latency."),
    ] = "at_least_once"
    commit_interval: Annotated[
        Seconds, Field(description="Seconds between commits; what a crash repeats grows with it.")
    ] = 0.1
    drain_timeout: Annotated[
        Seconds, Field(description="Seconds that SIGTERM leaves to finish what the device has begun (then exit 1).")
    ] = 25.0
    stall_timeout: Annotated[
        Seconds, Field(description="Seconds a stage may hold work without progress before the worker ends itself.")
    ] = 30.0
    kafka: KafkaSettings = KafkaSettings()
    input: InputSettings = InputSettings()
    output: OutputSettings = OutputSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    engine: EngineSettings = EngineSettings()
    in_flight: InFlightSettings = InFlightSettings()
    breaker: BreakerSettings = BreakerSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
