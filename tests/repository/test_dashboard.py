"""deploy/grafana/sandbox-router.json: a dashboard by Grafana's own model of one, over metrics that exist."""

import copy
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fastrouter.telemetry.families import FAMILIES
from tests.repository.metric_names import LABELS, metrics_of, unknown_labels
from tests.repository.paths import text

Json = dict[str, Any]

DASHBOARD: Json = json.loads(text("deploy/grafana/sandbox-router.json"))
PANELS: list[Json] = DASHBOARD["panels"]
SHOWN = [panel for panel in PANELS if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in SHOWN for target in panel["targets"]]

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not here (Debian: in the package prometheus)"
)


@cache
def adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, strict=True))


def wrong_types(value: object, path: str = "dashboard") -> Iterator[str]:
    """Every attribute of the models that is not of the type that Grafana's schema gives it."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from wrong_types(item, f"{path}[{index}]")
    elif type(value).__module__.startswith("grafana_foundation_sdk.") and hasattr(value, "__dict__"):
        hints = get_type_hints(type(value))
        for name, item in vars(value).items():
            if name in hints:
                try:
                    if isinstance(item, str | int | float):
                        # As JSON: the models keep the value of an enumeration as it was written.
                        adapter(hints[name]).validate_json(json.dumps(item))
                    else:
                        adapter(hints[name]).validate_python(item)
                except ValidationError:
                    yield f"{path}.{name}: {item!r}"
            yield from wrong_types(item, f"{path}.{name}")


def lost(before: Any, after: Any, path: str = "dashboard") -> Iterator[str]:
    """What Grafana's model does not know, and so does not write again. Defaults that it adds do not count."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name, value in before.items():
            if name in after:
                yield from lost(value, after[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from lost(one, other, f"{path}[{index}]")
    elif before != after:
        yield f"{path}: {before!r} became {after!r}"


def complaints(dashboard: Json) -> list[str]:
    """What Grafana's published schema, as its own Python models have it, says against a dashboard."""
    plugins.register_default_plugins()
    try:
        model = Dashboard.from_json(copy.deepcopy(dashboard))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [repr(error)]
    again = json.loads(encoder.JSONEncoder().encode(model))
    return [*wrong_types(model), *lost(dashboard, again)]


class TestSchema:
    def test_grafanas_model_knows_every_field(self) -> None:
        assert complaints(DASHBOARD) == [], "\n".join(complaints(DASHBOARD))

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda dashboard: dashboard.update(autoRefresh="30s"),
            lambda dashboard: dashboard.update(graphTooltip=7),
            lambda dashboard: dashboard.update(title=1),
            lambda dashboard: dashboard["templating"]["list"][0].update(type="prometheus"),
            lambda dashboard: dashboard["panels"][1].update(target=[]),
            lambda dashboard: dashboard["panels"][1]["gridPos"].update(x="0"),
            lambda dashboard: dashboard["panels"][1]["options"].update(colorMode="loud"),
            lambda dashboard: dashboard["panels"][1]["targets"][0].update(query="up"),
            lambda dashboard: dashboard["panels"][8]["options"]["legend"].update(position="left"),
            lambda dashboard: dashboard["panels"][8]["fieldConfig"]["defaults"].update(units="s"),
        ],
    )
    def test_a_spoiled_dashboard_is_refused(self, spoil: Callable[[Json], object]) -> None:
        wrong = copy.deepcopy(DASHBOARD)
        spoil(wrong)
        assert complaints(wrong) != []

    def test_it_can_be_linked_to_and_belongs_to_no_grafana(self) -> None:
        assert re.fullmatch(r"[a-z0-9-]{8,40}", DASHBOARD["uid"])
        assert "id" not in DASHBOARD


class TestLayout:
    def test_every_panel_has_a_number_of_its_own(self) -> None:
        numbers = [panel["id"] for panel in PANELS]
        assert len(set(numbers)) == len(numbers)

    def test_every_panel_is_on_the_grid(self) -> None:
        for panel in PANELS:
            place = panel["gridPos"]
            assert min(place["w"], place["h"]) > 0
            assert 0 <= place["x"] <= 24 - place["w"], panel["title"]

    def test_no_two_panels_overlap(self) -> None:
        cells = [
            {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            for place in (panel["gridPos"] for panel in PANELS)
        ]
        for (one, its), (other, others) in itertools.combinations(zip(PANELS, cells, strict=True), 2):
            assert not its & others, f"{one['title']} and {other['title']}"

    def test_titles_are_one_of_a_kind_within_their_row_and_type(self) -> None:
        row = ""
        seen = set()
        for panel in PANELS:
            row = panel["title"] if panel["type"] == "row" else row
            key = row, panel["type"], panel["title"]
            assert key not in seen
            seen.add(key)

    def test_every_panel_has_a_unit(self) -> None:
        for panel in SHOWN:
            units = panel["fieldConfig"]["defaults"], panel["options"].get("yAxis", {})
            assert any("unit" in where for where in units), panel["title"]


class TestDatasource:
    def test_it_is_a_variable(self) -> None:
        first = DASHBOARD["templating"]["list"][0]
        assert (first["type"], first["name"], first["query"]) == ("datasource", "datasource", "prometheus")

    def test_everything_asks_it(self) -> None:
        asking = [*SHOWN, *DASHBOARD["templating"]["list"][1:]]
        asking += [target for panel in SHOWN for target in panel["targets"]]
        assert {json.dumps(each["datasource"], sort_keys=True) for each in asking} == {
            '{"type": "prometheus", "uid": "${datasource}"}'
        }


class TestQueries:
    def test_every_family_is_shown_somewhere(self) -> None:
        asked = set().union(*map(metrics_of, EXPRESSIONS))
        unseen = {
            family.sample for family in FAMILIES if not any(name.startswith(family.sample) for name in asked)
        }
        assert unseen == set()

    @pytest.mark.parametrize("expression", EXPRESSIONS)
    def test_each_asks_for_metrics_and_labels_that_exist(self, expression: str) -> None:
        metrics = metrics_of(expression)
        assert metrics
        assert metrics <= set(LABELS)
        assert unknown_labels(expression) == set()

    @pytest.mark.parametrize("expression", EXPRESSIONS)
    def test_each_is_of_the_chosen_routers(self, expression: str) -> None:
        selectors = re.findall(r"\{([^}]*)\}", expression)
        assert len(selectors) >= len(metrics_of(expression))
        for selector in selectors:
            assert selector.startswith('namespace=~"$namespace", instance=~"$instance"')

    @pytest.mark.parametrize("panel", SHOWN, ids=lambda panel: f"{panel['id']}-{panel['title']}")
    def test_each_legend_names_labels_that_its_query_keeps(self, panel: Json) -> None:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"\bby \([^)]*\b{label}\b", target["expr"]) or (
                    label == "instance" and "sum" not in target["expr"]
                )

    def test_the_letters_of_the_queries_of_a_panel_differ(self) -> None:
        for panel in SHOWN:
            letters = [target["refId"] for target in panel["targets"]]
            assert len(set(letters)) == len(letters)

    def test_variables_ask_for_metrics_that_exist(self) -> None:
        for variable in DASHBOARD["templating"]["list"][1:]:
            query = variable["query"]["query"]
            assert metrics_of(query) == {"sandbox_router_build_info"}

    @needs_promtool
    def test_prometheus_accepts_every_query(self, tmp_path: Path) -> None:
        rules = [
            {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
            for number, expression in enumerate(EXPRESSIONS)
        ]
        file = tmp_path / "rules.yaml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
        done = subprocess.run(
            ["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{len(EXPRESSIONS)} rules found" in done.stdout
