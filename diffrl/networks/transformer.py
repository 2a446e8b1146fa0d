"""A small transformer over sequences of tokens, and the denoiser of action windows that BESO builds of it."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import normal
from jaxtyping import Bool, Float

INIT = normal(0.02)  # of all weights and of the table of positions


class Transformer(nn.Module):
    """Pre-LayerNorm blocks of self-attention and a four times wider GELU layer, each added to its input (GPT-2).

    Attributes:
        num_layers, num_heads: heads divide the tokens' width.
        attention_dropout, residual_dropout: rates while training.
    """

    num_layers: int
    num_heads: int
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "batch length width"], visible: Bool[Array, "#batch length length"], train: bool = False
    ) -> Float[Array, "batch length width"]:
        """Tokens after the blocks and a last LayerNorm; token i looks at token j where `visible[..., i, j]`."""
        width = tokens.shape[-1]
        for _ in range(self.num_layers):
            y = nn.LayerNorm(epsilon=1e-5)(tokens)
            y = nn.MultiHeadDotProductAttention(
                self.num_heads,
                kernel_init=INIT,
                dropout_rate=self.attention_dropout,
                broadcast_dropout=False,
                deterministic=not train,
            )(y, mask=visible[:, None])
            tokens = tokens + nn.Dropout(self.residual_dropout, deterministic=not train)(y)
            y = nn.Dense(4 * width, kernel_init=INIT)(nn.LayerNorm(epsilon=1e-5)(tokens))
            y = nn.Dense(width, kernel_init=INIT)(nn.gelu(y, approximate=False))
            tokens = tokens + nn.Dropout(self.residual_dropout, deterministic=not train)(y)
        return nn.LayerNorm(epsilon=1e-5)(tokens)


class WindowDenoiser(nn.Module):
    """F(c_in x, log(σ)/4; states, goal) of a window of noisy actions: BESO's transformer (Reuss et al. 2023, their code).

    The tokens are noise level, goal, s_1, a_1, …, s_W, a_W, and each looks at those before it; what is said of an action is read
    at its token. State and action of a step share a position. A window that is not yet full begins with steps that are masked:
    nobody looks at them, and positions count from the first that is there.

    Attributes:
        width: of tokens.
        num_layers, num_heads, attention_dropout, residual_dropout: see `Transformer`.
    """

    action_dim: int
    width: int = 240
    num_layers: int = 4
    num_heads: int = 12
    attention_dropout: float = 0.05
    residual_dropout: float = 0.05

    @nn.compact
    def __call__(
        self,
        noised: Float[Array, "batch window action"],
        log_level: Float[Array, "batch"],
        states: Float[Array, "batch window state"],
        goal: Float[Array, "batch goal"],
        known: Bool[Array, "batch window"],
        train: bool = False,
    ) -> Float[Array, "batch window action"]:
        """`goal` may have no numbers, and its token is then left out; `known` is False of steps before the window's first."""
        batch, window, _ = noised.shape
        has_goal = goal.shape[-1] > 0

        def embed(name: str) -> nn.Dense:
            return nn.Dense(self.width, kernel_init=INIT, name=name)

        embed_state = embed("state")
        step = jnp.cumsum(known, axis=1) - 1 + has_goal
        positions = jnp.asarray(self.param("positions", INIT, (window + has_goal, self.width)))
        at_step = positions[jnp.maximum(step, 0)]
        pairs = jnp.stack([embed_state(states) + at_step, embed("action")(noised) + at_step], axis=2)
        tokens = [embed("level")(log_level[:, None])[:, None]]
        if has_goal:
            same = goal.shape[-1] == states.shape[-1]  # then a goal is a state, and one layer tells of both
            tokens.append(((embed_state if same else embed("goal"))(goal) + positions[0])[:, None])
        tokens.append(pairs.reshape(batch, 2 * window, self.width))
        there = jnp.concatenate([jnp.ones((batch, 1 + has_goal), bool), jnp.repeat(known, 2, axis=1)], axis=1)
        length = there.shape[1]
        visible = jnp.tril(jnp.ones((length, length), bool))[None] & there[:, None, :]
        visible = visible | jnp.eye(length, dtype=bool)[None]  # a masked token sees itself: a softmax over nothing is no number
        trunk = Transformer(self.num_layers, self.num_heads, self.attention_dropout, self.residual_dropout)
        out = trunk(jnp.concatenate(tokens, axis=1), visible, train)
        return nn.Dense(self.action_dim, kernel_init=INIT, name="out")(out[:, 1 + has_goal :][:, 1::2])
