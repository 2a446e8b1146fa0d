"""diffrl: offline and off-policy reinforcement learning with diffusion models, many runs in one program.

Importing this package imports no simulator, no dataset library and no accelerator runtime: import what you use from its rooms.
"""

__version__ = "0.1.0"
