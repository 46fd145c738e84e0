"""Log lines on standard error, for people or for collectors. Review text never gets here: no stage logs a value."""

from __future__ import annotations

import json
import logging
import time

from worker.settings import LogSettings


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "thread": record.threadName,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def configure_logging(settings: LogSettings) -> None:
    """Sets up the root logger; libraries speak from warnings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonFormatter()
        if settings.format == "json"
        else logging.Formatter("%(asctime)s %(levelname)-7s %(threadName)-9s %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("worker").setLevel(settings.level.upper())
