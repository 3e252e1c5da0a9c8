"""What the running stack must not do: publish, leak, run as root, run without limits."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.e2e.conftest import ONE_SHOTS, ComposeStack, service_of
from tests.leaks import spellings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def all_secrets(stack: ComposeStack) -> dict[str, str]:
    """Give every secret of the stack by file; what is shorter than a secret is none."""
    script = (
        "import json, pathlib as p; print(json.dumps({str(f): f.read_text() "
        "for f in p.Path('/run/stack').glob('*/*') if f.name[-5:] not in ('.conf', '.json')}))"
    )
    found = stack.compose("run", "--rm", "--no-deps", "-T", "secrets", "python", "-c", script)
    secrets: dict[str, str] = json.loads(found)
    return secrets


def image_histories(stack: ComposeStack) -> str:
    images = {container["Image"] for container in stack.containers()}
    command = ["docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}"]
    return "".join(
        subprocess.run([*command, i], capture_output=True, text=True, check=True).stdout
        for i in images
    )


def process_lists(stack: ComposeStack) -> str:
    """Give every process of every running container with its arguments and its environment."""
    found = ""
    for container in stack.containers():
        if container["State"]["Running"]:
            top = ["docker", "top", container["Id"], "axeww", "-o", "pid,args"]
            found += subprocess.run(top, capture_output=True, text=True, check=True).stdout
    return found


@pytest.mark.parametrize("place", ["inspect", "logs", "processes", "history"])
def test_no_secret_is_seen_from_outside(stack: ComposeStack, place: str):
    """Neither as it is, nor URL-encoded, nor in base64."""
    text = {
        "inspect": lambda: json.dumps(stack.containers()),
        "logs": lambda: stack.compose("logs", "--no-color"),
        "processes": lambda: process_lists(stack),
        "history": lambda: image_histories(stack),
    }[place]()
    assert len(text) > 1000
    leaked = {
        name
        for name, value in all_secrets(stack).items()
        for spelling in spellings(value)
        if spelling in text
    }
    assert leaked == set()


def test_nothing_is_published_beyond_this_machine(stack: ComposeStack):
    """Two ports, both of them on loopback."""
    published = [
        (service_of(container), binding["HostIp"])
        for container in stack.containers()
        for bindings in (container["NetworkSettings"]["Ports"] or {}).values()
        for binding in bindings or []
    ]
    assert sorted(published) == [("api-server", "127.0.0.1"), ("flower", "127.0.0.1")]


def test_every_container_is_confined(stack: ComposeStack):
    """Not root, no capability, no new privileges, read-only, with limits; logs rotate."""
    for container in stack.containers():
        service, host = service_of(container), container["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert "ALL" in host["CapDrop"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["Memory"] > 0, service
        assert host["NanoCpus"] > 0, service
        assert host["LogConfig"]["Config"]["max-size"], service
        if service == "secrets":  # hands files over to their readers, without a network, and ends
            assert host["NetworkMode"] == "none"
            continue
        assert not container["Config"]["User"].startswith(("0", "root")), service
        assert container["Config"]["User"], service
        assert not host["CapAdd"], service
        if service not in ONE_SHOTS:
            assert host["RestartPolicy"]["Name"] == "unless-stopped", service


@pytest.mark.parametrize(
    ("service", "host", "port", "reached"),
    [
        ("worker", "redis", 6379, True),
        ("worker", "api-server", 8080, True),
        ("scheduler", "postgres", 5432, True),
        ("dag-processor", "redis", 6379, False),
        ("triggerer", "redis", 6379, False),
        ("api-server", "redis", 6379, False),
        ("flower", "postgres", 5432, False),
        ("worker", "statsd-exporter", 9125, True),
        ("worker", "prometheus", 9090, False),
    ],
)
def test_only_who_must_reaches_a_server(
    stack: ComposeStack, service: str, host: str, port: int, reached: bool
):
    """The networks connect what needs each other."""
    attempt = f"timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{port}'"
    done = stack.run("docker", "compose", "exec", "-T", service, "bash", "-c", attempt)
    assert (done.returncode == 0) is reached, done.stderr


def test_worker_has_no_way_into_the_metadata(stack: ComposeStack):
    """Its files hold the warehouse's password alone, which the metadata database refuses."""
    script = (
        "import json, psycopg2; from pathlib import Path;"
        "print(sorted(p.name for p in Path('/run/stack').iterdir()));"
        "url = json.loads(Path('/run/stack/worker/connections.json').read_text())['warehouse'];"
        "psycopg2.connect(url).close(); print('warehouse');"
        "psycopg2.connect(url.removesuffix('warehouse') + 'airflow')"
    )
    done = stack.run("docker", "compose", "exec", "-T", "worker", "python", "-c", script)
    assert done.stdout.splitlines() == ["['worker']", "warehouse"]
    assert "permission denied for database" in done.stderr


@pytest.mark.parametrize(
    ("service", "groups"),
    [
        ("api-server", ["control"]),
        ("flower", ["flower"]),
        ("maintenance", ["control"]),
        ("sla", ["sla", "smtp"]),
    ],
)
def test_container_holds_the_secrets_of_its_group_alone(
    stack: ComposeStack, service: str, groups: list[str]
):
    """Nobody finds files that are not its own."""
    assert stack.compose("exec", "-T", service, "ls", "/run/stack").split() == groups
