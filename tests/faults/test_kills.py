"""A training that is killed in its saves goes on exactly, wherever the kill came."""

import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests import killing, tracing
from tests.faults.test_checkpoints import cut, flip_a_byte

OPTIMIZERS = {"plain": killing.PLAIN, "deepspeed": killing.DEEPSPEED}


@pytest.fixture(scope="module", params=OPTIMIZERS)
def training(request, data_directory, tmp_path_factory) -> killing.Training:
    folder = tmp_path_factory.mktemp("kills") / request.param
    return killing.Training(data_directory, folder, OPTIMIZERS[request.param])


@pytest.fixture
def traceable() -> None:
    if not tracing.possible():
        pytest.skip("processes may not be traced here (ptrace)")


def sample(made: list[str]) -> list[int]:
    """In the middle of a file; before the checkpoint has its name; before it is named last."""
    renames = [number for number, name in enumerate(made, 1) if name == "rename"]
    written = made.index("openat") + 3
    return [written, renames[-4], renames[-1]]


def test_killed_in_a_save_it_goes_on_from_the_last_finished_one_to_the_same_weights(
    training, traceable
):
    update = killing.PHASES["best"]
    made = training.kill(update, 0)
    assert made.count("rename") >= 4 and made.count("fsync") >= 5, made
    for operation in sample(made):
        assert training.kill(update, operation) == made[: operation - 1]
        assert training.verdict() == "whole", (made[:operation], training.log())


def counted(verdicts: list[str]) -> dict[str, int]:
    """The number of kills and of every verdict, those that never came among them."""
    counts = Counter(verdicts)
    return {"kills": len(verdicts)} | {verdict: counts[verdict] for verdict in killing.VERDICTS}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_before_any_operation_of_a_save_it_goes_on_to_the_same_weights(
    training, traceable, record
):
    found = [kill for update in killing.PHASES.values() for kill in training.verdicts(update)]
    changed = sum(new for _, new, _ in found)
    counts = counted([verdict for _, _, verdict in found])
    record(f"{training.folder.name},operations", counts | {"different directories": changed})
    assert counts["whole"] == counts["kills"], found
    assert len(found) > 60 and changed > 30


@pytest.mark.slow
def test_killed_at_random_times_in_a_loop_of_saves_it_goes_on_to_the_same_weights(
    training, campaign, record
):
    generator, in_a_save, verdicts = random.Random(1), 0, []
    for _ in range(50 if campaign else 3):
        in_a_save += training.kill_at_random(generator)
        verdicts.append(training.verdict())
        assert verdicts[-1] == "whole", training.log()
    record(f"{training.folder.name},random", counted(verdicts) | {"in a save": in_a_save})


def scale_weights(path: Path) -> None:
    """Change the weights and nothing else, under every name of the file."""
    state = torch.load(path, weights_only=True)
    state["model"]["encoder.embed_tokens.weight"] *= 1.5
    torch.save(state, path.with_name("changed"))
    path.write_bytes(path.with_name("changed").read_bytes())
    path.with_name("changed").unlink()


def cut_all(path: Path) -> None:
    for name in path.parent.glob("*.pt"):
        cut(name, 0.5)


def test_these_tests_notice_what_is_not_whole(training):
    if training.cfg.optimizer["_name"] != "adam":
        pytest.skip("the same code, and weights lie in DeepSpeed's shards, too")
    damages = {"unloadable": cut_all, "lost work": flip_a_byte, "diverged": scale_weights}
    for verdict, damage in damages.items():
        training.restore(killing.FINAL)
        damage(training.save_dir / "checkpoint_last.pt")
        assert training.verdict() == verdict, training.log()
