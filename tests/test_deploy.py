"""What is deployed, checked without a cloud: the cluster launcher's file, the KubeRay manifests, the image."""

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import typer.main
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from flows.cli import app
from flows.config import RunSettings
from flows.pools import Machines, size_pools
from serve.settings import ServeSettings

ROOT = Path(__file__).parents[1]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
JOB, SERVICE = (yaml.safe_load((ROOT / "deploy" / f"{name}.yaml").read_text()) for name in ("rayjob", "rayservice"))


def _valid(config: dict[str, Any]) -> dict[str, Any]:
    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_the_cluster_file_is_one_ray_up_accepts():
    """Misspelt keys and unknown node types are refused; Ray offers no public check that needs no cloud."""
    _valid(CLUSTER)
    with pytest.raises(jsonschema.ValidationError):
        _valid(CLUSTER | {"max_wrokers": 3})
    with pytest.raises(ValueError, match="head_node_type"):
        _valid(CLUSTER | {"head_node_type": "haed"})


def test_the_cluster_grows_from_nothing_on_the_spot_market_and_asks_for_a_token():
    kinds = _valid(CLUSTER)["available_node_types"]
    assert kinds["head"]["resources"]["CPU"] == 0
    workers = {name: kind for name, kind in kinds.items() if name != "head"}
    assert set(workers) == {"cpu", "gpu"}
    for kind in workers.values():
        assert kind["min_workers"] == 0
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    for commands in (CLUSTER["head_start_ray_commands"], CLUSTER["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "~/.ray/auth_token" in CLUSTER["file_mounts"]


def test_pools_on_the_cluster_are_what_its_page_says():
    kinds = CLUSTER["available_node_types"]
    potential = [(kinds[name]["resources"], kinds[name]["max_workers"]) for name in ("cpu", "gpu")]
    detect, track = size_pools(Machines.of([kinds["head"]["resources"]], potential), RunSettings(), 10_000)
    assert (detect.size, detect.num_gpus, track.size, track.num_gpus) == (24, 0.25, 24, 0.75)


def test_the_jobs_command_is_one_of_ours():
    words = shlex.split(JOB["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "flows", "run"]
    command = typer.main.get_command(app).commands["run"]
    context = command.make_context("run", words[4:], resilient_parsing=False)
    assert context.params["paths"] == ["s3://archive/2026"]


@pytest.mark.parametrize(
    ("kind", "cluster"),
    [("RayJob", JOB["spec"]["rayClusterSpec"]), ("RayService", SERVICE["spec"]["rayClusterConfig"])],
)
def test_manifests_hold_a_cluster_with_a_token_and_a_head_for_coordination(kind, cluster):
    manifest = {"RayJob": JOB, "RayService": SERVICE}[kind]
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", kind)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray.__version__
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == CLUSTER["docker"]["image"]
        assert {"name": "PGPASSWORD"}.items() <= container["env"][0].items()
    gpu = cluster["workerGroupSpecs"][0]
    limits = gpu["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert gpu["minReplicas"] <= gpu["replicas"] <= gpu["maxReplicas"]


def test_the_service_configures_our_endpoint():
    config = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(config).applications
    assert application.import_path == "serve.app:build"
    assert ServeSettings(**application.args).store.startswith("postgresql://")
    assert {deployment.name for deployment in application.deployments} == {"Api", "ClipWorker"}


def test_the_image_installs_what_there_is():
    for source in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name
            assert f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines(), name
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)
    assert set(extras.split(",")) == {"video", "serve", "cloud"}
    assert 'if [ "$DEVICE" = cpu ]' in DOCKERFILE
