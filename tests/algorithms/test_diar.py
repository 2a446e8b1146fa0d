"""DIAR and LDCQ: their values in closed form, what a stage reads, how skills are drawn, reconsidered and carried out."""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import chosen, make_dataset, quick, quick_compilation, runs_of, train_stages, trees_equal

from diffrl.algorithms import diar
from diffrl.data.dataset import Dataset
from diffrl.diffusion.objectives import min_snr
from diffrl.diffusion.samplers import ancestral, ddim, polished, sample
from diffrl.diffusion.schedules import TableVP, grid, level_at
from diffrl.diffusion.targets import as_model
from diffrl.learner import forward
from diffrl.networks.ensembles import Value
from diffrl.objectives.candidates import backup
from diffrl.objectives.implicit_q import value_loss
from diffrl.objectives.value import expectile_loss
from diffrl.types import Spec, Transition

SMALL: dict[str, Any] = {
    "horizon": 3,
    "latent_dim": 2,
    "encoder_hidden_dims": (),
    "vae_hidden_dims": (16,),
    "behavior_hidden_dims": (16,),
    "critic_hidden_dims": (16,),
    "latent_hidden_dims": (16,),
    "num_denoising_steps": 3,
    "num_polish_steps": 1,
    "num_latents": 4,
    "batch_size": 8,
    "act": diar.Act(num_candidates=4, execution_steps=2),
}
SPEC = Spec.plain(3, 1)
# V of N(0, 1): the expectile τ.
EXPECTILES = {0.5: 0.0, 0.7: 0.3371, 0.8: 0.5492, 0.9: 0.8616, 0.95: 1.1402, 0.99: 1.7174}


def made(form: Any = "diar", **changes: Any) -> Any:
    return diar.make(configured(form, **changes), SPEC)


def configured(form: Any = "diar", **changes: Any) -> diar.Config:
    config = dataclasses.replace(diar.Config(**SMALL, form=form), **changes)
    return config if form == "diar" else dataclasses.replace(config, act=dataclasses.replace(config.act, reconsider="never"))


def never(**changes: Any) -> diar.Act:
    return dataclasses.replace(SMALL["act"], **changes)


# ------------------------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize(("expectile", "expected"), EXPECTILES.items())
def test_v_is_the_expectile_of_q(expectile: float, expected: float) -> None:
    """Of Q = z_1, z ~ N(0, I): the loss of V is least at V = μ + c_τ σ."""
    q = jnp.asarray(np.random.default_rng(0).normal(size=(64, 4096)), jnp.float32)
    network, observation = Value((4,)), jnp.zeros((4096, 1))
    params = jax.tree.map(jnp.zeros_like, network.init(jax.random.key(0), observation)["params"])

    def loss(v: jax.Array) -> jax.Array:
        params["MLP_0"]["Linear_1"]["bias"] = v[None]  # the only one that reaches a zero network's output
        return value_loss(params, network, observation, q, partial(expectile_loss, expectile=expectile))[0]

    slope, curvature = quick(jax.grad(loss))(jnp.float32(expected)), quick(jax.grad(jax.grad(loss)))(jnp.float32(expected))
    assert abs(float(slope / curvature)) < 0.01  # a Newton step from there


@pytest.mark.parametrize(("count", "expected"), [(10, 1.54), (100, 2.51), (500, 3.04)])
def test_ldcq_values_the_best_of_many(count: int, expected: float) -> None:
    """Standard deviations above the mean that the maximum of so many normal numbers is: far above any expectile."""
    q = jnp.asarray(np.random.default_rng(0).normal(size=(1, count, 20_000)), jnp.float32)
    assert float(jnp.mean(quick(backup)(q))) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("steps", "left", "clipped"), [(100, 0.603, 0.42), (200, 0.364, 0.295), (500, 0.080, 0.186), (1000, 0.006, 0.13)]
)
def test_the_noise_of_few_steps(steps: int, left: float, clipped: float) -> None:
    """√ᾱ_T, the data that are left at the end, and the share of levels whose weight is 5."""
    schedule = TableVP.linear(steps)
    assert float(schedule.alpha(jnp.float32(1.0))) == pytest.approx(left, abs=6e-4)
    weight = min_snr(schedule, 5.0)(jnp.arange(1, steps + 1) / steps)
    assert float(jnp.mean(weight == 5.0)) == pytest.approx(clipped, abs=0.006)


@pytest.mark.parametrize("steps", [100, 1000])
def test_skills_of_an_exact_model(steps: int) -> None:
    """N(1, ½²) as the flow from N(0, 1) has it: a mean of 1 - √ᾱ_T k and a deviation of k, k = s/√(s² ᾱ_T + 1 - ᾱ_T). With T of
    100 the mean is missed by a third, which is the code's property; polishing leaves both as they are.
    """
    schedule, (m, s) = TableVP.linear(steps), (1.0, 0.5)

    def predict(z: jax.Array, t: jax.Array) -> jax.Array:
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        return (s**2 * alpha * z + sigma**2 * m) / (s**2 * alpha**2 + sigma**2)

    levels, lowest = grid(schedule, 100, table=steps), level_at(schedule, jnp.float32(1.0 / steps))
    noise = jax.random.normal(jax.random.key(0), (20_000, 1))
    alpha = float(schedule.alpha(jnp.float32(1.0)))
    k = s / np.sqrt(s**2 * alpha**2 + 1.0 - alpha**2)

    def drawn(solver: Any) -> np.ndarray:
        draw = quick(lambda x: sample(as_model(predict, schedule, "x0"), levels, solver, jax.random.key(1), x))
        return np.asarray(draw(noise))

    found = drawn(polished(ddim(), lowest, 5))
    assert found.mean() == pytest.approx(1.0 - alpha * k, abs=0.02)
    assert found.std() == pytest.approx(k, abs=0.02)
    if steps == 100:  # all levels, as LDCQ walks them: fresh noise forgets the start somewhat
        assert 1.0 - alpha * k < drawn(polished(ancestral("forward"), lowest, 5)).mean() < 0.95


def test_a_polish_denoises_again_at_its_level() -> None:
    """With a model that halves, every one halves the result."""
    schedule = TableVP.linear(10)
    model, levels = as_model(lambda x, t: 0.5 * x, schedule, "x0"), grid(schedule, 3)
    found = [
        sample(model, levels, polished(ddim(), level_at(schedule, jnp.float32(0.1)), count), jax.random.key(0), jnp.ones((2, 1)))
        for count in (0, 3)
    ]
    np.testing.assert_allclose(found[1], found[0] / 8.0, rtol=1e-6)


def corridor() -> Transition:
    """Every state 0 … 9 with every move +1, -1, 0, as windows of one step; one-hot; 1 for state 10, which is terminal."""
    state, move = (x.ravel() for x in np.meshgrid(np.arange(10), [1, -1, 0]))
    after = np.clip(state + move, 0, 10)
    eye, there, nothing = jnp.eye(11), jnp.asarray(after == 10), jnp.zeros(30, bool)
    rows = Transition(eye[state], jnp.zeros((30, 1)), there.astype(jnp.float32), eye[after], there, nothing)
    names = ("reward", "next_observation", "terminal")
    extras = {f"window_{name}": getattr(rows, name)[:, None] for name in names} | {"window_mask": ~nothing[:, None]}
    moves = {"skill": jnp.asarray(move[:, None], jnp.float32), "latents": jnp.tile(jnp.array([1.0, -1.0, 0.0]), (30, 1))}
    return dataclasses.replace(rows, extras=extras | moves)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "expectile"), [("diar", 0.99), ("diar", 0.9), ("ldcq", 0.9)])
def test_values_of_a_corridor(form: Any, expectile: float) -> None:
    """Q(i, +1) = .9^(9 - i), LDCQ's by its maximum, DIAR's as τ goes to 1; τ = .9 is below, of the same best moves."""
    config = configured(
        form,
        horizon=1,
        latent_dim=1,
        num_latents=3,
        critic_hidden_dims=(64,),
        discount=0.9,
        tau=0.05,
        critic_learning_rate=3e-3,
        priority=0.0,
        expectile=expectile,
        act=never(execution_steps=1),
    )
    algorithm, batch = diar.make(config, Spec.plain(11, 1)), corridor()
    state = quick(algorithm.init)(jax.random.key(0), algorithm.hparams)
    update = algorithm.stages[2].update
    state, _ = quick(
        lambda state: jax.lax.scan(
            lambda state, key: update(state, batch, key), state, jax.random.split(jax.random.key(1), 3_000)
        )
    )(state)
    critics = diar.TowerCritics((64,), (16,))
    q = np.asarray(forward(critics, state.critic.params, batch.observation, batch.extras["skill"])).min(axis=0).reshape(3, 10)
    exact = 0.9 ** (9.0 - np.arange(10))
    np.testing.assert_array_equal(np.argmax(q, axis=0), np.zeros(10))
    if expectile == 0.99 or form == "ldcq":
        np.testing.assert_allclose(q[0], exact, atol=0.06)
    else:
        assert np.all(q[0, :8] < exact[:8] + 0.02)
        assert np.all(q[0, :5] < 0.9 * exact[:5])


# ------------------------------------------------------------------------------------------------------- what is left alone


def walk(rows: int = 12, episode: int = 6) -> Dataset:
    rng, row = np.random.default_rng(0), np.arange(rows)
    observation = rng.normal(size=(rows, 3))
    after = np.concatenate([observation[1:], rng.normal(size=(1, 3))])
    return make_dataset(
        observation, rng.uniform(-1, 1, (rows, 1)), rng.normal(size=rows), after, False, row % episode == episode - 1
    )


@cache
def critic_case() -> tuple[Any, Any, Transition]:
    algorithm = made()
    state = quick(algorithm.init)(jax.random.key(0), algorithm.hparams)
    stage, data, key = algorithm.stages[2], walk(), jax.random.key(1)
    columns = quick(stage.prepare)(state, data, key)
    assert columns["latents"].shape == (12, 4 * 2)
    return algorithm, state, stage.batch(dataclasses.replace(data, columns=columns), key, 8)


def test_the_losses_of_q_and_v_do_not_mix() -> None:
    """V follows the targets of Q, and Q those of V: neither step sees the other's network, and nothing else is touched."""
    algorithm, state, batch = critic_case()
    update = quick(algorithm.stages[2].update)
    after, metrics = update(state, batch, jax.random.key(2))
    for field in ("vae", "behavior", "behavior_constants"):
        assert trees_equal(getattr(after, field), getattr(state, field))

    def shaken(learner: Any) -> Any:
        return dataclasses.replace(learner, params=jax.tree.map(lambda x: x + 0.1, learner.params))

    other, _ = update(dataclasses.replace(state, critic=shaken(state.critic)), batch, jax.random.key(2))
    assert trees_equal(other.value, after.value)
    other, _ = update(dataclasses.replace(state, value=shaken(state.value)), batch, jax.random.key(2))
    assert trees_equal(other.critic, after.critic)
    _, told = update(dataclasses.replace(state, target_value_params=shaken(state.value).params), batch, jax.random.key(2))
    assert abs(float(told["critic/target"] - metrics["critic/target"])) > 0.01


def test_ldcq_has_no_v() -> None:
    algorithm = made("ldcq")
    state = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hparams)
    assert (state.value, state.target_value_params) == ((), ())


# ------------------------------------------------------------------------------------------------------------------ acting


def test_what_is_chosen_is_reconsidered() -> None:
    """Row 0 is content at once, row 1 at the second draw; rows 2 and 3 never, and take the best end of all."""
    ends = jnp.array([[1.0, -3.0, -3.0, -1.0], [9.0, 0.5, -2.0, -2.0], [9.0, 0.9, -1.0, -3.0]])
    calls = []

    def choose(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 3)

        def draw(one: jax.Array) -> tuple[jax.Array, jax.Array]:
            calls.append(0)
            which = jnp.argmax(jnp.all(jax.random.key_data(keys) == jax.random.key_data(one), axis=1))
            return jnp.full((4, 1), which, jnp.float32), ends[which]

        return diar.reconsidered(draw, jnp.array([0.0, 0.4, 0.4, 0.4]), 0.0, 3, key)

    np.testing.assert_array_equal(quick(choose)(jax.random.key(0))[:, 0], [0.0, 1.0, 2.0, 0.0])
    assert len(calls) == 3


@pytest.mark.parametrize("reconsider", chosen(["constrained", "resample", "never"], 1))
def test_skills_are_carried_out_in_a_closed_loop(reconsider: Any) -> None:
    """One skill for two steps, decoded in the state of each; then another one is chosen."""
    algorithm = made(act=never(reconsider=reconsider, num_attempts=2))
    state = quick(algorithm.init)(jax.random.key(0), algorithm.hparams)
    policy, step = algorithm.policy(state), quick(algorithm.act)
    vae = diar.SkillVAE(3, 1, (), (16,), 2)
    carry, skills = algorithm.init_carry(policy, 2), []
    for i in range(4):
        observation = jnp.full((2, 3), 0.3 * i)
        action, carry = step(policy, carry, observation, jax.random.key(i))
        skills.append(np.asarray(carry[1][:, 0]))
        expected = forward(vae, policy["vae"], observation, carry[1][:, 0], method="act")
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(skills[0], skills[1])
    np.testing.assert_array_equal(skills[2], skills[3])
    assert np.all(skills[0] != skills[2])


def test_impossible_settings_are_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"behavior_hidden_dims": ()}, r"behavior_hidden_dims = \(\) is a network without layers"),
        ({"num_denoising_steps": 4, "num_diffusion_steps": 3}, "num_denoising_steps = 4 is more than .* = 3"),
        ({"act": diar.Act(execution_steps=4)}, r"act\.execution_steps = 4 is more than horizon = 3"),
        ({"form": "ldcq"}, "set it to 'never'"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            diar.make(diar.Config(**SMALL | changes), SPEC)


# ------------------------------------------------------------------------------------------------------------------ learnt

LENGTH, STEP = 20, 0.1


def wanderers(episodes: int = 300) -> tuple[Dataset, float]:
    """A line [-1, 1] along which four steps at a time go either way; 1 beyond 0.9, where it ends. And how many come there."""
    rng, columns, reached = np.random.default_rng(0), [], 0
    for _ in range(episodes):
        x, way = rng.uniform(-1.0, 0.5), 0.0
        for t in range(LENGTH):
            way = rng.choice([-1.0, 1.0]) if t % 4 == 0 else way
            action = np.clip(0.8 * way + 0.1 * rng.normal(), -1.0, 1.0)
            after = np.clip(x + STEP * action, -1.0, 1.0)
            there = after > 0.9
            columns.append((x, action, there, after, there, t == LENGTH - 1 and not there))
            x, reached = after, reached + there
            if there:
                break
    x, action, reward, after, terminal, timeout = np.array(columns).T
    return make_dataset(x[:, None], action[:, None], reward, after[:, None], terminal > 0, timeout > 0), reached / episodes


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", ["diar", "ldcq"])
def test_it_arrives_where_wanderers_seldom_do(form: Any) -> None:
    """From chunks that go both ways alike it chains those that go right: 49 % arrive, where 11 % of the data do."""
    data, behavior = wanderers()
    assert behavior < 0.15
    config = dataclasses.replace(
        configured(form),
        horizon=4,
        vae_learning_rate=3e-3,
        behavior_learning_rate=3e-3,
        critic_learning_rate=1e-3,
        discount=0.95,
        tau=0.02,
        num_diffusion_steps=200,
        vae_hidden_dims=(32, 32),
        behavior_hidden_dims=(32, 16),
        critic_hidden_dims=(32, 32),
        num_latents=16,
        batch_size=128,
        vae_updates=1_500,
        behavior_updates=1_500,
        critic_updates=3_000,
        act=diar.Act(num_candidates=32, execution_steps=4, reconsider="never" if form == "ldcq" else "constrained"),
    )
    algorithm = diar.make(config, Spec.plain(1, 1))
    with quick_compilation():
        policy = jax.tree.map(lambda x: x[0], algorithm.policy(train_stages(algorithm, runs_of(config), data)))

    def episode(x: jax.Array) -> jax.Array:
        def step(held: Any, key: jax.Array) -> tuple[Any, None]:
            x, there, carry = held
            action, carry = algorithm.act(policy, carry, x, key)
            x = jnp.clip(x + STEP * jnp.clip(action, -1.0, 1.0), -1.0, 1.0)
            return (x, there | (x[:, 0] > 0.9), carry), None

        begin = x, jnp.zeros(len(x), bool), algorithm.init_carry(policy, len(x))
        return jax.lax.scan(step, begin, jax.random.split(jax.random.key(3), LENGTH))[0][1]

    start = jnp.asarray(np.random.default_rng(1).uniform(-1.0, 0.5, (200, 1)), jnp.float32)
    # Steps are of 0.08: of these, 80 % could arrive.
    assert float(jnp.mean(quick(episode)(start))) > 0.4
