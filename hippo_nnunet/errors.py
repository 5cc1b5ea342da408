"""The exceptions that a user may meet.

Each message is one line: what failed, where (file, case, name), got and expected, and what to do next.
The command line turns them into exit code 1; everything else that escapes is a bug of ours.
"""


class HippoError(Exception):
    """Base of every error that is addressed to the user."""

    def __str__(self) -> str:
        """Return the message on one line, without what a terminal would obey, whatever a file's name or content is."""
        return "".join(letter if letter.isprintable() else " " for letter in super().__str__())


class ConfigError(HippoError):
    """A name, option, environment variable or configuration file that cannot be right."""


class DataError(HippoError):
    """An image, label, dataset folder, prediction or archive that cannot be right."""


class DependencyError(HippoError):
    """A missing package, compiler, device or disk space; the message holds the exact remedy."""


class UpstreamError(HippoError):
    """nnU-Net did something that its tested version does not do."""
