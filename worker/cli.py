"""The command line of the worker: which commands there are, and how mistakes end. What they do is in `worker/tools`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from schemas.datafiles import DataFileError
from schemas.store import CheckpointError
from worker import __version__
from worker.configuration import ConfigurationError, load_settings
from worker.faults import DeviceFault, OutOfMemory
from worker.tools.bench_engine import bench_engine_command
from worker.tools.bench_pipeline import bench_pipeline_command
from worker.tools.classify import classify_command
from worker.tools.config import config_command
from worker.tools.connection import ANY_SETTING, Config
from worker.tools.dead_letters import dead_letters_app
from worker.tools.demo import demo_command
from worker.tools.kafka_jars import LocalKafkaError
from worker.tools.local_kafka import kafka_command
from worker.tools.offsets import offsets_app
from worker.tools.process import WorkerEnded
from worker.tools.produce import produce_command
from worker.tools.tail import tail_command
from worker.tools.topics import topics_app
from worker.transport.interface import TransportConfigurationError, TransportFault, TransportUnavailable

FAULTS = (TransportFault, WorkerEnded, OutOfMemory, DeviceFault)
MISTAKES = (
    CheckpointError,
    ConfigurationError,
    DataFileError,
    TransportConfigurationError,
    TransportUnavailable,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Labels review streams on Kafka with a fine-tuned BERT, losing none.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


@app.command(context_settings=ANY_SETTING)
def run(
    context: typer.Context,
    checkpoint: Annotated[
        str | None, typer.Option(help="Directory, or STORE/NAME@VERSION_OR_ALIAS; the setting checkpoint.ref.")
    ] = None,
    config: Config = None,
) -> None:
    """Label a stream: read the input topic, write the output topic, until told to stop (SIGTERM, Ctrl-C).

    Every setting of `review-worker config` may follow as a flag, stand in the environment or in the file.

    Exit codes: 0 drained, 1 fault, 2 configuration, 3 breaker (too much of the stream was rejected).

    Example: review-worker run --checkpoint store/reviews@production --kafka.bootstrap_servers=broker:9092
    """
    overrides = {"checkpoint": {"ref": checkpoint}} if checkpoint else {}
    settings = load_settings(config, context.args, **overrides)
    from worker.service import run as run_service

    raise typer.Exit(run_service(settings))


app.command("classify", context_settings=ANY_SETTING)(classify_command)
bench_app = typer.Typer(no_args_is_help=True, help="What this machine can do, against its own ceiling.")
bench_app.command("engine", context_settings=ANY_SETTING)(bench_engine_command)
bench_app.command("pipeline", context_settings=ANY_SETTING)(bench_pipeline_command)
app.add_typer(bench_app, name="bench")
app.add_typer(topics_app, name="topics")
app.command("produce", context_settings=ANY_SETTING)(produce_command)
app.command("tail", context_settings=ANY_SETTING)(tail_command)
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(offsets_app, name="offsets")
app.command("kafka")(kafka_command)
app.command("config", context_settings=ANY_SETTING)(config_command)
app.command("demo")(demo_command)


def main() -> None:
    """Entry point; a person's mistake is one line on standard error and exit code 2."""
    try:
        app()
    except MISTAKES as error:
        print(f"review-worker: {error}", file=sys.stderr)
        sys.exit(2)
    except LocalKafkaError as error:
        print(f"review-worker: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except FAULTS as error:
        print(f"review-worker: {error}", file=sys.stderr)
        sys.exit(1)
