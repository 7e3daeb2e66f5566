"""The one exception for what a user can cause and mend."""


class UserError(Exception):
    """A mistake in the input, the config or the workdir; `main` prints its one line and exits 1."""
