"""Which client the settings come to, with and without librdkafka installed."""

from __future__ import annotations

import pytest

from worker.settings import Settings
from worker.transport import make_transport
from worker.transport.interface import TransportConfigurationError

DELIVERIES = ["at_least_once", "exactly_once"]


@pytest.fixture
def without_librdkafka(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.transport.find_spec", lambda name: None)


def settings(client: str, delivery: str = "at_least_once", protocol: str = "classic") -> Settings:
    return Settings(delivery=delivery, kafka={"client": client, "group_protocol": protocol})


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_auto_takes_librdkafka_where_it_is_installed(delivery: str) -> None:
    pytest.importorskip("confluent_kafka")
    assert make_transport(settings("auto", delivery)).name == "librdkafka"
    assert make_transport(settings("kafka-python", delivery)).name == "kafka-python"


@pytest.mark.usefixtures("without_librdkafka")
@pytest.mark.parametrize("delivery", DELIVERIES)
def test_auto_takes_kafka_python_otherwise(delivery: str) -> None:
    assert make_transport(settings("auto", delivery)).name == "kafka-python"


@pytest.mark.usefixtures("without_librdkafka")
def test_librdkafka_that_is_not_installed_is_a_configuration_error() -> None:
    with pytest.raises(TransportConfigurationError, match=r"kafka\.client=librdkafka needs the extra of that name"):
        make_transport(settings("librdkafka"))


@pytest.mark.parametrize("client", ["kafka-python", "auto"])
def test_the_new_group_protocol_without_librdkafka_is_refused(client: str, request: pytest.FixtureRequest) -> None:
    if client == "auto":
        request.getfixturevalue("without_librdkafka")
    with pytest.raises(TransportConfigurationError, match=r"kafka\.group_protocol=consumer needs librdkafka"):
        make_transport(settings(client, protocol="consumer"))
