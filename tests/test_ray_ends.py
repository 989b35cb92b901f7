"""A driver that stops reading leaves no thread of Ray Data behind: one that asked Ray for something later would end the process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
import ray

from pipeline.choices import ExpertChoice
from pipeline.cluster import RAY_DATA_THREADS, _ended
from pipeline.store import LabelStore
from tests.jobs_at_work import ROOT
from tests.small_store import write_manifest, write_photos

#: Leaves after the first answer, while the second worker still sleeps at its unit.
DRIVER = """
import sys, threading
from pipeline.choices import ExpertChoice, Pack, Unit
from pipeline.cluster import RAY_DATA_THREADS, connected, label_on_ray
from pipeline.store import LabelStore

def running():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(RAY_DATA_THREADS)]

url = sys.argv[1]
store = LabelStore.open(url)
(column,) = store.columns()
pack = Pack(name="pack0", experts=(ExpertChoice(name="grey", use="tests.stand_ins:Grey"),), cpus=1.0, actors=(2, 2))
units = [Unit(shard=shard, columns=(column,)) for shard in store.plan.shards()]
with connected(None, cpus=2):
    answers = label_on_ray(url, [(pack, units)], run="a-run")
    next(answers)
    assert len(running()) >= 3, running()
    answers.close()
    assert not running(), running()
print("to the end")
"""


def test_a_driver_that_stops_reading_comes_to_its_own_end(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, write_photos(tmp_path / "photos", photos=40))
    store = LabelStore.create(str(tmp_path / "store"), manifest, shard_size=1)
    store.add_column(ExpertChoice(name="grey", use="tests.stand_ins:Grey").create().card)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path / "store")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "to the end\n"), done.stderr
    assert "ray.kill" not in done.stderr


class Execution:
    """Stands for Ray Data's: goes on in a thread until it is told to end, and for a moment longer."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"{RAY_DATA_THREADS[0]}-x", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self._end.wait()
        time.sleep(0.3)

    def shutdown(self, force: bool) -> None:
        assert force
        self._end.set()


class Stream:
    _current_executor: Any = None


@pytest.mark.parametrize("leave", [None, KeyboardInterrupt, ValueError])
def test_however_it_stops_reading(leave: type[BaseException] | None) -> None:
    stream = Stream()
    with pytest.raises(leave or StopIteration), _ended(cast(ray.data.Dataset, stream)):
        stream._current_executor = Execution()
        raise leave or StopIteration
    assert not stream._current_executor.thread.is_alive()
