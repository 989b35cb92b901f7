"""A Ray cluster of two nodes on this machine, with a dashboard and a token, for tests that submit jobs to it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).parent / "ray"


@dataclass(frozen=True, kw_only=True)
class Head:
    """``address``: of the dashboard. ``token``: what it asks for. ``environment``: without a word about Ray."""

    address: str
    token: str
    environment: dict[str, str]

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "jobs.cli", *words, "--address", self.address]

    def run(self, *words: str, token: str | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """`expert-labels WORDS --address HEAD`, with the cluster's own token or another one."""
        return subprocess.run(
            self.command(*words), cwd=ROOT, env=self.with_token(token), capture_output=True, text=True, timeout=timeout
        )

    def with_token(self, token: str | None = None) -> dict[str, str]:
        return self.environment | ({"RAY_AUTH_TOKEN": self.token if token is None else token} if token != "" else {})


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def ray_head(*, nodes: int = 2) -> Iterator[Head]:
    """A head and ``nodes - 1`` further nodes, of one CPU each; gone with all their processes afterwards."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets have short names
    token = uuid.uuid4().hex * 2
    home = Path(folder) / "home"
    home.mkdir()
    gcs, dashboard, client, *agents = free_ports(3 + 2 * nodes)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    clean |= {"PYTHONPATH": "", "OMP_NUM_THREADS": "1", "HOME": str(home)}
    theirs = clean | {
        "PATH": f"{RAY.parent}{os.pathsep}{clean['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_TMPDIR": folder,
    }
    processes = []
    try:
        for node in range(nodes):
            place = (
                [f"--address=127.0.0.1:{gcs}"]
                if node
                else ["--head", f"--port={gcs}", "--include-dashboard=true", f"--dashboard-port={dashboard}"]
                + [f"--ray-client-server-port={client}", f"--temp-dir={folder}"]
            )
            own = [f"--dashboard-agent-listen-port={agents[2 * node]}", f"--metrics-export-port={agents[2 * node + 1]}"]
            processes.append(
                _start([*place, *own, "--node-ip-address=127.0.0.1"], theirs, Path(folder) / f"{node}.log")
            )
            if node == 0:
                _wait_for(f"http://127.0.0.1:{dashboard}/api/version", processes[0], Path(folder) / "0.log")
        yield Head(address=f"http://127.0.0.1:{dashboard}", token=token, environment=clean | {"PYTHONPATH": str(ROOT)})
    finally:
        _end(processes, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _start(arguments: Sequence[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    command = [
        str(RAY),
        "start",
        *arguments,
        "--num-cpus=1",
        "--num-gpus=0",
        "--object-store-memory=80000000",
        "--block",
    ]
    with log.open("wb") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True, cwd="/")


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(errors="replace")
        try:
            urllib.request.urlopen(url, timeout=2)
        except urllib.error.HTTPError:
            return  # it wants a token: it is there
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise AssertionError(f"no dashboard: {log.read_text(errors='replace')}")


def _end(processes: Sequence[subprocess.Popen[bytes]], folder: str) -> None:
    """SIGKILL for all that was started from here: by descent, and by the folder in their command lines."""
    doomed = {process.pid for process in processes}
    for process in processes:
        if psutil.pid_exists(process.pid):
            doomed |= {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
    for one in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in one.info["cmdline"] or ()):
            doomed.add(one.pid)
    for pid in doomed - {os.getpid()}:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
    for process in processes:
        process.wait()
