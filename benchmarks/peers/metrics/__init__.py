"""What is measured: each row's function takes a System and returns its figures, by the names that `rows` has."""

from collections.abc import Callable, Mapping

from ..system import System
from . import cost, crashes, latency, posts, throughput

Figures = dict[str, float | str]
METRICS: Mapping[str, Callable[[System], Figures]] = {
    "A": throughput.noops,
    "B": throughput.light,
    "C": throughput.heavy,
    "K": throughput.busy_share,
    "D": latency.latency,
    "E": latency.order,
    "P": latency.priority,
    "H": cost.memory,
    "U": cost.cpu_per_task,
    "S": posts.posts,
    "F1": crashes.task_kills_its_process,
    "F2": crashes.worker_killed,
    "G": crashes.poison,
}
