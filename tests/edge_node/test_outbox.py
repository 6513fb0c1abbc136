from dataclasses import replace
from pathlib import Path

import pytest

from edge_node import outbox
from edge_node.events import Entry, Memory
from shared import codec, disk
from shared.messages import NodeState

ENTRY = Entry(
    counter=7,
    round=3,
    base_version=2,
    base=bytes(range(32)),
    spec=bytes(32),
    samples=600,
    metrics={"train_loss": 0.25, "bytes_down": 1e6},
    compression="fp16",
    body=b"\x00\x3c\x00\xc0",
    digest=bytes(range(32, 64)),
)
MEMORY = Memory(
    state_id="0123456789abcdef",
    boot=4,
    counter=7,
    term=2,
    owner="f" * 16,
    trained=(2, 3),
    trained_on=(2, bytes(range(32))),
    entries=(replace(ENTRY, counter=6, body=b""), ENTRY),
)


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("memory", [MEMORY, replace(MEMORY, entries=()), Memory("0" * 16)])
def test_what_is_remembered_comes_back(tmp_path: Path, memory: Memory) -> None:
    outbox.save(tmp_path, memory)
    assert outbox.load(tmp_path) == (memory, "")
    assert list(tmp_path.iterdir()) == [tmp_path / "memory"]


def test_the_last_word_counts(tmp_path: Path) -> None:
    outbox.save(tmp_path, MEMORY)
    settled = replace(MEMORY, entries=())
    outbox.save(tmp_path, settled)
    assert outbox.load(tmp_path) == (settled, "")


def test_without_a_file_the_node_is_a_new_one(tmp_path: Path) -> None:
    memory, problem = outbox.load(tmp_path)
    assert problem == ""
    assert memory == Memory(memory.state_id)
    again, _ = outbox.load(tmp_path)
    assert again.state_id != memory.state_id  # made anew until it is saved


def test_a_new_identity_is_one_that_messages_take(tmp_path: Path) -> None:
    memory, _ = outbox.load(tmp_path)
    birth = NodeState(alive=True, state_id=memory.state_id, boot=1, connection=1)
    assert codec.decode_json(NodeState, codec.encode_json(birth)) == birth


@pytest.mark.parametrize("left", [0, 1, 32, 33, 200])
def test_a_torn_file_is_set_aside_and_the_node_is_a_new_one(tmp_path: Path, left: int) -> None:
    outbox.save(tmp_path, MEMORY)
    path = tmp_path / "memory"
    torn = path.read_bytes()[:left]
    path.write_bytes(torn)
    memory, problem = outbox.load(tmp_path)
    assert memory == Memory(memory.state_id)
    assert memory.state_id != MEMORY.state_id
    assert problem == (
        f"{path} does not match its digest; set aside as memory.corrupt, this node starts anew"
    )
    assert (tmp_path / "memory.corrupt").read_bytes() == torn
    assert not path.exists()
    outbox.save(tmp_path, memory)
    assert outbox.load(tmp_path) == (memory, "")


def test_a_whole_file_of_another_kind_is_set_aside_as_well(tmp_path: Path) -> None:
    disk.write_sealed(tmp_path / "memory", codec.encode(ENTRY))
    memory, problem = outbox.load(tmp_path)
    assert memory == Memory(memory.state_id)
    assert problem.startswith("memory: unknown field; set aside")


def test_a_crash_while_saving_leaves_what_was_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise PowerCutError

    outbox.save(tmp_path, MEMORY)
    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(PowerCutError):
        outbox.save(tmp_path, replace(MEMORY, entries=()))
    assert outbox.load(tmp_path) == (MEMORY, "")
