"""The one exception for bad input: its text is the single line that the user reads."""


class RobustError(Exception):
    """Input that cannot be used. The message says what is wrong and what to do about it."""
