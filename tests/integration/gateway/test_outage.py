"""A gateway whose Kafka stops and returns."""

import time
from pathlib import Path

from confluent_kafka.admin import AdminClient

from headrace.kafka.topics import apply_topics
from headrace.settings import Settings
from infra.local.kafka import EmbeddedKafka
from infra.local.process import free_port
from tests.rigs.gateway import Gateway, OtherRoles, gateway, submission

JSON = {"content-type": "application/json"}


def until_ready(gw: Gateway, ready: bool, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while (gw.http.get("/readyz").status_code == 200) is not ready:
        assert time.monotonic() < deadline, gw.http.get("/readyz").text
        time.sleep(0.05)


def test_without_kafka_it_answers_503_in_time_and_then_recovers_by_itself(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path / "kafka", f"127.0.0.1:{free_port()}")
    kafka.start()
    settings = Settings(kafka=kafka.bootstrap, data=tmp_path / "data")
    apply_topics(AdminClient({"bootstrap.servers": kafka.bootstrap}), "", 2)
    roles = OtherRoles(settings)
    roles.announce()
    with gateway(settings) as gw:
        before = gw.http.post("/tasks", content=submission(), headers=JSON).json()["id"]
        assert gw.http.get(f"/tasks/{before}").json()["status"] == "queued"
        kafka.stop()
        for _ in range(3):  # the first request has to find out, the later ones know
            answer = gw.http.post("/tasks", content=submission(), headers=JSON)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/kafka-unavailable")
            assert answer.elapsed.total_seconds() < 5
        assert answer.elapsed.total_seconds() < 2
        until_ready(gw, False, within_s=10)
        assert gw.http.get(f"/tasks/{before}").status_code == 200  # stored tasks are still served
        kafka.start()
        until_ready(gw, True, within_s=15)
        after = gw.http.post("/tasks", content=submission(), headers=JSON)
        assert after.status_code == 202
        roles.run(before)
        with gw.http.stream("GET", f"/tasks/{before}/events") as events:
            assert "event: completed" in events.read().decode()
        assert gw.http.get(after.headers["location"]).json()["status"] == "queued"
    roles.close()
    kafka.stop()
