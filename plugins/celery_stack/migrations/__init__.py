"""The warehouse's schema, step by step; applied by `celery_stack.migrate`."""
