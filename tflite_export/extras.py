"""The one error about packages that an extra installs."""

import importlib.util

# Every function on a `.tflite` file needs these.
FILE_MODULES = ("numpy", "flatbuffers", "ai_edge_litert", "zstandard")
# Every function on a model needs these as well.
MODEL_MODULES = (*FILE_MODULES, "keras", "tensorflow")


def require_extra(*modules: str, extra: str, needed_for: str) -> None:
    """Raises an `ImportError` with the remedy unless all modules are installed.

    Example:

    >>> require_extra("json", extra="export", needed_for="`inspect`")
    >>> require_extra("no_module", extra="export", needed_for="`inspect`")
    Traceback (most recent call last):
    ...
    ImportError: `inspect` needs the extra `export`. Received: no package \
`no_module`. Install it with `pip install "codeq-keras[export]"`.
    """
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        names = ", ".join(f"`{module}`" for module in missing)
        raise ImportError(
            f"{needed_for} needs the extra `{extra}`. Received: no package "
            f"{names}. Install it with "
            f'`pip install "codeq-keras[{extra}]"`.'
        )


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # The package around it is missing.
        return False
