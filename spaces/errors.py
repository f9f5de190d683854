"""What a person is told in one line: bad input, and a run that could not go on."""


class InputError(ValueError):
    """Bad input: one line that names the file, row or key, the value, and what was expected.

    The command line prints the line and exits with status 2; nothing has been written or replaced by then.
    """


class RunFailed(RuntimeError):
    """A run could not go on through no fault of the input; the command line prints the line and exits with status 1."""
