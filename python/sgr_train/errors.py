"""The one exception that is the user's to mend."""


class UsageError(Exception):
    """Bad input; the message is one line that names what to change."""
