"""Promises of when a task or a run is done, judged from the metadata: records, e-mails, a page."""
