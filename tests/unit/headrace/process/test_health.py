"""Readiness: loops that hang and consumers that stand still are named."""

from headrace.process.health import Health, StallDetector, Watchdog


def test_notes_are_told_and_make_no_role_unready() -> None:
    health = Health()
    health.add_notes(lambda: ["a partition is blocked"])
    assert health.report() == (200, {"status": "ready", "reasons": [], "notes": ["a partition is blocked"]})
    health.add_check("kafka", lambda: "away")
    assert health.report()[0] == 503


def test_a_loop_that_hangs_is_reported_with_its_silence() -> None:
    now = [0.0]
    watchdog = Watchdog("the loop", 8.0, lambda: now[0])
    assert "has not begun" in (watchdog.check() or "")
    watchdog.beat()
    now[0] = 8.0
    assert watchdog.check() is None
    now[0] = 12.0
    assert watchdog.check() == "the loop has been silent for 12 s"


def test_standing_still_matters_only_while_there_is_lag() -> None:
    now = [0.0]
    stall_detector = StallDetector("the group", 8.0, lambda: now[0])
    stall_detector.update(5, 0)
    now[0] = 100.0
    assert stall_detector.check() is None
    stall_detector.update(5, 3)
    now[0] = 109.0
    stall_detector.update(5, 4)
    assert stall_detector.check() == "the group has stood still for 109 s with 4 records to go"
    stall_detector.update(6, 3)
    assert stall_detector.check() is None


def test_health_names_each_part_that_cannot_work() -> None:
    health = Health()
    health.add_check("disk", lambda: None)
    assert health.reasons() == []
    health.add_check("Kafka", lambda: "away")
    assert health.reasons() == ["Kafka: away"]


def test_a_check_that_fails_is_a_reason_and_silences_no_other() -> None:
    def fails() -> str | None:
        raise OSError("Input/output error")

    health = Health()
    health.add_check("results", fails)
    health.add_check("kafka", lambda: "away")
    assert health.reasons() == ["results: it cannot be checked: OSError: Input/output error", "kafka: away"]
