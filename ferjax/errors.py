"""The exception for mistakes that a user can correct."""

LONGEST = 290
"""Most characters of a message."""


class UserError(Exception):
    """A mistake in the input, the config or the workdir; `main` prints its line and exits 1."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Returns a text as one line of at most `LONGEST` characters: cells of a file may be any."""
    line = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 100]} ... {line[-95:]}"
