"""deploy/: every overlay built by kubectl's kustomize, and every alert played through by promtool."""

import copy
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastrouter.options import OPTIONS
from fastrouter.settings import Settings
from tests.repository.metric_names import FOREIGN, LABELS, metrics_of, unknown_labels
from tests.repository.paths import ROOT, text
from tests.repository.published import RELEASES, Document, documents, problems

KUSTOMIZE = ROOT / "deploy" / "kustomize"
OVERLAYS = ["plain", "token", "tls", "prometheus-operator", "all"]
ALERTS = KUSTOMIZE / "components" / "prometheus-operator" / "alerts.yaml"
RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["spec"]["groups"][0]["rules"]
NAMES = [rule["alert"] for rule in RULES]
PLAIN = 6
COUNTS = {"plain": PLAIN, "token": PLAIN, "tls": PLAIN, "prometheus-operator": PLAIN + 3, "all": PLAIN + 3}

needs_kubectl = pytest.mark.skipif(
    not shutil.which("kubectl"), reason="kubectl, which has kustomize, is not here"
)
needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not here (Debian: in the package prometheus)"
)

Built = dict[tuple[str, str], Document]


@cache
def built(overlay: str) -> Built:
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUSTOMIZE / overlay)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "kubectl warns of what is deprecated"
    return documents(done.stdout)


def pod_of(overlay: str) -> Document:
    spec: Document = built(f"overlays/{overlay}")["Deployment", "sandbox-router-deployment"]["spec"]
    template: Document = spec["template"]
    return template


def container_of(overlay: str) -> Document:
    (only,) = pod_of(overlay)["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def environment_of(overlay: str) -> dict[str, Document]:
    return {variable["name"]: variable for variable in container_of(overlay)["env"]}


class TestOneFile:
    def test_it_is_what_the_base_says(self) -> None:
        written = subprocess.run(
            [str(ROOT / "deploy" / "assemble")], capture_output=True, text=True, timeout=10, check=True
        )
        assert written.stdout == text("sandbox_router.yaml"), "deploy/assemble > sandbox_router.yaml"

    @needs_kubectl
    def test_kustomize_reads_the_same_objects_from_the_base(self) -> None:
        ours = documents(text("sandbox_router.yaml"))
        containers = ours["Deployment", "sandbox-router-deployment"]["spec"]["template"]["spec"]["containers"]
        containers[0]["image"] = "sandbox-router"
        assert built("base") == ours


class TestOverlays:
    def test_these_are_all(self) -> None:
        assert {path.name for path in (KUSTOMIZE / "overlays").iterdir()} == set(OVERLAYS)

    @needs_kubectl
    @pytest.mark.parametrize("release", [RELEASES[0], RELEASES[-1]])
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_every_object_is_valid(self, overlay: str, release: str) -> None:
        objects = built(f"overlays/{overlay}")
        assert len(objects) == COUNTS[overlay]
        assert {key: found for key, it in objects.items() if (found := problems(it, release))} == {}

    @needs_kubectl
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_no_namespace_is_written_and_the_label_is_everywhere(self, overlay: str) -> None:
        for document in built(f"overlays/{overlay}").values():
            assert "namespace" not in document["metadata"]
            assert document["metadata"]["labels"]["app"] == "sandbox-router"

    @needs_kubectl
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_the_image_is_named_in_the_overlay(self, overlay: str) -> None:
        assert container_of(overlay)["image"] == "registry.example/sandbox-router:latest"

    @needs_kubectl
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_every_variable_is_one_of_the_routers(self, overlay: str) -> None:
        assert set(environment_of(overlay)) <= {option.variable for option in OPTIONS}

    @needs_kubectl
    def test_plain_is_the_base_with_the_image(self) -> None:
        plain = copy.deepcopy(built("overlays/plain"))
        deployment = plain["Deployment", "sandbox-router-deployment"]
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "sandbox-router"
        assert plain == built("base")

    @needs_kubectl
    @pytest.mark.parametrize(("overlay", "optional"), [("plain", True), ("token", False), ("all", False)])
    def test_no_pod_starts_open_where_a_token_is_required(self, overlay: str, optional: bool) -> None:
        reference = environment_of(overlay)["ROUTER_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert reference == {"name": "sandbox-router-auth", "key": "token", "optional": optional}

    @needs_kubectl
    @pytest.mark.parametrize("overlay", ["tls", "all"])
    def test_https_is_served_beside_http(self, overlay: str) -> None:
        default = Settings()
        service = built(f"overlays/{overlay}")["Service", "sandbox-router-svc"]
        ports = {port["name"]: (port["port"], port["targetPort"]) for port in service["spec"]["ports"]}
        assert ports == {"http": (8080, default.port), "https": (8443, default.https_port)}
        assert {"name": "https", "containerPort": default.https_port, "protocol": "TCP"} in container_of(
            overlay
        )["ports"]

    @needs_kubectl
    @pytest.mark.parametrize("overlay", ["tls", "all"])
    def test_the_certificate_is_where_the_router_looks(self, overlay: str) -> None:
        (mount,) = container_of(overlay)["volumeMounts"]
        (volume,) = pod_of(overlay)["spec"]["volumes"]
        values = {name: variable.get("value") for name, variable in environment_of(overlay).items()}
        assert values["TLS_CERT_FILE"] == f"{mount['mountPath']}/tls.crt"  # the keys of a TLS Secret
        assert values["TLS_KEY_FILE"] == f"{mount['mountPath']}/tls.key"
        assert mount == {"name": volume["name"], "mountPath": mount["mountPath"], "readOnly": True}
        assert volume["secret"] == {"secretName": "sandbox-router-tls", "defaultMode": 0o440}
        context = pod_of(overlay)["spec"]["securityContext"]
        assert context["fsGroup"] == context["runAsGroup"]

    @needs_kubectl
    def test_the_monitor_selects_the_service_that_selects_the_pods(self) -> None:
        objects = built("overlays/prometheus-operator")
        monitor = objects["ServiceMonitor", "sandbox-router"]["spec"]
        wanted = monitor["selector"]["matchLabels"].items()
        (name,) = [
            name
            for (kind, name), it in objects.items()
            if kind == "Service" and wanted <= it["metadata"]["labels"].items()
        ]
        service = objects["Service", name]["spec"]
        (endpoint,) = monitor["endpoints"]
        (port,) = service["ports"]
        assert service["selector"] == pod_of("prometheus-operator")["metadata"]["labels"]
        assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")
        assert (port["port"], port["targetPort"]) == (9090, Settings().metrics_port)

    @needs_kubectl
    def test_nobody_scrapes_twice(self) -> None:
        assert "annotations" not in pod_of("prometheus-operator")["metadata"]
        assert "annotations" in pod_of("plain")["metadata"]


class TestSchemas:
    @pytest.mark.parametrize(
        ("file", "spoil"),
        [
            ("alerts", lambda spec: spec["groups"][0].pop("name")),
            ("alerts", lambda spec: spec["groups"][0]["rules"][0].pop("expr")),
            ("alerts", lambda spec: spec["groups"][0]["rules"][0].pop("alert")),
            ("alerts", lambda spec: spec["groups"][0]["rules"][0].update({"for": "2 minutes"})),
            ("alerts", lambda spec: spec["groups"][0]["rules"][0]["labels"].update(page=True)),
            ("alerts", lambda spec: spec["groups"][0]["rules"][0].update(severity="critical")),
            ("service-monitor", lambda spec: spec.pop("selector")),
            ("service-monitor", lambda spec: spec["endpoints"][0].update(port=9090)),
            ("service-monitor", lambda spec: spec["endpoints"][0].update(scheme="tcp")),
            ("service-monitor", lambda spec: spec["endpoints"][0].update(scrapeInterval="30s")),
        ],
    )
    def test_spoiled_documents_are_refused(self, file: str, spoil: Callable[[Document], object]) -> None:
        wrong = yaml.safe_load((ALERTS.parent / f"{file}.yaml").read_text(encoding="utf-8"))
        assert problems(wrong) == []
        spoil(wrong["spec"])
        assert problems(wrong) != []


def promtool(folder: Path, rules: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Play the scenes of alerts.yaml against ``rules``."""
    written = yaml.safe_dump({"groups": [{"name": "sandbox-router", "rules": rules}]})
    (folder / "rules.yaml").write_text(written, encoding="utf-8")
    shutil.copy(Path(__file__).parent / "alerts.yaml", folder)
    return subprocess.run(
        ["promtool", "test", "rules", "alerts.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class TestAlerts:
    @needs_promtool
    def test_promtool_accepts_the_rules(self, tmp_path: Path) -> None:
        file = tmp_path / "rules.yaml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": RULES}]}), encoding="utf-8")
        done = subprocess.run(
            ["promtool", "check", "rules", "--lint=all", "--lint-fatal", str(file)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{len(RULES)} rules found" in done.stdout

    @needs_promtool
    def test_each_is_silent_when_all_is_well_and_fires_when_it_is_not(self, tmp_path: Path) -> None:
        done = promtool(tmp_path, RULES)
        assert done.returncode == 0, done.stdout + done.stderr

    @needs_promtool
    @pytest.mark.parametrize("expression", ["vector(1)", "vector(1) > 2"], ids=["always", "never"])
    @pytest.mark.parametrize("name", NAMES)
    def test_one_that_always_or_never_fires_would_be_found(
        self, name: str, expression: str, tmp_path: Path
    ) -> None:
        spoiled = [{**rule, "expr": expression} if rule["alert"] == name else rule for rule in RULES]
        done = promtool(tmp_path, spoiled)
        assert done.returncode != 0
        assert name in done.stdout + done.stderr

    @pytest.mark.parametrize("rule", RULES, ids=NAMES)
    def test_each_asks_for_metrics_and_labels_that_exist(self, rule: dict[str, Any]) -> None:
        metrics = metrics_of(rule["expr"])
        assert metrics
        assert metrics <= {*LABELS, *FOREIGN}
        if not metrics & FOREIGN:
            assert unknown_labels(rule["expr"]) == set()

    @pytest.mark.parametrize("rule", RULES, ids=NAMES)
    def test_each_says_what_where_and_what_to_do(self, rule: dict[str, Any]) -> None:
        assert re.fullmatch(r"SandboxRouter[A-Za-z]+", rule["alert"])
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}

    @pytest.mark.parametrize("rule", RULES, ids=NAMES)
    def test_each_has_its_heading_in_the_runbook(self, rule: dict[str, Any]) -> None:
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        headings = re.findall(r"^#+ (.+)$", text(page), flags=re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert anchor == rule["alert"].lower()
        assert anchor in anchors
