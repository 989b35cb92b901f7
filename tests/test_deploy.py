"""Files for clusters: as far as they can be held against something without the cluster (docs/deploy.md says what cannot)."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from expert_zoo.catalog import EXPERTS
from jobs.job import load_choices
from tests.conftest import ROOT

JOBS = ROOT / "jobs"
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def documents(name: str) -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in yaml.safe_load_all((JOBS / name).read_text())}


# ---- jobs/kuberay.yaml


class _Strict(BaseModel):
    """Kubernetes drops fields that it does not know without a word: a name spelt wrongly would change nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Pod(_Strict):
    automountServiceAccountToken: bool
    securityContext: dict[str, Any]
    containers: list[dict[str, Any]] = Field(min_length=1)
    volumes: list[dict[str, Any]] = []
    tolerations: list[dict[str, Any]] = []
    terminationGracePeriodSeconds: int = Field(30, ge=30)


class _Template(_Strict):
    metadata: dict[str, Any] = {}
    spec: _Pod


class _Group(_Strict):
    rayStartParams: dict[str, str]
    template: _Template


class _Workers(_Group):
    groupName: str
    replicas: int
    minReplicas: int = Field(ge=0)
    maxReplicas: int


class _Cluster(_Strict):
    rayVersion: str
    enableInTreeAutoscaling: Literal[True]
    autoscalerOptions: dict[str, Any]
    authOptions: dict[str, str]
    headGroupSpec: _Group
    workerGroupSpecs: list[_Workers]


class _RayJob(_Strict):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode"]
    submitterConfig: dict[str, int]
    backoffLimit: int = Field(ge=1)
    preRunningDeadlineSeconds: int
    shutdownAfterJobFinishes: Literal[True]
    ttlSecondsAfterFinished: int
    rayClusterSpec: _Cluster


@pytest.fixture(scope="module")
def ray_job() -> _RayJob:
    found = documents("kuberay.yaml")["RayJob"]
    assert found["apiVersion"] == "ray.io/v1"
    return _RayJob.model_validate(found["spec"])


def test_a_ray_job_labels_the_job_file_beside_it(ray_job: _RayJob, tmp_path: Path) -> None:
    config = documents("kuberay.yaml")["ConfigMap"]
    (name,) = config["data"]
    (tmp_path / name).write_text(config["data"][name])
    job = load_choices(str(tmp_path / name))
    assert job.ray.address == "auto" and {choice.name for choice in job.experts} <= set(EXPERTS)
    head = ray_job.rayClusterSpec.headGroupSpec.template.spec
    (mount,) = head.containers[0]["volumeMounts"]
    assert ray_job.entrypoint == f"expert-labels label {mount['mountPath']}/{name}"
    (volume,) = [volume for volume in head.volumes if volume["name"] == mount["name"]]
    assert volume["configMap"]["name"] == config["metadata"]["name"]


def test_versions_are_those_of_the_lock(ray_job: _RayJob) -> None:
    locked = re.search(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked and ray_job.rayClusterSpec.rayVersion == locked[1]
    (commit,) = set(re.findall(r"detectron2@([0-9a-f]{40})", (ROOT / "setup.cfg").read_text() + DOCKERFILE))
    assert commit in (ROOT / "docs/experts.md").read_text()


def test_pods_have_no_more_rights_than_they_need(ray_job: _RayJob) -> None:
    cluster = ray_job.rayClusterSpec
    assert cluster.authOptions["mode"] == "token"
    for pod in (cluster.headGroupSpec.template.spec, *(group.template.spec for group in cluster.workerGroupSpecs)):
        assert pod.securityContext["runAsNonRoot"] is True and f"USER {pod.securityContext['runAsUser']}:" in DOCKERFILE
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            for variable in container["env"]:
                secret = re.search("KEY|TOKEN|SECRET|PASSWORD", variable["name"])
                assert set(variable) == {"name", "valueFrom" if secret else "value"}, variable["name"]
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= {volume["name"] for volume in pod.volumes}
    assert not any(group.template.spec.automountServiceAccountToken for group in cluster.workerGroupSpecs)


def test_workers_may_be_taken_away_and_the_head_is_not_where_that_happens(ray_job: _RayJob) -> None:
    cluster = ray_job.rayClusterSpec
    spot, stays = cluster.workerGroupSpecs
    keys = {toleration["key"] for toleration in spot.template.spec.tolerations}
    assert {"spot", "cloud.google.com/gke-spot"} <= keys
    for pod in (stays.template.spec, cluster.headGroupSpec.template.spec):
        assert not any("spot" in str(toleration) for toleration in pod.tolerations)
    for group in cluster.workerGroupSpecs:
        assert group.minReplicas <= group.replicas <= group.maxReplicas
        (container,) = group.template.spec.containers
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        (command,) = container["lifecycle"]["preStop"]["exec"]["command"][2:]
        grace = re.fullmatch(r"ray stop --grace-period (\d+)", command)
        assert grace and int(grace[1]) < group.template.spec.terminationGracePeriodSeconds
    assert cluster.headGroupSpec.rayStartParams["num-cpus"] == "0"


# ---- jobs/ray-cluster.yaml


def test_the_cluster_file_is_one_by_rays_own_schema() -> None:
    spec = find_spec("ray")
    assert spec and spec.origin
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((JOBS / "ray-cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        jsonschema.validate(cluster | {"idle_timeout": 5}, schema)


# ---- Dockerfile


def test_stages_are_there_before_they_are_named() -> None:
    known = {"scratch", "${PYTHON_IMAGE}"}
    for line in DOCKERFILE.splitlines():
        if stage := re.match(r"FROM (\S+) AS (\S+)", line):
            assert stage[1] in known, line
            known.add(stage[2])
        for source in re.findall(r"(?:--from=|,from=)([^\s,]+)", line):
            assert source in known, line
    assert {"label", "train", "weights"} <= known
    for target in ("train", "label"):
        stage_text = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert re.search(r"^USER 1000:1000$", stage_text, re.MULTILINE), f"{target} runs as root"
    for name in re.findall(r"^COPY ((?!--from)[^\n]*) \S+$", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / file).exists() for file in name.split()), name


def test_what_the_image_is_built_from_is_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = re.search(r"include =\n((?: +\S+\n)+)", (ROOT / "setup.cfg").read_text())
    assert packages and {name.rstrip("*") for name in packages[1].split()} <= allowed
    needed = {"requirements.lock", "requirements-detection.lock", "setup.cfg", "pyproject.toml", "README.md"}
    assert needed <= allowed and all((ROOT / name).exists() for name in allowed)


def test_what_detectron2_needs_is_pinned_and_agrees_with_the_lock() -> None:
    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)$", (ROOT / name).read_text(), re.MULTILINE))

    locked, detection = pins("requirements.lock"), pins("requirements-detection.lock")
    asked = re.findall(r"^([a-z0-9-]+)", (ROOT / "requirements-detection.in").read_text(), re.MULTILINE)
    assert "fvcore" in asked and set(asked) <= set(detection)
    assert {name: pin for name, pin in detection.items() if locked.get(name, pin) != pin} == {}


# ---- jobs/slurm.sh, with programs in place of Slurm's and Ray's that write down how they were called


class Slurm:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.calls.touch()
        self.program(
            "scontrol", 'echo "scontrol $*" >> "$CALLS"; if [ "$1" = show ]; then printf "n1\\nn2\\nn3\\n"; fi'
        )
        self.program("srun", 'echo "srun $*" >> "$CALLS"; while [[ "$1" == --* ]]; do shift; done; exec "$@"')
        self.program(
            "ray",
            'if [ "$1" = status ]; then exit 0; fi; echo "token $(wc -c < "$RAY_AUTH_TOKEN_PATH")" >> "$CALLS"\nexec sleep 30',
        )

    def program(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def start(self, **more: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "CALLS": str(self.calls),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "n[1-3]",
            "SLURM_CPUS_PER_TASK": "16",
            "PAUSE": "0.1",
        }
        command = ["bash", str(JOBS / "slurm.sh"), "job.yaml"]
        return subprocess.Popen(command, env=environment | more, stderr=subprocess.PIPE, text=True)

    def said(self) -> list[str]:
        return self.calls.read_text().splitlines()

    def until(self, text: str) -> None:
        deadline = time.monotonic() + 20
        while not any(text in line for line in self.said()):
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.said()}"
            time.sleep(0.02)


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_slurm_job_ends_as_its_driver_does(slurm: Slurm, code: int) -> None:
    slurm.program("expert-labels", f'echo "labels $* at $RAY_ADDRESS" >> "$CALLS"; sleep 0.5; exit {code}')
    job = slurm.start()
    token = slurm.folder / ".expert-labels" / "ray-token-4711"
    slurm.until("labels")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and re.fullmatch("[0-9a-f]{64}", token.read_text())
    assert job.wait(20) == code
    calls = slurm.said()
    assert "labels label job.yaml at n1:24711" in calls
    assert any("--nodelist=n1 ray start --head --block" in call for call in calls)
    for node in ("n2", "n3"):
        assert any(f"--nodelist={node} ray start --block --address=n1:24711" in call for call in calls)
    assert calls.count("token 64") == 3, "every node has the token"
    assert not any("requeue" in call for call in calls) and not token.exists()


def test_a_slurm_job_that_is_asked_to_stop_waits_for_its_driver_and_goes_back_into_the_queue(slurm: Slurm) -> None:
    body = 'trap \'echo "driver committed" >> "$CALLS"; exit 130\' TERM\necho "labels begun" >> "$CALLS"\nwhile true; do sleep 0.1; done'
    slurm.program("expert-labels", body)
    job = slurm.start()
    slurm.until("labels begun")
    slurm.until("token 64")
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 0
    calls = slurm.said()
    assert calls.index("driver committed") < calls.index("scontrol requeue 4711")


def test_a_slurm_job_is_not_queued_again_for_ever(slurm: Slurm) -> None:
    slurm.program("expert-labels", "exit 3")
    assert slurm.start(SLURM_RESTART_COUNT="49").wait(20) == 0
    assert "scontrol requeue 4711" in slurm.said()
    slurm.calls.write_text("")
    assert slurm.start(SLURM_RESTART_COUNT="50").wait(20) == 3
    assert not any("requeue" in call for call in slurm.said())


def test_slurm_warns_the_script_and_no_step() -> None:
    settings = re.findall(r"^#SBATCH (\S+)$", (JOBS / "slurm.sh").read_text(), re.MULTILINE)
    assert "--signal=B:TERM@120" in settings and "--requeue" in settings and "--open-mode=append" in settings
    assert version("ray")
