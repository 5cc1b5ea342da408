"""The exceptions that are addressed to users.

Each message is one line: what failed, where (file, case, name), got and expected, and what to do next.
The command line turns them into exit code 1; any other exception is a bug.
"""


class HippoError(Exception):
    """Base of every error that is addressed to the user."""

    def __str__(self) -> str:
        """Return the message on one line, without what a terminal would obey, whatever a file's name or content is.

        Surrogates (bytes of a name that are not UTF-8) are kept; `errors="backslashreplace"` shows them.
        """
        text = super().__str__()
        return "".join(letter if letter.isprintable() or "\ud800" <= letter <= "\udfff" else " " for letter in text)


class ConfigError(HippoError):
    """An invalid name, option, environment variable or configuration file."""


class DataError(HippoError):
    """An invalid image, label, dataset folder, prediction or archive."""


class DependencyError(HippoError):
    """A missing package, compiler, device or disk space; the message names the exact remedy."""


class TrainingError(HippoError):
    """A training that cannot go on."""


class UpstreamError(HippoError):
    """nnU-Net behaves differently from the tested version."""
