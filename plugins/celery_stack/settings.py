"""The stack's environment variables: names, meaning, unit, default and bounds.

Both ways of running read the environment through `Settings.from_env`; `.env.example` and
`compose/airflow.env` are held to this table by tests. Queues and pools bring variables of their own
(`celery_stack.queues`), and so does the pipeline (`ml.settings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from dotenv import dotenv_values
from dotenv.variables import parse_variables
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails


class SettingError(ValueError):
    """A setting has a wrong value; the message is one line: variable, expected, found, remedy."""

    retryable = False


def setting_error(name: str, expected: str, found: object) -> SettingError:
    """Give the error for variable `name` in the stack's one-line form."""
    return SettingError(f"{name} must be {expected}, got {found!r}. Set it in .env.")


def is_whole_number(text: str) -> bool:
    """Tell whether `text` is decimal digits alone, which whoever reads the variable reads alike.

    int() lets through signs, spaces, underscores and the digits of other scripts; pydantic `32.0`.
    """
    return text.isascii() and text.isdecimal() and len(text) < 10


# What a mail server is offered without more ado: see celery_stack.sla.addresses.
_ADDRESS = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,180}[A-Za-z0-9])?"


class Settings(BaseModel):
    """Every variable of the stack itself: a field is named as the variable, and holds its default."""

    model_config = ConfigDict(frozen=True)

    # Where people reach it. Without Docker a port that is taken moves up to the next free one.
    API_PORT: int = Field(
        8080, ge=1024, le=32767, description="Port of the Airflow UI and REST API."
    )
    BASE_URL: str = Field(
        "",
        pattern=r"^https?://[A-Za-z0-9_.:\[\]-]{1,253}(/[A-Za-z0-9_.~/-]*)?$",
        json_schema_extra={"expected": "an address such as https://airflow.example.org"},
        description="Address by which people reach Airflow, for links in mails and the login; unset: the port on this machine.",
    )
    FLOWER_PORT: int = Field(5555, ge=1024, le=32767, description="Port of Flower.")
    POSTGRES_PORT: int = Field(
        15432, ge=1024, le=32767, description="Port of the embedded Postgres (no Docker)."
    )
    REDIS_PORT: int = Field(
        16379, ge=1024, le=32767, description="Port of the embedded Redis (no Docker)."
    )
    SUPERVISOR_PORT: int = Field(
        19001, ge=1024, le=32767, description="Port of the process supervisor (no Docker)."
    )
    ADMIN_USER: str = Field(
        "admin",
        pattern=r"^[A-Za-z0-9_.@-]{1,64}$",
        description="Name of the first user of the Airflow UI and of Flower; the password is generated.",
    )
    ADMIN_EMAIL: str = Field(
        "admin@example.org",
        pattern=r"^[^@\s]+@[^@\s]+$",
        description="E-mail address of that user.",
    )

    # How much runs at once.
    PARALLELISM: int = Field(
        32,
        ge=1,
        le=4096,
        description="Task instances queued or running at once, per scheduler; keep it in step with the workers' slots.",
    )
    MAX_ACTIVE_TASKS_PER_DAG: int = Field(
        16,
        ge=1,
        le=4096,
        description="Task instances of one DAG run at once, unless the DAG says otherwise.",
    )
    WAKE_SCHEDULER: Literal["on", "off"] = Field(
        "on",
        description="Whether events end the scheduler's idle sleep of a second; off is stock Airflow.",
    )

    # Retries, the defaults a task may override.
    TASK_RETRIES: int = Field(2, ge=1, le=100, description="Retries of a task that names none.")
    RETRY_DELAY_S: int = Field(30, ge=1, le=86400, description="Seconds before the first retry.")
    RETRY_BACKOFF: float = Field(
        2.0, ge=1.0, le=10.0, description="Factor by which the delay grows from retry to retry."
    )
    MAX_RETRY_DELAY_S: int = Field(
        1800, ge=1, le=86400, description="Seconds that a retry delay never exceeds."
    )
    RETRY_JITTER: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="Share of a retry delay by which it is drawn out at most, so that mapped siblings do not retry together.",
    )

    # Time limits of the machinery.
    TASK_QUEUED_TIMEOUT_S: int = Field(
        86400,
        ge=60,
        le=604800,
        description="Seconds that a task may wait in Redis before it is taken back; also the life of a queued task's token, so longer than the longest task.",
    )
    VISIBILITY_TIMEOUT_S: int = Field(
        86400,
        ge=60,
        le=604800,
        description="Seconds after which Redis redelivers a task whose worker vanished; longer than the longest task.",
    )
    MESSAGE_CHECK_S: int = Field(
        15,
        ge=0,
        le=3600,
        description="Seconds between two looks for queued tasks whose messages Redis lost; what two looks miss is published again; 0 for never.",
    )
    HEARTBEAT_TIMEOUT_S: int = Field(
        45,
        ge=20,
        le=3600,
        description="Seconds without a sign of life after which a running task counts as lost and is retried.",
    )
    RESULT_EXPIRES_S: int = Field(
        21600, ge=600, le=604800, description="Seconds that Celery results stay in Redis."
    )
    WORKER_STOP_TIMEOUT_S: int = Field(
        60,
        ge=1,
        le=86400,
        description="Seconds that a stopping worker gives its running tasks to finish.",
    )

    WORKER_CHECK_S: int = Field(
        30,
        ge=2,
        le=3600,
        description="Seconds between two looks at whether a worker consumes (Docker); after four in vain it starts again.",
    )
    LOG_RETENTION_DAYS: int = Field(
        30, ge=1, le=3650, description="Days after which task logs are deleted (Docker)."
    )
    METADATA_RETENTION_DAYS: int = Field(
        90,
        ge=1,
        le=3650,
        description="Days after which old runs leave the metadata (Docker), and mails of SLAs the outbox.",
    )

    # Warm workers (celery_stack.warm): tasks that start in milliseconds.
    WARM_IMPORTS: str = Field(
        "joblib,pandas,pandera.pandas,psycopg,pyarrow.parquet,scipy.special,"
        "sklearn.calibration,sklearn.ensemble,sklearn.inspection,sklearn.linear_model,"
        "sklearn.model_selection,sklearn.pipeline,sklearn.svm,threadpoolctl,upath",
        pattern=r"^[A-Za-z0-9_., ]+$",
        description="Modules that a worker imports once, before its tasks need them, comma-separated; none for none.",
    )
    WARM_SUPERVISOR: Literal["on", "off"] = Field(
        "on",
        description="Whether a task's supervisor is woken by the end of its process, or looks every few seconds as Airflow has it.",
    )
    WARM_TEMPLATES: int = Field(
        8,
        ge=0,
        le=256,
        description="DAG files that a worker keeps parsed, as processes to fork tasks from; 0: each task parses its file.",
    )
    WORKER_PROCESS_MAX_MIB: int = Field(
        1024,
        ge=0,
        le=1048576,
        description="MiB of memory, shared pages included, above which a process of a worker's pool is replaced after its task; 0: never.",
    )

    # E-mail that tasks, callbacks and triggers send, as the connection smtp_default.
    SMTP_HOST: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.:-]{1,253}$",
        description="Mail server; unset: with Docker the stack's mail catcher, without Docker none.",
    )
    SMTP_PORT: int = Field(1025, ge=1, le=65535, description="Port of the mail server.")
    SMTP_SECURITY: Literal["none", "starttls", "tls"] = Field(
        "none",
        description="How the way to the mail server is encrypted: none, starttls, or tls from the first byte.",
    )
    SMTP_USER: str = Field(
        "",
        pattern=r"^\S{1,255}$",
        description="Login at the mail server; its password is the secret smtp/password.",
    )
    SMTP_FROM: str = Field(
        "airflow@example.org",
        pattern=r"^[^@\s]+@[^@\s]+$",
        description="E-mail address of the sender.",
    )

    ALERT_EMAIL_TO: str = Field(
        "",
        pattern=f"^{_ADDRESS}( *, *{_ADDRESS})*$",
        json_schema_extra={"expected": "addresses such as ops@example.org, comma-separated"},
        description="Who is told of alerts (Docker), comma-separated; unset: ADMIN_EMAIL.",
    )

    # SLAs and failure e-mails (celery_stack.sla).
    SLA_EMAIL_TO: str = Field(
        "",
        pattern=f"^{_ADDRESS}( *, *{_ADDRESS})*$",
        json_schema_extra={"expected": "addresses such as ml@example.org, comma-separated"},
        description="Who is told of missed SLAs and failed runs unless the DAG says otherwise, comma-separated; unset: nobody.",
    )
    SLA_CHECK_S: int = Field(
        10, ge=1, le=600, description="Seconds between two looks at what is promised."
    )
    FAILURE_EMAILS: Literal["on", "off"] = Field(
        "on",
        description="Whether a run that failed is mailed: to SLA_EMAIL_TO, unless the DAG says otherwise.",
    )

    # DAGs and data.
    DAGS_FOLDER: str = Field(
        "", description="Folder of DAG files for the run without Docker; unset: dags."
    )
    DAG_REFRESH_S: int = Field(
        30, ge=1, le=3600, description="Seconds between two looks for new and changed DAG files."
    )
    DAG_REPARSE_S: int = Field(
        300,
        ge=1,
        le=86400,
        description="Seconds after which a DAG file that has not changed is read again; what it imports may have.",
    )
    POLICY_EXEMPT_PATHS: str = Field(
        "",
        description="DAG files or folders that the policies leave alone: comma-separated globs, relative to the DAG folder.",
    )
    QUEUES_FILE: str = Field(
        "",
        description="A queues-and-pools declaration to use instead of plugins/celery_stack/queues.toml.",
    )
    XCOM_THRESHOLD_BYTES: int = Field(
        65536,
        ge=0,
        le=1073741824,
        description="Bytes above which an XCom goes to the artifact store instead of Postgres.",
    )
    LOG_LEVEL: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severity that is logged: DEBUG, INFO, WARNING or ERROR."
    )

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the settings out of `env`; an empty value counts as unset.

        Raises:
            SettingError: the first wrong value, in one line.
        """
        given = {name: env[name] for name in cls.model_fields if env.get(name)}
        for name, text in given.items():
            if cls.model_fields[name].annotation is int and not is_whole_number(text):
                raise setting_error(name, _expectation(name), text)
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise _as_setting_error(error.errors()[0]) from None


def read_shared_settings(file: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Read `compose/airflow.env`, taking each `${NAME:-default}` from `env` as Compose does.

    Args:
        env: variables that are set; none of them empty.
    """
    settings = dotenv_values(file, interpolate=False)
    return {
        name: "".join(atom.resolve(env) for atom in parse_variables(value))
        for name, value in settings.items()
        if value
    }


def _as_setting_error(detail: ErrorDetails) -> SettingError:
    name = str(detail["loc"][0])
    return setting_error(name, _expectation(name), detail["input"])


def _expectation(name: str) -> str:
    """Say in words what variable `name` takes: `a whole number from 1 to 100`."""
    field = Settings.model_fields[name]
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["expected"])
    if field.annotation not in (int, float):
        choices = getattr(field.annotation, "__args__", None)
        if choices:
            return "one of " + ", ".join(choices)
        pattern = next((m.pattern for m in field.metadata if hasattr(m, "pattern")), None)
        return f"text matching {pattern}" if pattern else "text"
    kind = "a whole number" if field.annotation is int else "a number"
    low = next(m.ge for m in field.metadata if hasattr(m, "ge"))
    high = next(m.le for m in field.metadata if hasattr(m, "le"))
    return (
        f"{kind} from {low:g} to {high:g}" if kind == "a number" else f"{kind} from {low} to {high}"
    )
