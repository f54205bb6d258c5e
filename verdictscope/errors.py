"""The error a user can cause and repair."""


class InputError(ValueError):
    """Something given to verdictscope is wrong.

    The message is one line that says what is wrong and what to do; the command line prints it and exits with 2.
    """
