"""Credentials and TLS as the settings say, and a refusal is one clear line that repeats no secret."""

from __future__ import annotations

import datetime
import ipaddress
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from tests.conformance.worlds import Member, outgoing, until
from worker.settings import Settings
from worker.tools.kafka_properties import HOST
from worker.tools.local_kafka import LocalKafka
from worker.tools.local_kafka_process import Port
from worker.transport import make_transport
from worker.transport.interface import TransportConfigurationError, TransportUnavailable

LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SECRET = "s3cret-of-the-worker"
TOPIC = "secured"


@dataclass
class Secured:
    """The listeners of one broker, and the certificate that signs its own."""

    sasl: str
    tls: str
    certificate: Path


def certificate(folder: Path) -> tuple[str, str]:
    """A key and a certificate for the broker's address, signed by itself; PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode(), built.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    key, chain = certificate(folder)
    (folder / "ca.pem").write_text(chain)
    ports = {name: Port() for name in ("PLAINTEXT", "SASL", "TLS", "CONTROLLER")}
    addresses = {name: f"{HOST}:{port.number}" for name, port in ports.items()}
    ports["PLAINTEXT"].release()  # LocalKafka takes it itself
    listeners = {name: f"{name}://{address}" for name, address in addresses.items()}
    properties = {
        "listeners": ",".join(listeners.values()),
        "advertised.listeners": ",".join(listeners[name] for name in ("PLAINTEXT", "SASL", "TLS")),
        "controller.quorum.voters": f"1@{addresses['CONTROLLER']}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
        "listener.name.sasl.plain.sasl.jaas.config": f'{LOGIN} user_worker="{SECRET}";',
        "listener.name.sasl.scram-sha-256.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.key": key,
        "ssl.keystore.certificate.chain": chain,
    }
    with LocalKafka(port=ports["PLAINTEXT"].number, properties=properties):
        with KafkaAdminClient(bootstrap_servers=addresses["PLAINTEXT"]) as admin:
            user = UserScramCredentialUpsertion("scram-worker", ScramMechanism.SCRAM_SHA_256, SECRET)
            assert admin.alter_user_scram_credentials([user]) == {"scram-worker": None}
            admin.create_topics([TOPIC], wait_for_metadata=True)
        yield Secured(addresses["SASL"], addresses["TLS"], folder / "ca.pem")
    for name in ("SASL", "TLS", "CONTROLLER"):
        ports[name].release()


def connect(client: str, address: str, **kafka: Any) -> None:
    """Both consumer and producer are shown to work."""
    settings = Settings(kafka={"client": client, "bootstrap_servers": address, "group_id": client, **kafka})
    transport = make_transport(settings)
    try:
        transport.connect(2.5)
        member = Member(transport, [TOPIC])
        until(lambda: member.owned, member)
        transport.send(outgoing(TOPIC, b"hello"))
        until(lambda: member.delivered_, member)
        assert member.delivered_ == [(None, None)]
    finally:
        transport.close(2)


@pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])
@pytest.mark.parametrize("mechanism, user", [("PLAIN", "worker"), ("SCRAM-SHA-256", "scram-worker")])
def test_sasl(secured: Secured, client: str, mechanism: str, user: str) -> None:
    sasl = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": mechanism, "sasl_username": user}
    connect(client, secured.sasl, sasl_password=SECRET, **sasl)
    begun = time.monotonic()
    with pytest.raises(TransportConfigurationError) as caught:
        connect(client, secured.sasl, sasl_password="wrong-s3cret", **sasl)
    assert time.monotonic() - begun < 4.5
    assert "\n" not in str(caught.value) and "s3cret" not in str(caught.value)


@pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])
def test_tls(secured: Secured, client: str, tmp_path: Path) -> None:
    connect(client, secured.tls, security_protocol="SSL", ssl_cafile=secured.certificate)
    with pytest.raises(TransportConfigurationError) as caught:
        connect(client, secured.tls, security_protocol="SSL")
    assert "certificate" in str(caught.value).lower() and "\n" not in str(caught.value)
    with pytest.raises(TransportConfigurationError, match=r"kafka\.ssl_cafile .*missing\.pem: no such file"):
        connect(client, secured.tls, security_protocol="SSL", ssl_cafile=tmp_path / "missing.pem")


@pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])
def test_plain_text_to_a_listener_that_wants_more_is_no_hang(secured: Secured, client: str) -> None:
    for address in (secured.sasl, secured.tls):
        begun = time.monotonic()
        with pytest.raises((TransportUnavailable, TransportConfigurationError)):
            connect(client, address)
        assert time.monotonic() - begun < 5.5
