"""The one kind of error that is the user's to mend."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is the one line they read: it names the thing, its value, the law it breaks and the remedy.
    A verb prints it without a traceback and exits with code 2; any other exception is a bug of ours.
    """
