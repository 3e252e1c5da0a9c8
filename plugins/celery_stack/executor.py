"""The executor of the stack."""

from __future__ import annotations

import os

from airflow.providers.celery.executors.celery_executor import CeleryExecutor

from celery_stack.messages import NO_ANSWER, Broker
from celery_stack.publish_time import stamp_messages
from celery_stack.republish import Republisher
from celery_stack.settings import Settings
from celery_stack.task_label import label_messages


class StackCeleryExecutor(CeleryExecutor):
    """CeleryExecutor whose scheduler is woken when something happens, and that outlives what happens to Redis.

    Its messages say when they were published, and what they are. While Redis gives no answer it keeps what is to be
    published, which stock fails, and does without results, for which stock's scheduler ends. What Redis lost it
    publishes again.
    """

    _broker: Broker | None = None
    _republisher: Republisher | None = None
    _redis_is_away = False

    def start(self) -> None:
        """Start; Airflow calls it in the scheduler's process alone, before the first loop."""
        super().start()
        stamp_messages()
        label_messages()
        settings = Settings.from_env(os.environ)
        self._broker = Broker(self.celery_app)
        if settings.MESSAGE_CHECK_S:
            self._republisher = Republisher(self, self._broker, settings.MESSAGE_CHECK_S)
        if settings.WAKE_SCHEDULER == "on":
            from celery_stack.idle_sleep import make_wakeable  # drags the scheduler in

            make_wakeable(self.running)

    def trigger_tasks(self, open_slots: int) -> None:
        """Publish what is to be published, if Redis answers; else it waits here."""
        nothing = not (self.queued_tasks or self.queued_callbacks)
        if nothing or self._broker is None or self._broker.answers():
            return super().trigger_tasks(open_slots)
        return self._note_silence("it gives no answer")

    def sync(self) -> None:
        """Read results, and look after messages, if Redis answers; else another time."""
        try:
            super().sync()
            if self._republisher is not None:
                self._republisher.look_when_due()
        except NO_ANSWER as error:
            return self._note_silence(error)
        if self._redis_is_away and not self.queued_tasks:
            self._redis_is_away = False
            self.log.info("Redis answers again.")
        return None

    def _note_silence(self, error: object) -> None:
        if not self._redis_is_away:
            self.log.warning(
                "Nothing is published, no result is read until Redis answers: %s", error
            )
        self._redis_is_away = True
