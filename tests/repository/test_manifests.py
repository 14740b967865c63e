"""sandbox_router.yaml and gateway.yaml: valid by the published schemas, and right in what they say."""

import copy
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from fastrouter.settings import Settings
from tests.repository.paths import ROOT, text

NEWEST = kubernetes_validate.latest_version().removesuffix(".0")
# From the oldest release with the preStop sleep on.
RELEASES = ["1.30", "1.32", "1.34", NEWEST]
SCHEMAS = Path(__file__).parent / "schemas"
CORE_KINDS = ["Service", "Deployment"]
OTHER_KINDS = ["Gateway", "HTTPRoute", "HealthCheckPolicy"]

Document = dict[str, Any]


def documents(name: str) -> dict[str, Document]:
    return {document["kind"]: document for document in yaml.safe_load_all(text(name))}


ROUTER = documents("sandbox_router.yaml")
GATEWAY = documents("gateway.yaml")


def pod() -> Document:
    template: Document = ROUTER["Deployment"]["spec"]["template"]
    return template


def container() -> Document:
    (only,) = pod()["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def schema_errors(document: Document) -> list[str]:
    schema = yaml.safe_load((SCHEMAS / f"{document['kind'].lower()}.yaml").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)]


class TestSchemas:
    def test_the_files_hold_the_documents_that_are_checked_here(self) -> None:
        assert list(ROUTER) == CORE_KINDS
        assert list(GATEWAY) == OTHER_KINDS

    @pytest.mark.parametrize("release", RELEASES)
    @pytest.mark.parametrize("kind", CORE_KINDS)
    def test_kubernetes_accepts(self, kind: str, release: str) -> None:
        assert kubernetes_validate.validate(ROUTER[kind], release, strict=True) == release

    def test_kubernetes_refuses_a_field_that_does_not_exist(self) -> None:
        wrong = copy.deepcopy(ROUTER["Deployment"])
        wrong["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
        with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyRootFileSystem"):
            kubernetes_validate.validate(wrong, RELEASES[-1], strict=True)

    @pytest.mark.parametrize("kind", OTHER_KINDS)
    def test_gateway_documents_are_accepted(self, kind: str) -> None:
        assert schema_errors(GATEWAY[kind]) == []

    @pytest.mark.parametrize(
        ("kind", "spoil"),
        [
            ("Gateway", lambda spec: spec.update(gatewayClass="istio")),
            ("Gateway", lambda spec: spec["listeners"][0].update(port="80")),
            ("HTTPRoute", lambda spec: spec["rules"][0]["backendRefs"][0].pop("port")),
            ("HTTPRoute", lambda spec: spec["rules"][0]["matches"][0]["path"].update(type="Prefix")),
            ("HTTPRoute", lambda spec: spec["parentRefs"][0].pop("name")),
            ("HealthCheckPolicy", lambda spec: spec["default"].update(checkIntervalSec=0)),
            ("HealthCheckPolicy", lambda spec: spec["targetRef"].pop("group")),
        ],
    )
    def test_spoiled_gateway_documents_are_refused(
        self, kind: str, spoil: Callable[[Document], object]
    ) -> None:
        wrong = copy.deepcopy(GATEWAY[kind])
        spoil(wrong["spec"])
        assert schema_errors(wrong) != []


class TestRouter:
    def test_names_and_labels_that_clients_and_network_policies_use(self) -> None:
        assert ROUTER["Service"]["metadata"]["name"] == "sandbox-router-svc"
        assert ROUTER["Deployment"]["metadata"]["name"] == "sandbox-router-deployment"
        assert pod()["metadata"]["labels"] == {"app": "sandbox-router"}

    def test_no_namespace_is_written(self) -> None:
        assert [document["metadata"].get("namespace") for document in ROUTER.values()] == [None, None]

    def test_every_selector_selects_the_pods(self) -> None:
        labels = pod()["metadata"]["labels"]
        spread = pod()["spec"]["topologySpreadConstraints"]
        assert ROUTER["Service"]["spec"]["selector"] == labels
        assert ROUTER["Deployment"]["spec"]["selector"]["matchLabels"] == labels
        assert [constraint["labelSelector"]["matchLabels"] for constraint in spread] == [labels, labels]

    def test_two_pods_spread_over_zones_and_hosts_and_replaced_one_by_one(self) -> None:
        spec = ROUTER["Deployment"]["spec"]
        spread = pod()["spec"]["topologySpreadConstraints"]
        assert spec["replicas"] == 2
        assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert [constraint["topologyKey"] for constraint in spread] == [
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        ]
        assert {constraint["whenUnsatisfiable"] for constraint in spread} == {"ScheduleAnyway"}

    def test_ports_line_up_with_the_default_of_the_router(self) -> None:
        default = Settings().port
        (service,) = ROUTER["Service"]["spec"]["ports"]
        assert (service["port"], service["targetPort"]) == (8080, default)
        assert [port["containerPort"] for port in container()["ports"]] == [default]

    @pytest.mark.parametrize("probe", ["readinessProbe", "livenessProbe"])
    def test_probes_ask_healthz(self, probe: str) -> None:
        assert container()[probe]["httpGet"] == {"path": "/healthz", "port": Settings().port}

    def test_the_proxy_timeout_is_set_to_its_default(self) -> None:
        (variable,) = container()["env"]
        assert variable == {"name": "PROXY_TIMEOUT_SECONDS", "value": "180"}
        assert float(variable["value"]) == Settings().proxy_timeout

    def test_kubernetes_waits_longer_than_the_router_drains(self) -> None:
        wait = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod()["spec"]["terminationGracePeriodSeconds"] > wait + Settings().shutdown_grace

    def test_the_security_context_is_restricted(self) -> None:
        assert pod()["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container()["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod()["spec"]["automountServiceAccountToken"] is False

    def test_requests_and_limits_are_named(self) -> None:
        resources = container()["resources"]
        assert set(resources["requests"]) == set(resources["limits"]) == {"cpu", "memory"}

    def test_the_documented_sed_fills_in_the_image(self, tmp_path: Path) -> None:
        copied = Path(shutil.copy(ROOT / "sandbox_router.yaml", tmp_path))
        command = r'sed -i "s|\${ROUTER_IMAGE}|$SANDBOX_ROUTER_IMG|g" ' + copied.name
        image = "registry.example/team/sandbox-router:latest"
        environment = {"PATH": os.environ["PATH"], "SANDBOX_ROUTER_IMG": image}
        subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, check=True)
        filled = list(yaml.safe_load_all(copied.read_text(encoding="utf-8")))
        (only,) = filled[1]["spec"]["template"]["spec"]["containers"]
        assert container()["image"] == "${ROUTER_IMAGE}"
        assert only["image"] == image


class TestGateway:
    def test_the_route_hangs_on_the_gateway_and_leads_to_the_service(self) -> None:
        (parent,) = GATEWAY["HTTPRoute"]["spec"]["parentRefs"]
        (rule,) = GATEWAY["HTTPRoute"]["spec"]["rules"]
        (service_port,) = ROUTER["Service"]["spec"]["ports"]
        assert parent["name"] == GATEWAY["Gateway"]["metadata"]["name"]
        assert rule["backendRefs"] == [
            {"name": ROUTER["Service"]["metadata"]["name"], "port": service_port["port"]}
        ]

    def test_all_requests_are_routed(self) -> None:
        (rule,) = GATEWAY["HTTPRoute"]["spec"]["rules"]
        assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]

    def test_one_namespace_so_that_the_route_may_name_the_service(self) -> None:
        namespaces = {document["metadata"]["namespace"] for document in GATEWAY.values()}
        assert namespaces == {"agent-sandbox-system"}

    def test_the_health_check_asks_the_service_what_the_probes_ask(self) -> None:
        spec = GATEWAY["HealthCheckPolicy"]["spec"]
        probe = container()["readinessProbe"]["httpGet"]
        check = spec["default"]["config"]["httpHealthCheck"]
        assert spec["targetRef"]["name"] == ROUTER["Service"]["metadata"]["name"]
        assert (check["requestPath"], check["port"]) == (probe["path"], probe["port"])
        assert spec["default"]["timeoutSec"] < spec["default"]["checkIntervalSec"]
