"""A gateway whose Kafka goes away and comes back."""

import time
from pathlib import Path

from confluent_kafka.admin import AdminClient

from headrace.kafka.topics import apply_topics
from headrace.settings import Settings
from infra.local.kafka import EmbeddedKafka
from infra.local.process import free_port
from tests.rigs.gateway import Gateway, Platform, gateway, submission

JSON = {"content-type": "application/json"}


def until_ready(gw: Gateway, ready: bool, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while (gw.http.get("/readyz").status_code == 200) is not ready:
        assert time.monotonic() < deadline, gw.http.get("/readyz").text
        time.sleep(0.05)


def test_while_kafka_is_away_it_says_so_in_time_and_then_goes_on_by_itself(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path / "kafka", f"127.0.0.1:{free_port()}")
    kafka.start()
    settings = Settings(kafka=kafka.bootstrap, data=tmp_path / "data")
    apply_topics(AdminClient({"bootstrap.servers": kafka.bootstrap}), "", 2)
    platform = Platform(settings)
    platform.announce()
    with gateway(settings) as gw:
        before = gw.http.post("/tasks", content=submission(), headers=JSON).json()["id"]
        assert gw.http.get(f"/tasks/{before}").json()["status"] == "queued"
        kafka.stop()
        for _ in range(3):  # at first it has to find out, later it knows
            answer = gw.http.post("/tasks", content=submission(), headers=JSON)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/kafka-unavailable")
            assert answer.elapsed.total_seconds() < 5
        assert answer.elapsed.total_seconds() < 2
        until_ready(gw, False, within_s=10)
        assert gw.http.get(f"/tasks/{before}").status_code == 200  # what it knows it still tells
        kafka.start()
        until_ready(gw, True, within_s=15)
        after = gw.http.post("/tasks", content=submission(), headers=JSON)
        assert after.status_code == 202
        platform.run(before)
        with gw.http.stream("GET", f"/tasks/{before}/events") as events:
            assert "event: completed" in events.read().decode()
        assert gw.http.get(after.headers["location"]).json()["status"] == "queued"
    platform.close()
    kafka.stop()
