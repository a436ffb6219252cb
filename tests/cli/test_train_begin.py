"""The parameters that a run begins with have the shapes of its codec, or the misfit is named."""

import jax.numpy as jnp
import orbax.checkpoint as orbax
import pytest

from jaxcomp.base import JaxcompError
from jaxcomp.cli.train_begin import averaged
from jaxcomp.codecs.training import State


def test_averages_of_another_version_are_refused(tmp_path):
    def params(channels, value):
        return {"analysis": {"kernel": jnp.full((2, channels), value)}, "gain": jnp.zeros(3)}

    state = State(jnp.zeros((), jnp.int32), params(4, 1.0), params(4, 2.0), (jnp.zeros(2),))
    with orbax.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(7, args=orbax.args.StandardSave(state))
    found = averaged(tmp_path, params(4, 0.0))
    assert (found["analysis"]["kernel"] == 2.0).all() and found["gain"].shape == (3,)
    with pytest.raises(JaxcompError, match=r"analysis.kernel to be \(2, 5\), got \(2, 4\)"):
        averaged(tmp_path, params(5, 0.0))
    with pytest.raises(JaxcompError, match=r"side to be \(1,\), got None"):
        averaged(tmp_path, {**params(4, 0.0), "side": jnp.zeros(1)})
