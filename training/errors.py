"""The error that a person must act on. Knows nothing else."""


class InputError(Exception):
    """Something a person must change before the command can work: one clear line, exit code 2."""
