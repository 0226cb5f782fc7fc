"""Settings come from flags, variables and files, in that order, and are checked before anything starts."""

from dataclasses import fields
from pathlib import Path

import pytest

from headrace.errors import UsageError
from headrace.settings import Settings, parse_address, usable_cpus


def test_a_flag_wins_over_a_variable_over_a_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from-file:9092\n")
    environ = {"HEADRACE_KAFKA_FILE": str(file)}
    assert Settings.load({}, {}).kafka == ""
    assert Settings.load({}, environ).kafka == "from-file:9092"
    assert Settings.load({}, environ | {"HEADRACE_KAFKA": "variable:9092"}).kafka == "variable:9092"
    assert Settings.load({"kafka": "flag:9092"}, environ | {"HEADRACE_KAFKA": "variable:9092"}).kafka == "flag:9092"
    assert Settings.load({"kafka": None}, {"HEADRACE_KAFKA": ""}).kafka == ""


def test_settings_pass_through_a_childs_environment(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, workers=3, drain_s=1.5, insecure=True, kafka="k:1", node="n")
    assert Settings.load({}, settings.environ()) == settings
    assert Settings().environ() == {}


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HEADRACE_WORKERS", "many", "a whole number"),
        ("HEADRACE_WORKERS", "-1", "negative"),
        ("HEADRACE_STOREKEEPERS", "0", "at least 1"),
        ("HEADRACE_GATEWAYS", "0", "at least 1"),
        ("HEADRACE_DRAIN_S", "soon", "a number of seconds"),
        ("HEADRACE_DRAIN_S", "-1", "at least 0"),
        ("HEADRACE_LEASE_S", "6.9", "at least 7"),
        ("HEADRACE_KEEP_S", "3599", "at least 3600"),
        ("HEADRACE_VIEW_DAYS", "-1", "0 \\(for ever\\)"),
        ("HEADRACE_LOG_DAYS", "-1", "0 \\(for ever\\)"),
        ("HEADRACE_LOG_DAYS", "0.5", "a whole number"),
        ("HEADRACE_INSECURE", "maybe", "0 or 1"),
        ("HEADRACE_HTTP", "8000", "host:port"),
        ("HEADRACE_HTTP", "localhost:99999", "host:port"),
        ("HEADRACE_TRIGGER_S", "0", "above 0"),
        ("HEADRACE_IMPORT_S", "0", "above 0"),
        ("HEADRACE_IMPORT_S", "nan", "above 0"),
        ("HEADRACE_NODE", "caf\udce9", "printable"),
        ("HEADRACE_NODE", "a\nb", "printable"),
        ("HEADRACE_KAFKA_FILE", "/no/such/file", "cannot read"),
    ],
)
def test_the_error_for_a_wrong_value_names_its_variable(variable: str, value: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Settings.load({}, {variable: value})
    assert variable in str(caught.value)


def test_every_setting_has_a_variable_of_its_own_name_and_help() -> None:
    for f in fields(Settings):
        assert f.metadata["env"] == f"HEADRACE_{f.name.upper()}"
        assert len(f.metadata["help"]) > 3


def test_addresses_of_both_families_are_parsed() -> None:
    assert parse_address("127.0.0.1:8000") == ("127.0.0.1", 8000)
    assert parse_address("[::1]:8000") == ("::1", 8000)


def test_the_defaults_follow_the_machine_and_the_data_directory(tmp_path: Path) -> None:
    assert usable_cpus() >= 1
    settings = Settings(data=tmp_path)
    assert settings.results_root == tmp_path / "results"
    assert Settings(data=tmp_path, results="/r").results_root == Path("/r")
    assert settings.slot_count == usable_cpus()
    assert settings.node_name.endswith("-6066")
