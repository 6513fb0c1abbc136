"""What the nodes are asked to do in a round, from the settings and the version. Pure."""

from collections.abc import Collection

from aggregator.config import Config, Training
from shared.compression import EMPTY
from shared.messages import Plan


def plan(
    config: Config,
    version: int,
    cohort: Collection[str],
    *,
    scores_only: bool,
    open_: bool,
    packing: str = "none",
) -> Plan:
    """The plan of a round that trains on a version, or only has it scored. `open_`: anybody may
    train; `packing`: how that version is packed.
    """
    training = config.training
    return Plan(
        task=config.task,
        seed=config.seed,
        epochs=0 if scores_only else training.epochs,
        batch_size=training.batch_size,
        learning_rate=learning_rate(training, version, config.rounds.rounds),
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        input_dropout=training.input_dropout,
        input_shift=training.input_shift,
        compression=EMPTY if scores_only else training.compression,
        cohort=tuple(sorted(cohort)),
        score=config.local_test,
        deadline_s=config.rounds.deadline_s,
        open=open_,
        max_staleness=config.rounds.staleness_limit,
        compression_down=packing,
    )


def learning_rate(training: Training, version: int, rounds: int) -> float:
    """The rate for training on a version: it falls in equal steps over the last `last_rounds`
    rounds.
    """
    steps = version - (rounds - training.last_rounds) + 1
    if training.last_rounds == 0 or steps <= 0:
        return training.learning_rate
    fallen = min(steps / training.last_rounds, 1.0)
    return training.learning_rate * (1 - fallen * (1 - training.last_rate_share))
