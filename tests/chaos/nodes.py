"""Several Ray nodes on this machine, to be lost and replaced."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.ray_head import free_ports

#: A part of the title of a process that labels.
WORKER = "PackActor"
NODE: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80_000_000}
HEAD = NODE | {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
#: A node is tried to be started so often.
STARTS = 3
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    # Beside other work a node may take its time to start; one that gave up is found out soon enough, and tried again.
    "RAY_raylet_start_wait_time_s": "90",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_niceness": "0",  # Ray makes its workers wait for everybody else; beside other work they would never be killed at work
    "OMP_NUM_THREADS": "1",
}


class Nodes:
    """A head and ``others`` further nodes. Processes of all of them have ``folder`` in their command lines, or come from one that has."""

    def __init__(self, folder: str, *, others: int) -> None:
        self.folder = folder
        self._others = others
        self._cluster: Any = None
        self.start()

    def start(self) -> None:
        from ray.cluster_utils import Cluster

        for turn in range(STARTS):
            try:
                self._cluster = Cluster(
                    initialize_head=True, head_node_args=HEAD | _ports() | {"temp_dir": self.folder}
                )
                break
            except Exception:  # Ray has no other name for a machine that was too busy
                kill([pid for pid, _ in of_folder(self.folder)])
                if turn == STARTS - 1:
                    raise
        for _ in range(self._others):
            self.join()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def join(self) -> None:
        for turn in range(STARTS):
            try:
                self._cluster.add_node(wait=False, **NODE, **_ports())
                return
            except Exception:
                if turn == STARTS - 1:
                    raise

    def lose(self, index: int) -> bool:
        """SIGKILL for a node that is not the head's: its raylet and all that it started. Whether it was alive."""
        nodes = sorted(self._cluster.worker_nodes, key=_raylet)
        node = nodes[index % len(nodes)]
        raylet = _raylet(node)
        killed = kill([*descendants(raylet), raylet])
        self._forget(node)
        return raylet in killed

    def preempt(self, index: int, *, grace: float) -> float | None:
        """SIGTERM for a node's raylet, SIGKILL after ``grace`` seconds; seconds until it had ended, None if it was dead before."""
        nodes = sorted(self._cluster.worker_nodes, key=_raylet)
        node = nodes[index % len(nodes)]
        raylet = node.all_processes["raylet"][0].process
        if raylet.poll() is not None:
            return None
        with_it = descendants(raylet.pid)
        begun = time.monotonic()
        raylet.send_signal(signal.SIGTERM)
        with suppress(Exception):
            raylet.wait(grace)
        seconds = time.monotonic() - begun
        kill([*with_it, raylet.pid])
        self._forget(node)
        return seconds

    def _forget(self, node: Any) -> None:
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self._cluster.worker_nodes.discard(node)

    def lose_all(self) -> None:
        """SIGKILL for everything, the head's control service too."""
        roots = [node for node in (self._cluster.head_node, *self._cluster.worker_nodes) if node is not None]
        ours = [p.process.pid for node in roots for found in node.all_processes.values() for p in found]
        kill([pid for one in ours for pid in descendants(one)] + ours)
        for node in roots:
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self._cluster.worker_nodes.clear()
        self._cluster.head_node = None

    def left_over(self) -> list[str]:
        """Command lines of processes of this cluster."""
        return [line for _, line in of_folder(self.folder)]

    def stop(self) -> None:
        self.lose_all()
        kill([pid for pid, _ in of_folder(self.folder)])


def _ports() -> dict[str, int]:
    """A node that is told its ports does not wait for its agents to choose them, and die where they are late."""
    names = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")
    return dict(zip(names, free_ports(len(names)), strict=True))


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def of_folder(folder: str) -> Iterator[tuple[int, str]]:
    """Processes that have it in their command lines or environments, or write into it: workers rename themselves."""
    for one in psutil.process_iter(["cmdline"]):
        line = " ".join(one.info["cmdline"] or ())
        traces = [line]
        with suppress(OSError):
            traces.append(str(Path(f"/proc/{one.pid}/fd/2").readlink()))
        with suppress(psutil.Error):
            traces += one.environ().values()
        if any(folder in trace for trace in traces) and alive(one.pid) and one.pid != os.getpid():
            yield one.pid, line


def descendants(pid: int) -> list[int]:
    """Of the process, living ones; [] if there is none."""
    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def kill(pids: Iterable[int]) -> list[int]:
    """SIGKILL for each; those that were alive."""
    killed = []
    for pid in pids:
        if alive(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    return killed


def workers() -> list[int]:
    """Processes of this machine that label, and belong to a cluster below us: sorted, the oldest first."""
    mine = set(descendants(os.getpid()))
    found = []
    for one in psutil.process_iter(["cmdline", "create_time", "status"]):
        about = one.info
        if one.pid in mine and about["status"] != psutil.STATUS_ZOMBIE and WORKER in " ".join(about["cmdline"] or ()):
            found.append((about["create_time"], one.pid))
    return [pid for _, pid in sorted(found)]


@contextmanager
def nodes(*, others: int = 1, environment: Mapping[str, str] | None = None) -> Iterator[Nodes]:
    """Nodes for the time of a block; nothing of them is left behind. ``environment``: what their processes find in theirs."""
    folder = tempfile.mkdtemp(prefix="chaos", dir="/tmp")  # sockets have short names
    (Path(folder) / "ray").mkdir()  # where Ray notes the latest cluster: not where other jobs of this machine look
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT | {"CHAOS_FOLDER": folder, "RAY_TMPDIR": folder} | dict(environment or {}))
    running = None
    try:
        running = Nodes(folder, others=others)
        yield running
    finally:
        if running is not None:
            running.stop()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return condition()
