"""missing_extra: the one error for a package that is not installed."""


def missing_extra(user: str, package: str, *extras: str) -> ImportError:
    """Returns an error with the command that installs what `user` needs.

    Example:

    >>> print(missing_extra("`plot`", "matplotlib", "plot"))
    `plot` needs matplotlib. Install it: `pip install "codeq-keras[plot]"`.
    """
    commands = [f'`pip install "codeq-keras[{extra}]"`' for extra in extras]
    return ImportError(
        f"{user} needs {package}. Install it: {' or '.join(commands)}."
    )
