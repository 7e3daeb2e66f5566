"""The exception for mistakes that a user can correct."""


class UserError(Exception):
    """A mistake in the input, the config or the workdir; `main` prints its line and exits 1."""
