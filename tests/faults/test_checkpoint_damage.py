"""Whatever happens to a run's checkpoints: the exact bits of a kept step, or an error that says so.

The only documented error is `CheckpointError`. Nothing here may lead to another, or to other
weights than those that were saved.
"""

from __future__ import annotations

import pathlib
import random
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.training.checkpoint import Checkpoints, Restored

pytestmark = pytest.mark.slow

CASES = 200
GROUPS = 4
COURSES = ({10: 1.0, 20: 2.0, 30: 3.0}, {20: 1.0, 30: 2.0})
"""Steps that are kept, with their metrics: the best is the oldest of three, and of two."""


def state(step: int) -> dict[str, jax.Array]:
    """Weights that no two steps share, of the dtypes of a run."""
    rng = np.random.default_rng(step)
    return {
        "step": jnp.int32(step),
        "kernel": jnp.asarray(rng.normal(size=(6, 7)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        "key": jnp.asarray(rng.integers(0, 2**32, 2), jnp.uint32),
    }


def record(step: int) -> dict[str, object]:
    return {"seed": 7, "seconds": step / 3, "config": {"lr": 1e-3}}


def bits(tree: dict[str, jax.Array]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {k: (a.dtype.name, a.shape, np.asarray(a).tobytes()) for k, a in tree.items()}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folders = []
    for k, course in enumerate(COURSES):
        folders.append(tmp_path_factory.mktemp(f"course{k}") / "checkpoints")
        with Checkpoints(folders[-1]) as checkpoints:
            for step, metric in course.items():
                checkpoints.save(step, state(step), record(step), metric)
            assert checkpoints.steps() == sorted(course)
    return folders


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(rng, path):
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


def cut(rng, path):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])


def delete(rng, path):
    path.unlink()


def empty(rng, path):
    path.write_bytes(b"")


def zeros(rng, path):
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content) + 1)
    stop = rng.randint(start, len(content))
    content[start:stop] = bytes(stop - start)
    path.write_bytes(content)


def append(rng, path):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 64)))


def elsewhere(rng, path):
    """The same file of another step, where it is still there."""
    folder, *_ = [p for p in path.parents if p.name.isdigit()]
    others = [p for p in folder.parent.iterdir() if p.name.isdigit() and p != folder]
    return rng.choice(sorted(others)) / path.relative_to(folder)


def swap(rng, path):
    other = elsewhere(rng, path)
    if other.exists():
        here, there = path.read_bytes(), other.read_bytes()
        path.write_bytes(there)
        other.write_bytes(here)


def copy(rng, path):
    other = elsewhere(rng, path)
    if other.exists():
        path.write_bytes(other.read_bytes())


def delete_half(rng, path):
    """Of the files of the step that has this one."""
    folder, *_ = [p for p in path.parents if p.name.isdigit()]
    found = files_of(folder)
    for file in rng.sample(found, len(found) // 2):
        file.unlink()


def delete_arrays(rng, path):
    """The folder of the arrays of the step that has this file."""
    folder, *_ = [p for p in path.parents if p.name.isdigit()]
    shutil.rmtree(folder / "state", ignore_errors=True)


DAMAGES = (flip, cut, delete, delete_half, delete_arrays, zeros, append, empty, swap, copy)


def harm(rng: random.Random, folder: pathlib.Path) -> list[str]:
    """One to six damages; what was done, for the message of a failure."""
    done = []
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        files = files_of(folder)
        # The two files that hold all that is read, more often than those of Orbax's own.
        files += [f for f in files if f.parent.name in ("record", "checkpoint") and f.suffix == ""]
        path, damage = rng.choice(files), rng.choice(DAMAGES)
        damage(rng, path)
        done.append(f"{damage.__name__} {path.relative_to(folder)}")
    return done


def is_sound(checkpoints: Checkpoints, step: int) -> bool:
    try:
        checkpoints.verify(step)
    except CheckpointError as error:
        said = str(error)
    else:
        return True
    assert re.match(rf"checkpoint step {step} in .* is damaged \(.*\): delete", said)
    return False


@pytest.mark.parametrize("group", range(GROUPS))
def test_damaged_checkpoints_restore_exactly_or_not_at_all(
    tmp_path, originals, caplog, tried, group
):
    rng = random.Random(f"checkpoints {group}")
    seen = set()
    for case in range(CASES // GROUPS):
        original, course = originals[case % 2], COURSES[case % 2]
        folder = tmp_path / str(case)
        shutil.copytree(original, folder)
        done = harm(rng, folder)
        untouched = [
            step
            for step in course
            if all(
                (folder / path.relative_to(original)).exists()
                and (folder / path.relative_to(original)).read_bytes() == path.read_bytes()
                for path in files_of(original / str(step))
            )
        ]
        with Checkpoints(folder) as checkpoints:
            assert checkpoints.steps() == sorted(course), done
            sound = [step for step in sorted(course) if is_sound(checkpoints, step)]
            assert set(untouched) <= set(sound), done
            seen.add(check_latest(checkpoints, course, sound, caplog, done))
            seen.add(check_best(checkpoints, course, sound, done))
            if case % 10 == 0 and sound:
                # The run goes on: damaged newer steps make room, older ones do not stop it.
                checkpoints.restore(state(0))
                checkpoints.save(40, state(40), record(40), 9.0)
                assert bits(checkpoints.restore(state(0)).state) == bits(state(40)), done
        shutil.rmtree(folder)
        tried["checkpoint damages"] += 1
    # The damages are no more and no less than what the test is about.
    assert seen == {"newest", "older", "none", "best", "no best"}


def restored_or_refused(checkpoints, which) -> tuple[Restored | None, str]:
    try:
        return checkpoints.restore(state(0), which), ""
    except CheckpointError as error:
        return None, str(error)


def check_latest(checkpoints, course, sound, caplog, done) -> str:
    caplog.clear()
    restored, said = restored_or_refused(checkpoints, "latest")
    if restored is None:
        assert not sound, done
        steps = ", ".join(map(str, sorted(course)))
        assert f"every step in {checkpoints.directory} is damaged ({steps})" in said, done
        assert "\n" not in said, done
        outcome, newer = "none", sorted(course)
    else:
        assert [restored.step] == sound[-1:], done
        assert bits(restored.state) == bits(state(restored.step)), done
        assert restored.record == record(restored.step), done
        newer = [step for step in sorted(course) if step > restored.step]
        outcome = "older" if newer else "newest"
    messages = [entry.getMessage() for entry in caplog.records if entry.name.startswith("hdgnn")]
    assert [int(message.split()[2]) for message in messages] == newer[::-1], done
    assert all("is damaged (" in message for message in messages), done
    try:
        # A record may be sound where the arrays are not.
        assert checkpoints.record() in [record(s) for s in course if s >= max(sound, default=0)]
    except CheckpointError:
        assert not sound, done
    return outcome


def check_best(checkpoints, course, sound, done) -> str:
    best = min(course, key=course.__getitem__)
    restored, said = restored_or_refused(checkpoints, "best")
    if restored is None:
        assert "is damaged (" in said, done
        assert set(sound) != set(course), done
        return "no best"
    assert restored.step == best, done
    assert bits(restored.state) == bits(state(best)), done
    assert restored.record == record(best), done
    return "best"


def test_a_record_of_another_step_is_a_damage(originals, tmp_path, tried):
    """Sound in itself, but with a metric that would make the wrong step the best one."""
    for source, target in ((30, 10), (10, 30), (20, 10)):
        folder = tmp_path / f"{source}-{target}"
        shutil.copytree(originals[0], folder)
        shutil.copy(folder / f"{source}/record/metadata", folder / f"{target}/record/metadata")
        with Checkpoints(folder) as checkpoints:
            with pytest.raises(
                CheckpointError, match=rf"step {target} in .* that of step {source}\)"
            ):
                checkpoints.restore(state(0), "best")
            assert checkpoints.record() == record(30 if target != 30 else 20)
        tried["checkpoint damages"] += 1
