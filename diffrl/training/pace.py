"""How much is dispatched at a time: little enough that a signal is answered within seconds, whatever the method costs."""

import math

import jax

SECONDS = 2.5  # of a dispatch; two are under way when a signal comes, and a scheduler's grace is as short as 10
# Arithmetic of a device, from below, until there is a measurement: of a core, and of an accelerator.
FLOPS = {"cpu": 2e10}
OTHERS = 1e13


class Pace:
    """Turns to dispatch at a time: a divisor of a chunk's, so that chunks end where they would.

    States do not depend on it, for updates are counted; metrics of a chunk in several pieces are equal to rounding.
    """

    def __init__(self, per_chunk: int, any_length: bool = False) -> None:
        """Start with a whole chunk; with one turn where any number of turns is the same program."""
        self.per_chunk, self.any_length = per_chunk, any_length
        self.turns = 1 if any_length else per_chunk

    def expect(self, flops_per_turn: float) -> None:
        """Cut to what a device does in SECONDS, if a turn is so much arithmetic."""
        rate = FLOPS.get(jax.local_devices()[0].platform, OTHERS)
        if flops_per_turn > 0:
            self.turns = min(self.turns, self._divisor(SECONDS * rate / flops_per_turn))

    def measured(self, turns: int, seconds: float) -> None:
        """Learn what a dispatch took. Another length is another program to compile, so only what is far too long is cut."""
        # Several hosts must go on with the same numbers.
        if seconds > 0 and jax.process_count() == 1 and (self.any_length or seconds > 2 * SECONDS):
            self.turns = self._divisor(turns * SECONDS / seconds)

    def _divisor(self, most: float) -> int:
        small = [turns for turns in range(1, math.isqrt(self.per_chunk) + 1) if self.per_chunk % turns == 0]
        # A loop of one pass is compiled as none, and rounds otherwise.
        divisors = sorted({*small, *(self.per_chunk // turns for turns in small)} - (set() if self.any_length else {1})) or [1]
        return max((turns for turns in divisors if turns <= most), default=divisors[0])
