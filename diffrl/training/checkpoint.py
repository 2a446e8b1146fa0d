"""Checkpoints: items `state`, `policy` and `metadata` per step, asynchronous and atomic. The only file that imports orbax."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from diffrl.types import Policy, State


class CheckpointError(RuntimeError):
    """A checkpoint is missing or cannot be read; the message names it and says what to do."""


class Checkpoints:
    """The checkpoints of one workdir.

    A step appears under its final name only once it is whole: a process killed inside a save leaves a temporary folder
    that no reader takes for a checkpoint and the next writer removes.
    """

    def __init__(self, workdir: Path, *, write: bool = False, max_to_keep: int = 0) -> None:
        """Open for reading, or with `write` for saving as well.

        Args:
            workdir: the training directory; checkpoints lie in its folder `checkpoints`.
            max_to_keep: number of latest steps kept when writing; 0 keeps all.

        Raises:
            CheckpointError: opened for reading where nothing was saved.
        """
        self.path = Path(workdir).absolute() / "checkpoints"
        if not write and not self.path.is_dir():
            raise CheckpointError(f"{workdir} has no checkpoints yet")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep or None,
            create=write,
            cleanup_tmp_directories=write,
            read_only=not write,
            enable_async_checkpointing=write,
        )
        self._manager = ocp.CheckpointManager(self.path, item_names=("state", "policy", "metadata"), options=options)

    def steps(self) -> list[int]:
        """Saved steps, ascending."""
        return sorted(self._manager.all_steps())

    def reload(self) -> None:
        """Notice steps that another process saved or removed."""
        self._manager.reload()

    def save(self, step: int, state: State, policy: Policy, metadata: dict[str, Any]) -> None:
        """Start saving; returns when the arrays are copied. They must not be donated before: pass a snapshot."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),  # pyright: ignore[reportCallIssue]
                policy=ocp.args.StandardSave(policy),  # pyright: ignore[reportCallIssue]
                metadata=ocp.args.JsonSave(metadata),  # pyright: ignore[reportCallIssue]
            ),
        )

    def restore_state(self, step: int, abstract: State) -> State:
        """The state of all runs, in the structure, shapes and dtypes of `abstract` (from `jax.eval_shape`)."""
        return self._restore(step, "state", ocp.args.StandardRestore(abstract))  # pyright: ignore[reportCallIssue]

    def restore_policy(self, step: int, abstract: Policy) -> Policy:
        """The policy of all runs; optimisers and critics are not read."""
        return self._restore(step, "policy", ocp.args.StandardRestore(abstract))  # pyright: ignore[reportCallIssue]

    def metadata(self, step: int) -> dict[str, Any]:
        """What was said of a step when it was saved."""
        return self._restore(step, "metadata", ocp.args.JsonRestore())  # pyright: ignore[reportCallIssue]

    def close(self) -> None:
        """Wait for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _restore(self, step: int, item: str, args: Any) -> Any:
        if step not in self._manager.all_steps():
            steps = ", ".join(map(str, self.steps())) or "none"
            raise CheckpointError(f"{self.path} has no checkpoint of step {step}; there are: {steps}")
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
        except Exception as error:  # orbax, tensorstore and the file system each raise their own kinds
            raise CheckpointError(f"checkpoint {self.path / str(step)} cannot be read ({item}): {error}") from error
