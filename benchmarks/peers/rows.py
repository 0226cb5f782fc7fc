"""The lines of the table: each figure's title, unit, and what is better."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """`figure`: its name in the measurements; the part before the first underscore is the row's letter on the command
    line. `lower`: a smaller value is better."""

    figure: str
    title: str
    lower: bool

    @property
    def letter(self) -> str:
        return self.figure.partition("_")[0]


ROWS: Sequence[Row] = (
    Row("A_tasks_per_s", "2,000 no-ops, tasks/s", False),
    Row("A_nominal_per_s", "2,000 no-ops at nominal speed, tasks/s", False),
    Row("A_submitted_per_s", "submissions in one batch, per s", False),
    Row("S_posts_1_per_s", "POSTs of one connection, per s", False),
    Row("S_posts_16_per_s", "POSTs of 16 connections, per s", False),
    Row("S_p99_16_ms", "POST at 16 connections, p99, ms", True),
    Row("B_tasks_per_s", "tasks of 5 ms, per s", False),
    Row("B_of_raw", "tasks of 5 ms, of two bare processes", False),
    Row("C_of_raw", "tasks of 0.5 s, of two bare processes", False),
    Row("K_light_busy", "busy share, tasks of 5 ms", False),
    Row("K_heavy_busy", "busy share, tasks of 0.5 s", False),
    Row("D_p50_ms", "lone task, p50, ms", True),
    Row("D_p99_ms", "lone task, p99, ms", True),
    Row("E_displacement", "farthest from its place, of 200", True),
    Row("E_kendall_tau", "order of 200, Kendall's tau", False),
    Row("P_high_s", "20 high behind 1,000, s", True),
    Row("U_many_ms", "CPU of a no-op among 2,000, ms", True),
    Row("U_lone_ms", "CPU of a lone task, ms", True),
    Row("R_requests", "broker requests of a lone task", True),
    Row("H_rss_mib", "idle worker, RSS, MiB", True),
    Row("H_pss_mib", "idle worker, PSS, MiB", True),
    Row("start_s", "start of everything but the broker to the first task, s", True),
    Row("start_worker_s", "start of the worker to the first task, s", True),
    Row("F1_s", "F1 task kills its process: ended, s", True),
    Row("F2_s", "F2 worker killed: both tasks run again, s", True),
    Row("G_others_s", "G 10 tasks behind a poison one, s", True),
    Row("G_attempts", "G attempts of the poison task in 20 s", True),
    Row("G_poison", "G what it has come to by then", True),
    Row("I_start_s", "`make up`, warm, s", True),
    Row("I_idle_percent", "CPU of all of it, idle, % of a core", True),
    Row("I_idle_bare_percent", "the same without statistics, % of a core", True),
)
LETTERS = tuple(dict.fromkeys(row.letter for row in ROWS if row.letter[0].isupper()))
