"""The targets of an export: each file here registers its own.

A target with several files is a folder, and registers in its `target.py`.
"""

import importlib
import pkgutil

# The order in errors; others follow.
_FIRST = ("litert", "litert_sparse", "tflm", "edgetpu", "ethos_u")

_folders = {found.name: found.ispkg for found in pkgutil.iter_modules(__path__)}
for _name in (*_FIRST, *_folders):
    _file = f"{_name}.target" if _folders[_name] else _name
    importlib.import_module(f"{__name__}.{_file}")
