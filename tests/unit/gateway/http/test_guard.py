"""Where the gateway may listen without API keys, which this release does not support."""

import pytest

from gateway.http.guard import check_address
from headrace.errors import UsageError
from headrace.settings import Settings


def test_loopback_is_accepted_and_other_addresses_only_with_insecure() -> None:
    assert check_address(Settings(http="127.0.0.1:8000")) == ("127.0.0.1", 8000)
    with pytest.raises(UsageError, match="other machines can reach"):
        check_address(Settings(http="0.0.0.0:8000"))
    assert check_address(Settings(http="0.0.0.0:8000", insecure=True)) == ("0.0.0.0", 8000)


@pytest.mark.parametrize("http", ["127.0.0.1:8000", "0.0.0.0:8000"])
def test_api_keys_are_refused(http: str) -> None:
    with pytest.raises(UsageError, match="does not support API keys: unset it"):
        check_address(Settings(http=http, api_keys="keys.toml"))
