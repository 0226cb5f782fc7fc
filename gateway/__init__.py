"""The HTTP gateway. Nobody imports it but `infra`."""
