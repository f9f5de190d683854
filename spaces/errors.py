"""The one error that a person's input can cause."""


class InputError(ValueError):
    """Bad input: one line that names the file, row or key, the value, and what was expected.

    The command line prints the line and exits with status 2; nothing has been written or replaced by then.
    """
