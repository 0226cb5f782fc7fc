"""Kafka's options for Spark: the brokers, and librdkafka's security options translated into those of the Java client.

`HEADRACE_KAFKA_SECURITY` has librdkafka's option names, for every role; Spark's connector takes the Java client's names
with `kafka.` before each. UsageError names an option without a counterpart, so that no protection is lost silently.
"""

from collections.abc import Mapping
from pathlib import Path

from headrace.errors import UsageError
from headrace.kafka.client import load_security
from headrace.kafka.groups import ANALYTICS_GROUP_PREFIX
from headrace.settings import Settings

_LOGIN = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}
_SAME = frozenset({"security.protocol", "ssl.key.password", "ssl.endpoint.identification.algorithm"})
_FILES = {  # PEM files: Java takes their text
    "ssl.ca.location": ("ssl.truststore.certificates", "ssl.truststore.type"),
    "ssl.certificate.location": ("ssl.keystore.certificate.chain", "ssl.keystore.type"),
    "ssl.key.location": ("ssl.keystore.key", "ssl.keystore.type"),
}
_SASL = frozenset({"sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password"})


def kafka_options(settings: Settings) -> dict[str, str]:
    """Options of Spark's Kafka source: brokers, a group prefix with the topics' prefix, security."""
    found = {
        "kafka.bootstrap.servers": settings.kafka,
        "kafka.isolation.level": "read_committed",  # as librdkafka's consumers, whose default it is
        # A lifecycle record is little but key and headers: better one with a wrong bit than a query that ends for ever.
        "kafka.check.crcs": "false",
        "groupIdPrefix": f"{settings.topic_prefix}{ANALYTICS_GROUP_PREFIX}",
    }
    return found | {f"kafka.{k}": v for k, v in java_security(load_security(settings.kafka_security)).items()}


def java_security(options: Mapping[str, str]) -> dict[str, str]:
    """librdkafka's security options as the Java client's; UsageError for an option without a counterpart."""
    found = _login(options)
    for key, value in options.items():
        if key in _SASL:
            continue
        if key in _FILES:
            name, store_type = _FILES[key]
            found[name], found[store_type] = _pem(key, value), "PEM"
        elif key in _SAME:
            found[key] = "" if (key, value) == ("ssl.endpoint.identification.algorithm", "none") else value
        else:
            raise UsageError(
                f"HEADRACE_KAFKA_SECURITY: the statistics cannot use {key}: give security.protocol, sasl.mechanism "
                f"({', '.join(_LOGIN)}), sasl.username, sasl.password and ssl.*.location (PEM files)"
            )
    return found


def _login(options: Mapping[str, str]) -> dict[str, str]:
    mechanism = options.get("sasl.mechanism", options.get("sasl.mechanisms", ""))
    if not mechanism:
        return {}
    if mechanism not in _LOGIN:
        raise UsageError(
            f"HEADRACE_KAFKA_SECURITY: the statistics cannot use sasl.mechanism={mechanism}: give {', '.join(_LOGIN)}"
        )
    user, password = (_quoted(options.get(f"sasl.{part}", "")) for part in ("username", "password"))
    return {
        "sasl.mechanism": mechanism,
        "sasl.jaas.config": f"{_LOGIN[mechanism]} required username={user} password={password};",
    }


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _pem(key: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as e:
        raise UsageError(f"HEADRACE_KAFKA_SECURITY: {key}: cannot read {path}: {e.strerror}") from None
