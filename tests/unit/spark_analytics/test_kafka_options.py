"""librdkafka's security options, as every other role takes them, translated for Spark."""

from pathlib import Path

import pytest

from headrace.errors import UsageError
from headrace.settings import Settings
from spark_analytics.kafka_options import java_security, kafka_options


def test_a_password_with_quotes_stays_one_password() -> None:
    found = java_security(
        {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "stats",
            "sasl.password": 'a"b\\c; evil="1',
        }
    )
    assert found["security.protocol"] == "SASL_PLAINTEXT"
    assert found["sasl.mechanism"] == "SCRAM-SHA-512"
    assert found["sasl.jaas.config"] == (
        "org.apache.kafka.common.security.scram.ScramLoginModule required "
        'username="stats" password="a\\"b\\\\c; evil=\\"1";'
    )


def test_certificates_are_passed_as_text(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("CA")
    (tmp_path / "client.pem").write_text("CERTIFICATE")
    (tmp_path / "client.key").write_text("KEY")
    found = java_security(
        {
            "security.protocol": "SSL",
            "ssl.ca.location": str(tmp_path / "ca.pem"),
            "ssl.key.password": "secret",
            "ssl.certificate.location": str(tmp_path / "client.pem"),
            "ssl.key.location": str(tmp_path / "client.key"),
            "ssl.endpoint.identification.algorithm": "none",
        }
    )
    assert found == {
        "security.protocol": "SSL",
        "ssl.key.password": "secret",
        "ssl.endpoint.identification.algorithm": "",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": "CA",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.certificate.chain": "CERTIFICATE",
        "ssl.keystore.key": "KEY",
    }


@pytest.mark.parametrize("options", [{"sasl.mechanism": "GSSAPI"}, {"enable.ssl.certificate.verification": "false"}])
def test_an_option_without_a_counterpart_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="HEADRACE_KAFKA_SECURITY"):
        java_security(options)


def test_groups_and_security_carry_the_installation(tmp_path: Path) -> None:
    (tmp_path / "security").write_text(
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=a\nsasl.password=b\n"
    )
    found = kafka_options(Settings(kafka="k:9092", topic_prefix="p.", kafka_security=str(tmp_path / "security")))
    assert found["kafka.bootstrap.servers"] == "k:9092"
    assert found["groupIdPrefix"] == "p.headrace-analytics"
    assert found["kafka.security.protocol"] == "SASL_PLAINTEXT"
