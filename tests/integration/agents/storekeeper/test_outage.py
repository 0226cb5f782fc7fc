"""The storekeeper while its broker is away: it reports that, waits, and goes on by itself."""

import time
from pathlib import Path

from infra.local.kafka import EmbeddedKafka
from infra.local.process import free_port
from tests.rigs.storekeeper import completed, installation, wait_for


def test_a_broker_that_went_away_is_reported_on_readyz_and_waited_for(tmp_path: Path) -> None:
    broker = EmbeddedKafka(tmp_path / "broker", f"127.0.0.1:{free_port()}")
    broker.start()
    try:
        with installation(broker.bootstrap, tmp_path / "data") as rig:
            process = rig.start()
            first = completed()
            rig.send(first)
            rig.events(first.id)
            wait_for(lambda: rig.ready().status_code == 200, "ready")
            broker.kill()
            began = time.monotonic()
            wait_for(lambda: rig.ready().status_code == 503 and "Kafka" in rig.ready().text, "the reason on /readyz")
            assert time.monotonic() - began < 15
            broker.start()
            second = completed()
            rig.send(second, first)
            assert sorted(e.id for e in rig.events(second.id)) == sorted([first.id, second.id])
            wait_for(lambda: rig.ready().status_code == 200, "ready by itself")
            assert process.poll() is None
    finally:
        broker.stop()
