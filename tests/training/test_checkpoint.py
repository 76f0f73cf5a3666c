"""A checkpoint restores bit for bit, or says what is wrong with it."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import resource
import shutil

import flax.struct
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from damage import damage
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.training.checkpoint import Checkpoints


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    ema: dict
    opt_state: optax.OptState
    key: jax.Array


def make_state(step: int, width: int = 16) -> State:
    """A state whose every array depends on the step, in the dtypes a run uses."""
    weights = jax.random.normal(jax.random.key(step), (8, width))
    params = {"layer/0": {"kernel": weights, "bias": weights[0].astype(jnp.bfloat16)}}
    return State(
        step=jnp.int32(step),
        params=params,
        ema=jax.tree.map(lambda x: x / 3, params),
        opt_state=optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(params),
        key=jax.random.key_data(jax.random.key(step)),
    )


def assert_same_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save_steps(folder: pathlib.Path, metrics: dict[int, float | None]) -> None:
    with Checkpoints(folder) as checkpoints:
        for step, metric in metrics.items():
            checkpoints.save(step, make_state(step), {"seed": step}, metric)


def array_file(step_folder: pathlib.Path) -> pathlib.Path:
    """The largest file of a step, where the arrays are."""
    files = [file for file in step_folder.rglob("*") if file.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


def flip_bit_in_arrays(step_folder: pathlib.Path) -> None:
    damage(array_file(step_folder), "flip")


def truncate_arrays(step_folder: pathlib.Path) -> None:
    damage(array_file(step_folder), "cut")


def test_restores_every_bit(tmp_path):
    state = make_state(7)
    specials = np.array([np.nan, -np.nan, -0.0, np.inf, 1e-45], np.float32)
    state.params["specials"] = jnp.asarray(specials)
    state.params["halves"] = jnp.asarray(specials.astype(ml_dtypes.bfloat16))
    record = {"config": {"channels": 64, "lr": 1e-3}, "references": [0.1, None], "name": "Å"}
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(7, state, record, 0.5)
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.record() == record
        for like in (make_like(state), state, jax.tree.map(np.asarray, state)):
            restored = checkpoints.restore(like)
            assert (restored.step, restored.record) == (7, record)
            assert_same_bits(restored.state, state)


def make_like(state: State) -> State:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def test_restores_a_part_of_the_state_alone(tmp_path):
    save_steps(tmp_path, {3: 1.0, 5: 0.5})
    expected = make_state(5).ema
    with Checkpoints(tmp_path) as checkpoints:
        assert_same_bits(checkpoints.restore(expected, "best", part=".ema").state, expected)
        with pytest.raises(CheckpointError, match=r"another model, with .ema\['x'\]"):
            checkpoints.restore({**expected, "x": np.zeros(1)}, part=".ema")


def test_restores_onto_the_shardings_of_like(tmp_path):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    replicated = NamedSharding(mesh, PartitionSpec())
    state = jax.device_put(make_state(1), replicated)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, None)
        restored = checkpoints.restore(state).state
        on_one = checkpoints.restore(make_state(2)).state
    assert_same_bits(restored, state)
    assert all(leaf.sharding == replicated for leaf in jax.tree.leaves(restored))
    assert_same_bits(on_one, state)
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(on_one))


@contextlib.contextmanager
def full_disk(folder):
    """No file can grow beyond some bytes, less than a state has."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@contextlib.contextmanager
def unwritable(folder):
    """Even for a superuser."""
    away = folder.with_name("away")
    folder.rename(away)
    folder.write_text("a file where the folder was")
    yield
    folder.unlink()
    away.rename(folder)


@pytest.mark.parametrize("happens", [full_disk, unwritable])
def test_what_cannot_be_written_is_said_and_costs_no_earlier_step(tmp_path, happens):
    folder = tmp_path / "checkpoints"
    save_steps(folder, {1: 1.0, 2: 2.0})
    checkpoints, large = Checkpoints(folder), make_state(3, 256)
    checkpoints.restore(make_state(2))

    def save():
        checkpoints.save(3, large, {}, 3.0)
        checkpoints.close()

    with happens(folder), pytest.raises(CheckpointError, match=r"step 3 cannot be written to .*\("):
        save()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert_same_bits(checkpoints.restore(make_state(2)).state, make_state(2))
        assert_same_bits(checkpoints.restore(make_state(1), "best").state, make_state(1))
        assert checkpoints.restore(make_state(2)).step == 2
        checkpoints.save(3, make_state(3), {}, 3.0)
        assert checkpoints.restore(make_state(3)).step == 3


def test_buffers_may_be_donated_after_save(tmp_path):
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + jnp.ones_like(x), s), donate_argnums=0)
    state, expected = make_state(1, 2048), make_state(1, 2048)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, None)
        state = advance(state)
        assert_same_bits(checkpoints.restore(expected).state, expected)


def test_keeps_the_newest_and_the_best(tmp_path):
    metrics = {1: 9.0, 2: 1.0, 3: 2.0, 4: None, 5: float("nan"), 6: 1.0}
    save_steps(tmp_path, metrics)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert checkpoints.record("best") == {"seed": 2}
        assert checkpoints.restore(make_state(0), "best").step == 2
        assert checkpoints.restore(make_state(0)).step == 6
        checkpoints.save(7, make_state(7), {}, 0.5)
        assert checkpoints.restore(make_state(0), "best").step == 7
        assert checkpoints.steps() == [6, 7]


def test_steps_without_metric_are_not_kept_as_best(tmp_path):
    save_steps(tmp_path, {1: None, 2: None, 3: None})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 3]
        with pytest.raises(CheckpointError, match=r"no step in .* was validated \(2, 3\)"):
            checkpoints.restore(make_state(0), "best")


def test_a_damaged_latest_step_is_named_and_the_older_used(tmp_path, caplog):
    """`faults/test_checkpoint_damage.py` has all that can happen to files."""
    save_steps(tmp_path, {10: 1.0, 20: 2.0})
    flip_bit_in_arrays(tmp_path / "20")
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(make_state(0))
        assert restored.step == 10
        assert_same_bits(restored.state, make_state(10))
        (warning,) = caplog.messages
        assert warning.startswith(f"checkpoint step 20 in {tmp_path} is damaged (")
        # The run goes on from 10, and its own step 15 replaces the damaged 20.
        checkpoints.save(15, make_state(15), {}, 3.0)
        assert checkpoints.steps() == [10, 15]


def test_a_damaged_best_step_is_an_error(tmp_path):
    save_steps(tmp_path, {20: 1.0, 30: 2.0})
    flip_bit_in_arrays(tmp_path / "20")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=r"step 20 in .* is damaged.*delete its folder"):
            checkpoints.restore(make_state(0), "best")
        assert checkpoints.restore(make_state(0)).step == 30
    shutil.rmtree(tmp_path / "20")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state(0), "best").step == 30


def test_arrays_that_orbax_finds_sound_are_held_against_their_digests(tmp_path, caplog):
    save_steps(tmp_path, {10: 1.0, 20: 2.0})
    shutil.rmtree(tmp_path / "20" / "state")
    shutil.copytree(tmp_path / "10" / "state", tmp_path / "20" / "state")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state(0)).step == 10
    assert "is damaged (.step differs from its digest)" in caplog.text


def test_a_damaged_step_is_one_line_of_log(tmp_path, capfd):
    save_steps(tmp_path, {10: 1.0, 20: 2.0})
    truncate_arrays(tmp_path / "20")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(make_state(0))
    assert capfd.readouterr() == ("", "")  # Orbax and TensorStore add nothing to what is logged


def test_a_missing_folder_is_an_error_and_stays_missing(tmp_path):
    with (
        Checkpoints(tmp_path / "typo") as checkpoints,
        pytest.raises(CheckpointError, match="typo holds no checkpoint"),
    ):
        checkpoints.record()
    assert not (tmp_path / "typo").exists()


def test_another_model_is_an_error_not_a_damage(tmp_path):
    save_steps(tmp_path, {1: None, 2: None})
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=r"bfloat16\[16\] where bfloat16\[4\] is"):
            checkpoints.restore(make_state(0, width=4))
        with pytest.raises(CheckpointError, match=r"ema.* where nothing is asked for"):
            checkpoints.restore(make_state(0).replace(ema=None))


def test_a_new_run_does_not_touch_the_steps_of_another(tmp_path):
    save_steps(tmp_path, {100: 1.0})
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match="already holds step 100 of another run"):
            checkpoints.save(1, make_state(1), {}, None)
        assert checkpoints.restore(make_state(0)).step == 100


def test_a_step_saved_twice_is_replaced(tmp_path):
    save_steps(tmp_path, {1: 3.0, 2: 2.0})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(make_state(0))
        checkpoints.save(2, make_state(5), {"again": True}, 2.0)
        assert checkpoints.record() == {"again": True}
        assert_same_bits(checkpoints.restore(make_state(0)).state, make_state(5))


def test_a_save_cut_short_is_not_a_step(tmp_path):
    save_steps(tmp_path, {1: 3.0, 2: 2.0})
    (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state(0)).step == 1
        checkpoints.save(2, make_state(2), {}, 2.0)
        assert checkpoints.restore(make_state(0)).step == 2


def test_saving_is_silent(tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG, logger="absl")
    save_steps(tmp_path, {1: None, 2: 1.0})
    assert capfd.readouterr() == ("", "")
    assert [entry for entry in caplog.records if entry.name == "absl"] == []


def test_processes_that_see_different_folders_are_refused(tmp_path, monkeypatch):
    """Before one resumes and another begins, each waiting for the other elsewhere."""
    with Checkpoints(tmp_path / "kept") as checkpoints:
        assert not checkpoints.exist()
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(
            multihost_utils, "process_allgather", lambda step: np.array([step, 12])
        )
        with pytest.raises(CheckpointError, match=r"different steps in .* \(\[-1, 12\]\)"):
            checkpoints.exist()
