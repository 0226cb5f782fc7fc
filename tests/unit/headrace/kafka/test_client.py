"""What every Kafka client shares: throttled log lines and security options."""

from pathlib import Path

import pytest

from headrace.errors import UsageError
from headrace.kafka.client import load_security
from headrace.process.throttled_log import Throttle


def test_repeated_errors_are_one_line_a_minute_with_their_count() -> None:
    now = [0.0]
    throttle = Throttle(60.0, lambda: now[0])
    assert [throttle.passes("a") for _ in range(3)] == [0, None, None]
    assert throttle.passes("b") == 0
    now[0] = 60.0
    assert throttle.passes("a") == 2


def test_security_options_are_read_from_their_file(tmp_path: Path) -> None:
    file = tmp_path / "security"
    file.write_text("# comment\n\nsecurity.protocol = SASL_SSL\nsasl.password=a=b\n")
    assert load_security(str(file)) == {"security.protocol": "SASL_SSL", "sasl.password": "a=b"}
    assert load_security("") == {}
    file.write_text("nonsense\n")
    with pytest.raises(UsageError, match="line 1"):
        load_security(str(file))
    with pytest.raises(UsageError, match="cannot read"):
        load_security(str(tmp_path / "none"))
