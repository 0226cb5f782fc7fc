"""`make setup`'s decisions, the lock of the downloads and the choice of Java."""

import ssl
import subprocess
from pathlib import Path

import pytest

from headrace.errors import UsageError
from infra import setup
from infra.local import artifacts, java, trust
from infra.local.kafka import Quorum, new_cluster_id


def test_the_cache_directory_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HEADRACE_CACHE", raising=False)
    assert setup.cache_dir() == tmp_path / "headrace"
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "mine"))
    assert setup.cache_dir() == tmp_path / "mine"


def test_uv_uses_pips_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://packages.example/simple")
    assert setup.environ()["UV_DEFAULT_INDEX"] == "https://packages.example/simple"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv.example/simple")
    assert setup.environ()["UV_DEFAULT_INDEX"] == "https://uv.example/simple"


def test_pips_configuration_is_read_without_pip_and_the_more_specific_file_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("UV_DEFAULT_INDEX", "PIP_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE"):
        monkeypatch.delenv(variable, raising=False)
    special = tmp_path / "special.conf"
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "pip.conf").write_text("[global]\nindex-url = https://user.example\ncert = /user.crt\n")
    special.write_text("[global]\nindex-url = https://special.example/%20\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(special))
    found = setup.environ()
    assert (found["UV_DEFAULT_INDEX"], found["SSL_CERT_FILE"]) == ("https://special.example/%20", "/user.crt")
    special.write_text("index-url = before any section")
    with pytest.raises(setup.SetupError, match="pip's configuration cannot be read"):
        setup.environ()


def test_an_unsupported_python_names_the_supported_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.sys, "version_info", (3, 14, 0))
    with pytest.raises(setup.SetupError, match=r"3\.11, 3\.12 or 3\.13"):
        setup.check_python()


def test_a_python_without_its_venv_module_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(setup, "can_apt", lambda: False)
    with pytest.raises(setup.SetupError, match=r"apt install python3\.\d+-venv"):
        setup.have_ensurepip()


@pytest.mark.parametrize("lock", [setup.LOCK, setup.UV_LOCK, java._JRE_LOCK])
def test_every_locked_package_has_hashes_and_no_registry(lock: Path) -> None:
    text = lock.read_text()
    packages = [line for line in text.splitlines() if line and line[0] not in " #"]
    assert packages
    assert all("==" in p for p in packages)
    assert text.count("--hash=sha256:") >= len(packages)
    assert "://" not in text


@pytest.mark.parametrize("name", artifacts.ARTIFACTS)
def test_every_downloaded_jar_is_the_one_in_the_lock(name: str) -> None:
    lock, jars = artifacts.read_lock(), list(artifacts.artifact(name).iterdir())
    assert jars
    assert {j.name: artifacts._sha256(j) for j in jars}.items() <= lock.items()


def test_a_java_is_found_with_its_version() -> None:
    found = java.java_version(Path(java.java()))
    assert found is not None
    assert found >= java.OLDEST_JAVA
    assert java.java_version(Path("/nowhere/java")) is None


def test_spark_runs_on_a_java_that_keeps_profiles_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    machines = {17: Path("/jdk-17")}
    monkeypatch.setattr(java, "_on_this_machine", machines.get)
    monkeypatch.setattr(java, "java_home", lambda: Path("/jdk-17"))
    choose = java.spark_java_home.__wrapped__
    assert choose() == Path("/jdk-17")
    java._packaged_home().mkdir()
    assert choose() == java._packaged_home()
    machines[25] = Path("/jdk-25")
    assert choose() == Path("/jdk-25")


def test_a_missing_java_for_spark_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline() -> Path:
        raise UsageError("no network")

    monkeypatch.setattr(java, "_packaged_jre", offline)
    monkeypatch.setattr(java, "_on_this_machine", lambda least: None)
    assert not java.fetch_spark_java()


def test_java_reads_the_systems_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = tmp_path / "trust"
    assert trust.write_trust_store(store)
    keytool = [java.java_home() / "bin" / "keytool", "-list", "-keystore", store, "-storepass", "changeit"]
    listed = subprocess.run(keytool, capture_output=True, text=True, check=True).stdout
    assert listed.count("trustedCertEntry") == len(ssl.create_default_context().get_ca_certs()) > 0
    for place in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(place, str(tmp_path / "nothing"))
    assert not trust.write_trust_store(store)


def test_the_wrapper_drops_the_one_module_and_keeps_the_rest(tmp_path: Path) -> None:
    real, wrapper = tmp_path / "java-itself", tmp_path / "java"
    real.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    real.chmod(0o755)
    java._write_wrapper(wrapper, '$(dirname "$0")/java-itself')
    arguments = ["-Xmx1g", "--add-modules=jdk.incubator.vector", "-cp", "a b", "--add-modules=other"]
    said = subprocess.run([wrapper, *arguments], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["-Xmx1g", "-cp", "a b", "--add-modules=other"]


def test_cluster_ids_have_kafkas_form_and_voters_kafkas_syntax() -> None:
    made = {new_cluster_id() for _ in range(200)}
    assert len(made) == 200
    assert all(len(i) == 22 and not i.startswith("-") for i in made)
    assert Quorum("x", ((1, 7001), (2, 7002))).voters == "1@127.0.0.1:7001,2@127.0.0.1:7002"
