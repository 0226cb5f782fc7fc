"""A storekeeper is ready when it knows what has ended in its partitions, and stays so when partitions move."""

from collections.abc import Callable
from pathlib import Path

import httpx
from confluent_kafka import Producer

from infra.local.process import free_port
from tests.rigs.http import get
from tests.rigs.storekeeper import completed, id_in_partition, installation, terminate, wait_for
from tests.rigs.topics import PARTITIONS


def test_a_takeover_that_cannot_end_is_said_and_makes_no_one_ready(broker: str, tmp_path: Path) -> None:
    with installation(broker, tmp_path) as rig:
        producer = Producer(rig.kafka.producer_config(**{"transactional.id": rig.kafka.prefix}))
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce(rig.kafka.topic("lifecycle.completed"), b"hides what follows", partition=0)
        producer.flush(30)
        rig.start()
        wait_for(
            lambda: "storekeeper: takes over results/0: Kafka: an open transaction hides" in rig.ready().text,
            "what it takes over",
        )
        assert rig.ready().status_code == 503
        producer.abort_transaction(30)
        wait_for(lambda: rig.ready().status_code == 200, "ready")


def test_a_ready_storekeeper_stays_ready_when_another_one_comes_and_goes(broker: str, tmp_path: Path) -> None:
    with installation(broker, tmp_path) as rig:
        rig.start()
        outcome = completed()
        rig.send(outcome)
        rig.events(outcome.id)
        wait_for(lambda: rig.ready().status_code == 200, "ready")
        said = set[str]()

        def meanwhile(reached: Callable[[], bool], what: str) -> None:
            """Waits, and notes all that the first one says until then."""

            def has() -> bool:
                said.update(rig.ready().json()["reasons"])
                return reached()

            wait_for(has, what)

        address = f"127.0.0.1:{free_port()}"
        other = rig.start(storekeeper_http=address, data=rig.settings.data / "other", results=str(rig.root))
        meanwhile(lambda: is_ready(address), "the other one has its partition")
        assert terminate(other) == 0
        late = [completed(id=id_in_partition(p)) for p in range(PARTITIONS)]
        rig.send(*late)
        meanwhile(lambda: {o.id for o in late} <= {e.id for e in rig.all_events()}, "it has both partitions again")
        assert not {s for s in said if s.startswith("storekeeper: ")}


def is_ready(address: str) -> bool:
    try:
        return get(f"http://{address}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
