"""Settings that every test shares."""

import os

import pytest
from hypothesis import settings

# CI must give the same verdict on the same commit; people at work want new examples every time.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Here and not in system/, where pytest would see it too late."""
    parser.addoption(
        "--broker",
        choices=("mosquitto", "rabbitmq", "nats", "amqtt", "container"),
        default="mosquitto",
        help="what the system tests run on; container: Mosquitto in Docker; see make test-brokers",
    )
