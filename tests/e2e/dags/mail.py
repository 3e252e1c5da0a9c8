"""### A task that fails, and a run that fails with it: each says so by e-mail"""

from datetime import timedelta

from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import dag, task


def mail(subject):
    """Give a notifier that says `subject`; the run's id is its body."""
    return SmtpNotifier(to="on-call@example.org", subject=subject, html_content="{{ run_id }}")


@dag(
    schedule=None,
    is_paused_upon_creation=False,
    default_args={"owner": "tests"},
    on_failure_callback=mail("run failed"),
    doc_md=__doc__,
)
def mail_on_failure():
    """No retries: a second try would only delay the mail."""

    @task(
        retries=0,
        doc_md="retries=0: it always fails.",
        execution_timeout=timedelta(minutes=1),
        on_failure_callback=mail("task failed"),
    )
    def fail():
        raise RuntimeError("meant to fail")

    fail()


mail_on_failure()
