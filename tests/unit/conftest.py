"""Properties are judged by what they find, not by how fast: test machines are shared."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "unit", deadline=None, database=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unit")
