"""Ways in which training ends early, each with one sentence for the person who started it."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why, and what to do."""


class Stopped(Exception):  # noqa: N818  (no error: what was asked for has been done)
    """SIGTERM came, the state was saved, and the same command goes on from there."""
