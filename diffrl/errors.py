"""What a user can mend."""


class UserError(Exception):
    """Something that the user can mend. The message says what was wrong and what to do; programs end with it, and code 2."""
