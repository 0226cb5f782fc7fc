"""A client for requests that librdkafka cannot send: to leave a group as another member, to name open transactions, to
fetch a batch as it lies in the log.

It is aiokafka's, with librdkafka's security options translated. UsageError for an option that aiokafka would ignore or
does not have, and for certificates that cannot be read; ImportError where aiokafka is not installed.
"""

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any

from headrace.errors import UsageError
from headrace.kafka.client import Kafka


@contextlib.asynccontextmanager
async def raw_client(kafka: Kafka, timeout_s: float) -> AsyncIterator[Any]:
    """An AIOKafkaClient that has found the cluster; a request gets `timeout_s`. Its errors are aiokafka's."""
    from aiokafka.client import AIOKafkaClient

    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # what fails is told by the caller

    client = AIOKafkaClient(
        bootstrap_servers=kafka.bootstrap.split(","),
        request_timeout_ms=int(timeout_s * 1000),
        **security_options(kafka.security),
    )
    try:
        await client.bootstrap()
        yield client
    finally:
        await client.close()


async def leader_of(client: Any, topic: str, partition: int) -> int:
    """The broker that leads the partition; LookupError when there is none, and aiokafka's errors."""
    from aiokafka.structs import TopicPartition

    client.add_topic(topic)
    await client.force_metadata_update()
    leader: int | None = client.cluster.leader_for_partition(TopicPartition(topic, partition))
    if leader is None or leader < 0:
        raise LookupError(f"{topic}/{partition} has no leader")
    return leader


def security_options(security: Mapping[str, str]) -> dict[str, Any]:
    """aiokafka's keyword arguments for librdkafka's security options; empty for a cluster without security."""
    protocol = security.get("security.protocol", "plaintext").upper()
    if protocol not in {"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"}:
        raise UsageError(f"security.protocol={protocol}: give PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
    _check_known(security)
    found: dict[str, Any] = {} if protocol == "PLAINTEXT" else {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        found["ssl_context"] = _ssl_context(security)
    return found | _login(security) if protocol.startswith("SASL") else found


def _login(security: Mapping[str, str]) -> dict[str, str]:
    mechanism = security.get("sasl.mechanism", security.get("sasl.mechanisms", "GSSAPI")).upper()
    if mechanism == "GSSAPI":
        service = security.get("sasl.kerberos.service.name", "kafka")
        return {"sasl_mechanism": mechanism, "sasl_kerberos_service_name": service}
    if mechanism not in {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}:
        raise UsageError(f"sasl.mechanism={mechanism}: give PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or GSSAPI")
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": security.get("sasl.username", ""),
        "sasl_plain_password": security.get("sasl.password", ""),
    }


_KNOWN = {
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "sasl.kerberos.service.name",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
}


def _check_known(security: Mapping[str, str]) -> None:
    """Refuses options that librdkafka would follow and aiokafka would ignore: a security hole that nobody sees."""
    unknown = sorted(k for k in security if k.startswith(("ssl.", "sasl.")) and k not in _KNOWN)
    if unknown:
        raise UsageError(
            f"HEADRACE_KAFKA_SECURITY: aiokafka lacks {', '.join(unknown)}: use {', '.join(sorted(_KNOWN))}"
        )


def _ssl_context(security: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=security.get("ssl.ca.location"), cadata=security.get("ssl.ca.pem"))
        if certificate := security.get("ssl.certificate.location"):
            context.load_cert_chain(certificate, security.get("ssl.key.location"), security.get("ssl.key.password"))
    except (OSError, ssl.SSLError) as e:
        raise UsageError(f"HEADRACE_KAFKA_SECURITY: the certificates cannot be read: {e}") from None
    context.check_hostname = security.get("ssl.endpoint.identification.algorithm", "https").lower() != "none"
    if security.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
