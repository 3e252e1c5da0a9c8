"""Alertmanager logs in at a mail server that wants it, as SMTP_* say: after STARTTLS, or inside TLS."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from celery_stack.settings import Settings
from compose.alert_mail import write_alert_mail
from compose.home import REPO
from compose.secret_files import write_secret
from tests.e2e.conftest import pinned_image, status_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

NETWORK = "stack-e2e-alert-mail"
SERVER = f"{NETWORK}-server"
SENDER = f"{NETWORK}-sender"
WAYS = {
    "starttls": {"SMTP_PORT": "587", "MP_SMTP_REQUIRE_STARTTLS": "true"},
    "tls": {"SMTP_PORT": "465", "MP_SMTP_REQUIRE_TLS": "true"},
}
Start = Callable[..., None]


def docker(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done


@pytest.fixture
def start() -> Iterator[Start]:
    """Give what starts a container on a network of the test's own; both are removed at the end."""
    remove = [("rm", "--force", SERVER, SENDER), ("network", "rm", NETWORK)]
    for words in remove:
        docker(*words, check=False)
    docker("network", "create", NETWORK)

    def start(name: str, image: str, *options: str, command: tuple[str, ...] = ()) -> None:
        options = ("--detach", "--name", name, "--network", NETWORK, *options)
        docker("run", *options, pinned_image(image), *command)

    yield start
    for words in remove:
        docker(*words, check=False)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Give the files of a mail server's certificate, and of the authority that made it."""
    authority = trustme.CA()
    made = authority.issue_cert(SERVER)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    (tmp_path / "logins").write_text("me:p@ss%w/rd")
    return tmp_path


@pytest.mark.parametrize("security", WAYS)
def test_alert_is_mailed_after_a_login(
    start: Start, certificates: Path, tmp_path: Path, security: str
):
    """The server takes no mail without one."""
    way = WAYS[security]
    server = {
        "MP_SMTP_BIND_ADDR": f"0.0.0.0:{way['SMTP_PORT']}",
        "MP_SMTP_AUTH_FILE": "/tls/logins",
        "MP_SMTP_TLS_CERT": "/tls/cert.pem",
        "MP_SMTP_TLS_KEY": "/tls/key.pem",
    } | {name: value for name, value in way.items() if name.startswith("MP_")}
    options = [word for name, value in server.items() for word in ("--env", f"{name}={value}")]
    publish = ("--publish", "127.0.0.1::8025", "--volume", f"{certificates}:/tls:ro")
    start(SERVER, "MAILPIT_IMAGE", *publish, *options)
    port = docker("port", SERVER, "8025/tcp").stdout.split(":")[-1].strip()
    url = f"http://127.0.0.1:{port}/api/v1/messages"
    wait_for(lambda: status_of(url), lambda status: status == 200, deadline_s=20)

    routes = tmp_path / "routes.yml"
    text = (REPO / "monitoring/alertmanager/alertmanager.yml").read_text()
    routes.write_text(text.replace("group_wait: 30s", "group_wait: 1s"))
    env = {"SMTP_HOST": SERVER, "SMTP_USER": "me", "SMTP_SECURITY": security}
    write_secret(tmp_path / "stack/smtp/password", "p@ss%w/rd")
    settings = Settings.from_env(env | {"SMTP_PORT": way["SMTP_PORT"]})
    write_alert_mail(tmp_path / "stack", routes, settings)
    own = tmp_path / "stack/alertmanager"
    own.chmod(0o755)
    for file in own.iterdir():
        file.chmod(0o444)  # with Docker they are its user's own
    file = "/run/stack/alertmanager/alertmanager.json"
    ca = f"{certificates}/ca.pem:/etc/ssl/certs/ca-certificates.crt:ro"
    mounts = ("--volume", f"{own}:/run/stack/alertmanager:ro", "--volume", ca)
    start(
        SENDER,
        "ALERTMANAGER_IMAGE",
        *mounts,
        command=(
            f"--config.file={file}",
            "--storage.path=/alertmanager",
            "--cluster.listen-address=",
        ),
    )

    assert "SUCCESS" in docker("exec", SENDER, "amtool", "check-config", file).stdout
    alert = ("amtool", "--alertmanager.url=http://127.0.0.1:9093", "alert", "add", "TheAlert")
    wait_for(
        lambda: docker("exec", SENDER, *alert, check=False),
        lambda done: done.returncode == 0,
        deadline_s=20,
    )
    [mail] = wait_for(lambda: httpx.get(url).json()["messages"], bool, deadline_s=30)
    assert "TheAlert" in mail["Subject"]
    assert [to["Address"] for to in mail["To"]] == ["admin@example.org"]
