"""The manifests of docker/kuberay: what the schemas of the custom resources say, and what a sweep needs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from sweeper.cli.main import app
from sweeper.version import __version__
from tests.paths import ROOT

KUBERAY = ROOT / "docker" / "kuberay"
SCHEMAS = {"raycluster.yaml": "rayclusters.v1.json.gz", "rayjob.yaml": "rayjobs.v1.json.gz"}


def manifest(name: str) -> dict[str, Any]:
    (document,) = yaml.safe_load_all((KUBERAY / name).read_text())
    return dict(document)


def strict(schema: Any) -> Any:
    """A schema that refuses keys that it does not know, as ``kubectl apply --validate=strict`` does."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    open_object = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_object:
        closed.setdefault("additionalProperties", False)
    return closed


def validator(name: str) -> jsonschema.Draft202012Validator:
    text = gzip.decompress((ROOT / "tests" / "schemas" / SCHEMAS[name]).read_bytes())
    schema = json.loads(text)
    metadata = schema["properties"]["metadata"]
    closed = strict(schema)
    closed["properties"]["metadata"] = metadata  # the schema of a custom resource leaves its metadata to Kubernetes
    return jsonschema.Draft202012Validator(closed)


def cluster_spec(name: str) -> dict[str, Any]:
    spec = manifest(name)["spec"]
    return dict(spec["rayClusterSpec"] if name == "rayjob.yaml" else spec)


def pods(name: str) -> list[dict[str, Any]]:
    """The specs of a manifest's pods: the head first."""
    spec = cluster_spec(name)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_manifest_is_one_by_its_schema(name: str) -> None:
    errors = [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(manifest(name))]
    assert not errors


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("wrong", ["workerGroupSpec", "headGroupSpec", "maxReplicas"])
def test_the_schema_refuses_a_wrong_manifest(name: str, wrong: str) -> None:
    """A key with a letter missing, a group without a template and a number that is text are refused."""
    whole = manifest(name)
    spec = whole["spec"]["rayClusterSpec"] if name == "rayjob.yaml" else whole["spec"]
    if wrong == "workerGroupSpec":
        spec[wrong] = spec.pop("workerGroupSpecs")
    elif wrong == "headGroupSpec":
        del spec[wrong]["template"]
    else:
        spec["workerGroupSpecs"][0][wrong] = "four"
    assert not validator(name).is_valid(whole)


@pytest.mark.parametrize("name", SCHEMAS)
def test_pods_run_without_privileges(name: str) -> None:
    for pod in pods(name):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


@pytest.mark.parametrize("name", SCHEMAS)
def test_pods_share_memory_sweeps_and_weights(name: str) -> None:
    claims = {document["metadata"]["name"] for document in yaml.safe_load_all((KUBERAY / "storage.yaml").read_text())}
    for pod in pods(name):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert {mounts[path]["persistentVolumeClaim"]["claimName"] for path in ("/sweeps", "/weights")} == claims
        environment = {entry["name"]: entry for entry in pod["containers"][0]["env"]}
        assert environment["SWEEPER_STORAGE"]["value"] in mounts


def test_the_claims_can_be_written_by_several_nodes() -> None:
    for claim in yaml.safe_load_all((KUBERAY / "storage.yaml").read_text()):
        assert claim["kind"] == "PersistentVolumeClaim"
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_workers_have_gpus_within_bounds(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["enableInTreeAutoscaling"] is True
    (group,) = spec["workerGroupSpecs"]
    assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) >= 1
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_secret_is_written_down(name: str) -> None:
    assert cluster_spec(name)["authOptions"] == {"mode": "token"}
    for pod in pods(name):
        for entry in pod["containers"][0]["env"]:
            if entry["name"] != "SWEEPER_STORAGE":
                assert "secretKeyRef" in entry["valueFrom"], entry["name"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_versions_are_those_of_this_checkout(name: str) -> None:
    assert cluster_spec(name)["rayVersion"] == pinned("ray")
    for pod in pods(name):
        assert pod["containers"][0]["image"].endswith(f"/sweeper:{__version__}")


def pinned(package: str) -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    (version,) = [line.partition("==")[2] for line in lines if line.startswith(f"{package}==")]
    return version


def test_a_retry_of_the_job_resumes_the_sweep() -> None:
    spec = manifest("rayjob.yaml")["spec"]
    assert spec["backoffLimit"] >= 1
    program, name, *words = spec["entrypoint"].split()
    assert program == "sweeper"
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    given = group.commands[name].make_context(name, list(words)).params
    assert given["resume"] is True
    assert given["address"] is None  # a Ray job finds its cluster in RAY_ADDRESS
    head = pods("rayjob.yaml")[0]
    mounted = {mount["mountPath"]: mount["name"] for mount in head["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in head["volumes"]}
    assert "configMap" in volumes[mounted[str(Path(words[0]).parent)]]


def test_the_image_is_labelled_with_this_version() -> None:
    assert f"\nARG VERSION={__version__}\n" in (ROOT / "docker" / "Dockerfile").read_text()
