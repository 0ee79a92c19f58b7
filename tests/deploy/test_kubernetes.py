"""The Kubernetes manifests: what the API would take, and what the image and the daemon really have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightkube.core.resource import Resource
from lightkube.resources.apps_v1 import StatefulSet
from lightkube.resources.core_v1 import Namespace, PersistentVolumeClaim, Pod, Service
from lightkube.resources.networking_v1 import NetworkPolicy

from kheish.daemon.settings import DEFAULT_DRAIN_MS
from kheish.http.gate import PUBLIC_PATHS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT / "deploy" / "kubernetes", ROOT / "deploy" / "kubernetes" / "maintenance")
KINDS: dict[str, type[Resource]] = {
    kind.__name__: kind for kind in (Namespace, PersistentVolumeClaim, Pod, Service, StatefulSet, NetworkPolicy)
}


def documents(folder: Path) -> list[Any]:
    """What `kubectl kustomize` would read: the resources of the kustomization, in order."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [found for name in listed for found in yaml.safe_load_all((folder / name).read_text())]


MANIFESTS = [found for folder in FOLDERS for found in documents(folder)]


def named(kind: str) -> Any:
    return next(found for found in MANIFESTS if found["kind"] == kind)


def pods() -> list[Any]:
    return [named("StatefulSet")["spec"]["template"]["spec"], named("Pod")["spec"]]


def lost(manifest: Any) -> Any:
    """What the API's own types do not keep of a manifest: unknown fields and fields in the wrong place."""
    kept = KINDS[manifest["kind"]].from_dict(manifest).to_dict()  # type: ignore[attr-defined]  # every resource has it
    return _missing(manifest, kept, manifest["kind"])


def _missing(given: Any, kept: Any, place: str) -> list[str]:
    if isinstance(given, dict):
        if not isinstance(kept, dict):
            return [place]
        return [
            fault
            for name, value in given.items()
            for fault in (
                _missing(value, kept[name], f"{place}.{name}") if name in kept or value == {} else [f"{place}.{name}"]
            )
            if not (value == {} and name not in kept)
        ]
    if isinstance(given, list):
        if not isinstance(kept, list) or len(kept) != len(given):
            return [place]
        return [fault for at, one in enumerate(given) for fault in _missing(one, kept[at], f"{place}[{at}]")]
    return [] if given == kept else [place]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_the_api_knows_every_field(manifest: Any) -> None:
    assert lost(manifest) == []


def test_a_field_that_does_not_exist_or_has_another_type_is_found() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(named("StatefulSet")))
    wrong["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    assert lost(wrong) == ["StatefulSet.spec.template.spec.containers[0].securityContext.readOnlyRootFileSystem"]
    wrong["spec"]["replicas"] = "one"
    with pytest.raises(Exception, match="int"):
        lost(wrong)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_manifest_is_listed_and_every_name_that_is_referred_to_exists(folder: Path) -> None:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    assert kustomization["namespace"] == named("Namespace")["metadata"]["name"]
    claims = {found["metadata"]["name"] for found in MANIFESTS if found["kind"] == "PersistentVolumeClaim"}
    generated = {made["name"] for made in kustomization.get("configMapGenerator", ())} | {"kheish-routes"}
    for pod in pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = [mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]]
        assert set(mounted) == set(volumes)
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {"claimName": next(iter(claims))})["claimName"] in claims
            assert volume.get("configMap", {"name": "kheish-routes"})["name"] in generated


def test_services_and_policies_select_the_daemons_pod_by_its_labels_and_port() -> None:
    template = named("StatefulSet")["spec"]["template"]
    labels = template["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    assert named("StatefulSet")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert named("Service")["spec"]["selector"].items() <= labels.items()
    assert named("Service")["spec"]["ports"][0]["targetPort"] in ports
    policies = [found for found in MANIFESTS if found["kind"] == "NetworkPolicy"]
    for policy in policies:
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert ports == {"http": 4000}


def test_every_variable_is_one_that_the_daemon_or_the_entrypoint_reads() -> None:
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    code += (ROOT / "docker" / "entrypoint.sh").read_text()
    for pod in pods():
        for variable in pod["containers"][0]["env"]:
            assert variable["name"] == "HOME" or variable["name"] in code, variable
            assert "valueFrom" not in variable


def test_probes_ask_what_is_served_without_a_token() -> None:
    container = pods()[0]["containers"][0]
    asked = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {"/healthz", "/readyz"} <= set(PUBLIC_PATHS)
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_a_stop_has_more_time_than_the_drain_and_one_pod_at_a_time_has_the_state() -> None:
    spec = named("StatefulSet")["spec"]
    assert spec["replicas"] == 1
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] * 1000 > DEFAULT_DRAIN_MS + 1000


def test_what_the_image_and_the_manifests_say_agrees() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    uid = int(re.search(r"--uid (\d+)", dockerfile)[1])  # type: ignore[index]  # a missing one fails the test as well
    volumes = re.search(r"VOLUME \[(.+)\]", dockerfile)
    assert volumes is not None
    for pod in pods():
        context = pod["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (uid, uid, uid)
        mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert set(re.findall(r'"([^"]+)"', volumes[1])) <= mounts
    assert "EXPOSE 4000" in dockerfile
    assert {"/tmp", "/run/kheish", "/var/lib/kheish/home"} <= {
        mount["mountPath"] for mount in pods()[0]["containers"][0]["volumeMounts"]
    }


def test_every_pod_is_closed_as_far_as_the_restricted_standard_wants() -> None:
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_no_secret_is_in_the_tree_and_secret_files_are_for_the_daemon_alone() -> None:
    assert not any(found["kind"] == "Secret" for found in MANIFESTS)
    for pod in pods():
        [secret] = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        assert secret["secretName"] == "kheish-secrets"
        assert secret["defaultMode"] == 0o440
        assert {item["key"] for item in secret["items"]} == {"admin-token", "auth-store-master-key"}
