"""The exceptions that are addressed to users.

Each message is one line: what failed, where (file, case, name), got and expected, and what to do next.
The command line turns them into exit code 1; any other exception is a bug.
"""


def printable(text: str, keep: str = "") -> str:
    """Replace each character that a terminal would obey, such as ESC or a change of the writing direction, by a space.

    Surrogates (bytes of a name that are not UTF-8) are kept; `errors="backslashreplace"` shows them.

    Args:
        text: Any text.
        keep: Control characters to keep.
    """
    return "".join(c if c.isprintable() or c in keep or "\ud800" <= c <= "\udfff" else " " for c in text)


def one_line(error: BaseException, most: int = 200) -> str:
    """Return an error's message on one line, or its type if it has none, for a message that quotes it.

    Args:
        error: The error.
        most: Characters after which the message is cut off.
    """
    return " ".join(str(error).split())[:most] or type(error).__name__


class HippoError(Exception):
    """Base of every error that is addressed to the user."""

    def __str__(self) -> str:
        """Return the message on one line, without what a terminal would obey, whatever a file's name or content is."""
        return printable(super().__str__())


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
