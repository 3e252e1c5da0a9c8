"""Every panel says what it shows, in which unit, where to read on, and asks for metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose.home import REPO
from monitoring.metrics_table import exported, mapped

MONITORING = REPO / "monitoring"
FILES = sorted((MONITORING / "grafana/dashboards").glob("*.json"))
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
NEWEST_SCHEMA = 41  # of Grafana 12; an older one is migrated when it is loaded
WIDTH = 24
HISTOGRAM = ("_bucket", "_sum", "_count")
# Expressions with a metric that is in no list: dashboard and title of the panel → why. At most one in twenty.
EXCEPTED: dict[tuple[str, str], str] = {}
WORDS = {"and", "bool", "by", "group_left", "group_right", "ignoring", "offset", "on", "or", "unless", "without"}  # fmt: skip


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in FILES:
        for panel in read(file)["panels"]:
            yield file.stem, panel


def expressions() -> Iterator[tuple[str, str, str]]:
    """Give dashboard, title and expression of each target."""
    for name, panel in panels():
        for target in panel["targets"]:
            yield name, panel["title"], target["expr"]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "prometheus/rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def known_metrics() -> set[str]:
    """Give what the mapping makes, other programs' metrics, and what the rules record."""
    known = {rule["record"] for rule in rules() if "record" in rule}
    known |= {name for metrics in exported().values() for name in metrics}
    for one in mapped():
        endings = HISTOGRAM if one["match_metric_type"] == "observer" else ("",)
        known |= {one["name"] + ending for ending in endings}
    return known


def metrics_of(expression: str) -> set[str]:
    """Give the metrics that a PromQL expression names."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|on|ignoring|without) *\([^)]*\)", " ", bare)
    words = re.findall(r"\b[A-Za-z_][\w:]*\b(?! *\()", bare)
    return set(words) - WORDS


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_dashboard_has_what_grafana_needs_to_load_it(file: Path):
    """And it asks whatever Prometheus the variable names."""
    board = read(file)
    assert re.fullmatch(r"[a-z-]{1,40}", board["uid"])
    assert board["title"]
    assert 39 <= board["schemaVersion"] <= NEWEST_SCHEMA
    source, *variables = board["templating"]["list"]
    assert (source["name"], source["type"]) == ("datasource", "datasource")
    text = json.dumps(board["panels"])
    for variable in variables:
        assert variable["datasource"] == SOURCE
        assert f"${variable['name']}" in text, f"{variable['name']} changes nothing"
    used = set(re.findall(r"\$(?:\{(\w+)\}|(\w+))", text))
    assert {a or b for a, b in used} <= {v["name"] for v in (source, *variables)}


def test_dashboards_have_names_of_their_own():
    """Grafana takes two of one uid for the same, and one of them disappears."""
    for key in ("uid", "title"):
        values = [read(file)[key] for file in FILES]
        assert len(values) == len(set(values)) == 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_panels_do_not_overlap(file: Path):
    """Each lies within the grid, in cells of its own."""
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in read(file)["panels"]]
    assert len(ids) == len(set(ids))
    for panel in read(file)["panels"]:
        grid = panel["gridPos"]
        columns = range(grid["x"], grid["x"] + grid["w"])
        assert columns.start >= 0
        assert columns.stop <= WIDTH
        cells = {(x, y) for x in columns for y in range(grid["y"], grid["y"] + grid["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize(("name", "panel"), list(panels()), ids=lambda one: "" if isinstance(one, str) else one["title"])  # fmt: skip
def test_panel_explains_itself(name: str, panel: dict[str, Any]):
    """Description, unit, and a link to an entry of the runbook."""
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == SOURCE
    [link] = panel["links"]
    page, _, entry = link["url"].partition("#:~:text=")
    assert page == "/public/runbook.txt"
    headings = re.findall(r"^##? (\w+)$", (MONITORING / "runbook.md").read_text(), re.MULTILINE)
    assert entry in headings, f"{name}, {panel['title']}: {entry}"
    refs = [target["refId"] for target in panel["targets"]]
    assert len(refs) == len(set(refs)) > 0


def test_metrics_are_told_from_the_rest_of_an_expression():
    """The check below rests on it."""
    expression = (
        'sum by (le, queue) (rate(a_bucket{queue=~"$queue", x="y"}[5m])) / on (b) '
        'group_left () c:d:e offset 1h > 2e3 and topk(1, f unless on (g) h{i!="j"}) * 60'
    )
    assert metrics_of(expression) == {"a_bucket", "c:d:e", "f", "h"}


def test_expressions_ask_for_metrics_that_exist():
    """But for the exceptions, each with a reason, at most one in twenty."""
    unknown = {(n, t): metrics_of(e) - known_metrics() for n, t, e in expressions()}
    assert {place for place, names in unknown.items() if names} == EXCEPTED.keys()
    assert len(EXCEPTED) * 20 <= len(list(expressions()))


def test_no_expression_hides_that_it_has_no_data():
    """`or vector(0)` makes of a metric that is missing one that is well."""
    assert not [place for *place, expression in expressions() if "vector(" in expression]


def test_every_mapped_metric_is_shown_or_warned_of():
    """One that nobody looks at costs series for nothing."""
    queries = [v["query"] for file in FILES for v in read(file)["templating"]["list"]]
    used = [*(e for *_, e in expressions()), *(rule["expr"] for rule in rules()), *queries]
    assert {
        one["name"] for one in mapped() if not any(one["name"] in text for text in used)
    } == set()


def test_grafana_finds_its_source_its_dashboards_and_the_runbook():
    """The provider's folder and the linked page are mounted there."""
    grafana = yaml.safe_load((REPO / "compose/monitoring.yaml").read_text())["services"]["grafana"]
    mounts = dict(reversed(volume.removesuffix(":ro").split(":")) for volume in grafana["volumes"])
    provisioning = MONITORING / "grafana/provisioning"
    [provider] = yaml.safe_load((provisioning / "dashboards/airflow.yml").read_text())["providers"]
    folder = provider["options"]["path"]
    assert mounts[folder] == "./monitoring/grafana/dashboards"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == folder
    assert home.name in {file.name for file in FILES}
    assert mounts["/usr/share/grafana/public/runbook.txt"] == "./monitoring/runbook.md"
    for kind in ("datasources", "dashboards"):
        assert mounts[f"/etc/grafana/provisioning/{kind}"].endswith(f"grafana/provisioning/{kind}")
    assert provider["type"] == "file"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert {read(f)["templating"]["list"][0]["current"]["value"] for f in FILES} == {source["uid"]}


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool; the e2e tests have it")
def test_expressions_are_promql(tmp_path: Path):
    """As Prometheus parses them."""
    found = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$\w+", ".*", expression)}
        for number, (*_, expression) in enumerate(expressions())
    ]
    file = tmp_path / "expressions.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": found}]}))
    command = ["promtool", "check", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
