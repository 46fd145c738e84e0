"""Every shape that crosses a process border; knows nothing of Kafka clients, models or devices."""

SCHEMA_VERSION = "1.0"
