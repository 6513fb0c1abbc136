"""Settings that every test shares."""

import os

from hypothesis import settings

# CI must give the same verdict on the same commit; people at work want new examples every time.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
