import hashlib

import numpy as np

from aggregator import release
from shared import codec
from shared.messages import Model
from shared.params import from_tensors

PARAMS = from_tensors({"w": np.linspace(-1, 1, 50).reshape(5, 10), "b": [0.5]})


def test_the_body_holds_the_parameters() -> None:
    made = release.make(7, PARAMS)
    assert hashlib.sha256(made.body).digest() == made.body_digest
    model = codec.decode(Model, made.body)
    assert model.version == 7
    assert codec.model_params(model).digest == made.model == PARAMS.digest


def test_the_version_is_named_by_its_parameters_alone() -> None:
    one, other = release.make(7, PARAMS), release.make(8, PARAMS)
    assert one.model == other.model == PARAMS.digest
    assert one.spec_digest == PARAMS.spec.digest
    assert one.body_digest != other.body_digest
