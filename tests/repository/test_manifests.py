"""sandbox_router.yaml and gateway.yaml: valid by the published schemas, and right in what they say."""

import copy
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fastrouter.net.resolver import PROBE_SECONDS
from fastrouter.options import OPTIONS
from fastrouter.settings import Settings
from tests.repository.paths import ROOT, text
from tests.repository.published import NEWEST, RELEASES, Document, documents, problems

APP = {"app": "sandbox-router"}
KINDS = [
    *("ServiceAccount", "Service", "Deployment"),
    *("HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"),
]
ROUTER = {kind: document for (kind, _), document in documents(text("sandbox_router.yaml")).items()}
GATEWAY = {kind: document for (kind, _), document in documents(text("gateway.yaml")).items()}


def pod() -> Document:
    template: Document = ROUTER["Deployment"]["spec"]["template"]
    return template


def container() -> Document:
    (only,) = pod()["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def environment() -> dict[str, Document]:
    return {variable["name"]: variable for variable in container()["env"]}


def ports() -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container()["ports"]}


class TestSchemas:
    def test_the_files_hold_the_documents_that_are_checked_here(self) -> None:
        assert list(ROUTER) == KINDS
        assert list(GATEWAY) == ["Gateway", "HTTPRoute", "HealthCheckPolicy"]

    @pytest.mark.parametrize("release", RELEASES)
    @pytest.mark.parametrize("kind", KINDS)
    def test_kubernetes_accepts(self, kind: str, release: str) -> None:
        assert problems(ROUTER[kind], release) == []

    @pytest.mark.parametrize(
        ("kind", "spoil"),
        [
            ("ServiceAccount", lambda document: document.update(automountToken=False)),
            ("Service", lambda document: document["spec"]["ports"][0].update(port="8080")),
            (
                "Deployment",
                lambda document: document["spec"]["template"]["spec"]["containers"][0].update(
                    readinessprobe={}
                ),
            ),
            ("HorizontalPodAutoscaler", lambda document: document["spec"].pop("maxReplicas")),
            ("PodDisruptionBudget", lambda document: document["spec"].update(maxUnavailablePods=1)),
            ("NetworkPolicy", lambda document: document["spec"]["egress"][0].update({"from": []})),
        ],
    )
    def test_spoiled_documents_are_refused(self, kind: str, spoil: Callable[[Document], object]) -> None:
        wrong = copy.deepcopy(ROUTER[kind])
        spoil(wrong)
        assert problems(wrong) != []

    @pytest.mark.parametrize("kind", list(GATEWAY))
    def test_gateway_documents_are_accepted(self, kind: str) -> None:
        assert problems(GATEWAY[kind]) == []

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
        assert problems(wrong) != []

    def test_nothing_asks_for_a_release_newer_than_the_oldest_that_is_checked(self) -> None:
        assert RELEASES[0] == "1.27"
        assert RELEASES[-1] == NEWEST
        assert "lifecycle" not in container()  # the sleep of preStop came with 1.30


class TestRouter:
    def test_names_and_labels_that_clients_and_network_policies_use(self) -> None:
        assert ROUTER["Service"]["metadata"]["name"] == "sandbox-router-svc"
        assert ROUTER["Deployment"]["metadata"]["name"] == "sandbox-router-deployment"
        assert pod()["metadata"]["labels"] == APP

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_object_has_the_label_and_no_namespace(self, kind: str) -> None:
        assert ROUTER[kind]["metadata"]["labels"] == APP
        assert "namespace" not in ROUTER[kind]["metadata"]

    def test_every_selector_selects_the_pods(self) -> None:
        spread = pod()["spec"]["topologySpreadConstraints"]
        assert ROUTER["Service"]["spec"]["selector"] == APP
        assert ROUTER["Deployment"]["spec"]["selector"]["matchLabels"] == APP
        assert ROUTER["PodDisruptionBudget"]["spec"]["selector"] == {"matchLabels": APP}
        assert ROUTER["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": APP}
        assert [constraint["labelSelector"]["matchLabels"] for constraint in spread] == [APP, APP]

    def test_pods_are_spread_over_zones_and_hosts_and_replaced_one_by_one(self) -> None:
        spec = ROUTER["Deployment"]["spec"]
        spread = pod()["spec"]["topologySpreadConstraints"]
        assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert [constraint["topologyKey"] for constraint in spread] == [
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        ]
        assert {constraint["whenUnsatisfiable"] for constraint in spread} == {"ScheduleAnyway"}

    def test_ports_line_up_with_the_defaults_of_the_router(self) -> None:
        default = Settings()
        (service,) = ROUTER["Service"]["spec"]["ports"]
        assert (service["port"], service["targetPort"]) == (8080, default.port)
        assert ports() == {
            "http": default.port,
            "health": default.health_port,
            "metrics": default.metrics_port,
        }

    def test_prometheus_finds_the_metrics_by_annotations(self) -> None:
        assert pod()["metadata"]["annotations"] == {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(Settings().metrics_port),
            "prometheus.io/path": "/metrics",
        }

    @pytest.mark.parametrize(
        ("probe", "path"),
        [("startupProbe", "/healthz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")],
    )
    def test_probes_ask_the_health_port(self, probe: str, path: str) -> None:
        assert container()[probe]["httpGet"] == {"path": path, "port": "health"}

    def test_readiness_waits_longer_than_the_router_waits_for_dns(self) -> None:
        assert container()["readinessProbe"]["timeoutSeconds"] > PROBE_SECONDS

    def test_every_variable_is_one_of_the_routers(self) -> None:
        assert set(environment()) <= {option.variable for option in OPTIONS}
        assert {"PROXY_TIMEOUT_SECONDS", "SHUTDOWN_DELAY_SECONDS", "ROUTER_AUTH_TOKEN"} == set(environment())

    def test_the_proxy_timeout_is_set_to_its_default(self) -> None:
        assert float(environment()["PROXY_TIMEOUT_SECONDS"]["value"]) == Settings().proxy_timeout

    def test_a_token_comes_from_a_secret_that_may_be_missing(self) -> None:
        reference = environment()["ROUTER_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert reference == {"name": "sandbox-router-auth", "key": "token", "optional": True}

    def test_kubernetes_waits_longer_than_the_router_shuts_down(self) -> None:
        delay = float(environment()["SHUTDOWN_DELAY_SECONDS"]["value"])
        assert delay > 0
        assert pod()["spec"]["terminationGracePeriodSeconds"] > delay + Settings().shutdown_grace

    def test_a_pod_is_out_of_service_before_it_stops_to_accept(self) -> None:
        # An endpoint goes with the pod's deletion, not with a probe; the probe is for whoever asks by itself.
        probe = container()["readinessProbe"]
        assert probe["periodSeconds"] <= float(environment()["SHUTDOWN_DELAY_SECONDS"]["value"])

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

    def test_no_token_of_the_cluster_reaches_the_pod(self) -> None:
        account = ROUTER["ServiceAccount"]
        assert pod()["spec"]["serviceAccountName"] == account["metadata"]["name"]
        assert account["automountServiceAccountToken"] is False
        assert pod()["spec"]["automountServiceAccountToken"] is False

    def test_requests_and_limits_are_named(self) -> None:
        resources = container()["resources"]
        assert set(resources["requests"]) == set(resources["limits"]) == {"cpu", "memory"}

    def test_the_documented_sed_fills_in_the_image(self, tmp_path: Path) -> None:
        copied = Path(shutil.copy(ROOT / "sandbox_router.yaml", tmp_path))
        command = r'sed -i "s|\${ROUTER_IMAGE}|$SANDBOX_ROUTER_IMG|g" ' + copied.name
        image = "registry.example/team/sandbox-router:latest"
        variables = {"PATH": os.environ["PATH"], "SANDBOX_ROUTER_IMG": image}
        subprocess.run(["sh", "-c", command], cwd=tmp_path, env=variables, check=True)
        filled = documents(copied.read_text(encoding="utf-8"))
        deployment = filled["Deployment", "sandbox-router-deployment"]
        (only,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container()["image"] == "${ROUTER_IMAGE}"
        assert only["image"] == image
        only["image"] = "${ROUTER_IMAGE}"
        assert list(filled.values()) == list(ROUTER.values())


class TestAvailability:
    def test_two_pods_at_least_and_the_autoscaler_alone_says_how_many(self) -> None:
        spec = ROUTER["HorizontalPodAutoscaler"]["spec"]
        deployment = ROUTER["Deployment"]
        assert spec["scaleTargetRef"] == {
            "apiVersion": deployment["apiVersion"],
            "kind": "Deployment",
            "name": deployment["metadata"]["name"],
        }
        assert 2 == spec["minReplicas"] < spec["maxReplicas"]
        assert "replicas" not in deployment["spec"]

    def test_more_pods_come_before_a_core_is_used_up(self) -> None:
        (metric,) = ROUTER["HorizontalPodAutoscaler"]["spec"]["metrics"]
        target = metric["resource"]["target"]
        assert (metric["resource"]["name"], target["type"]) == ("cpu", "AverageValue")
        assert container()["resources"]["limits"]["cpu"] == "1"
        assert 400 <= int(target["averageValue"].removesuffix("m")) <= 800

    def test_one_pod_at_a_time_may_be_evicted(self) -> None:
        spec = ROUTER["PodDisruptionBudget"]["spec"]
        assert spec["maxUnavailable"] == 1
        assert "minAvailable" not in spec


def allows(rule: Document, protocol: str, port: int) -> bool:
    """Whether a rule of the policy lets a port through: one without ports lets them all."""
    return "ports" not in rule or {"protocol": protocol, "port": port} in rule["ports"]


class TestNetworkPolicy:
    def rules(self, direction: str) -> list[Document]:
        rules: list[Document] = ROUTER["NetworkPolicy"]["spec"][direction]
        return rules

    def test_it_rules_both_directions(self) -> None:
        assert ROUTER["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress", "Egress"]

    def test_the_proxy_ports_are_open_to_everybody(self) -> None:
        for port in (Settings().port, Settings().https_port):
            (rule,) = [rule for rule in self.rules("ingress") if allows(rule, "TCP", port)]
            assert "from" not in rule

    def test_metrics_are_for_collectors(self) -> None:
        port = Settings().metrics_port
        assert port
        (rule,) = [rule for rule in self.rules("ingress") if allows(rule, "TCP", port)]
        (peer,) = rule["from"]
        (expression,) = peer["podSelector"]["matchExpressions"]
        assert expression["key"] == "app.kubernetes.io/name"
        assert "prometheus" in expression["values"]

    def test_the_health_port_is_for_the_node_alone(self) -> None:
        port = Settings().health_port
        assert port
        assert [rule for rule in self.rules("ingress") if allows(rule, "TCP", port)] == []

    @pytest.mark.parametrize("protocol", ["UDP", "TCP"])
    def test_dns_is_asked_wherever_it_runs(self, protocol: str) -> None:
        assert [rule for rule in self.rules("egress") if allows(rule, protocol, 53) and "to" not in rule]

    @pytest.mark.parametrize("port", [1, 8888, 65535])
    def test_sandboxes_are_pods_on_any_port(self, port: int) -> None:
        (rule,) = [rule for rule in self.rules("egress") if allows(rule, "TCP", port)]
        (peer,) = rule["to"]
        assert list(peer) == ["namespaceSelector"]  # neither an address nor a node
        (expression,) = peer["namespaceSelector"]["matchExpressions"]
        assert (expression["operator"], expression["values"]) == ("NotIn", ["kube-system"])


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

    def test_the_health_check_asks_a_port_that_the_network_policy_leaves_open(self) -> None:
        spec = GATEWAY["HealthCheckPolicy"]["spec"]
        check = spec["default"]["config"]["httpHealthCheck"]
        assert spec["targetRef"]["name"] == ROUTER["Service"]["metadata"]["name"]
        assert (check["requestPath"], check["port"]) == ("/healthz", Settings().port)
        assert spec["default"]["timeoutSec"] < spec["default"]["checkIntervalSec"]
