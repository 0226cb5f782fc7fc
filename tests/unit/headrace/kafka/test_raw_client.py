"""librdkafka's security options for aiokafka, which sends the requests that librdkafka cannot send."""

import ssl

import pytest

from headrace.errors import UsageError
from headrace.kafka.raw_client import security_options


def test_no_security_is_no_option() -> None:
    assert security_options({}) == {}
    assert security_options({"security.protocol": "PLAINTEXT"}) == {}


def test_sasl_options_have_aiokafkas_names() -> None:
    found = security_options(
        {
            "security.protocol": "sasl_ssl",
            "sasl.mechanisms": "SCRAM-SHA-512",
            "sasl.username": "u",
            "sasl.password": "p",
        }
    )
    assert found.pop("ssl_context").check_hostname
    assert found == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
    }


def test_tls_checks_certificates_unless_told_otherwise() -> None:
    strict = security_options({"security.protocol": "SSL"})["ssl_context"]
    assert strict.verify_mode is ssl.CERT_REQUIRED
    loose = security_options({"security.protocol": "SSL", "enable.ssl.certificate.verification": "false"})
    assert loose["ssl_context"].verify_mode is ssl.CERT_NONE


def test_kerberos_is_librdkafkas_default() -> None:
    found = security_options({"security.protocol": "SASL_PLAINTEXT"})
    assert (found["sasl_mechanism"], found["sasl_kerberos_service_name"]) == ("GSSAPI", "kafka")


@pytest.mark.parametrize(
    "options",
    [
        {"security.protocol": "TLS"},
        {"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"},
        {"security.protocol": "SSL", "ssl.cipher.suites": "NULL"},
        {"security.protocol": "SSL", "ssl.ca.location": "/no/such/file"},
    ],
)
def test_what_aiokafka_cannot_follow_is_refused_in_words(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"give|lacks|cannot be read"):
        security_options(options)
