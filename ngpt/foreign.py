"""An optimizer class that the user names: where it comes from, what of it is part of a run's identity. No torch.

`--optimizer package.module:Class` is imported; `--optimizer path/file.py:Class` is read once, and what was read is what
runs and what the identity states.
"""

import ast
import functools
import hashlib
import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ngpt.code import ROOT, plain_code
from ngpt.errors import InputError, require

CLASS = re.compile(r"(?P<where>[^:]+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")
"""`package.module:Class` or `path/file.py:Class`"""

read_literal = ast.literal_eval

ARGUMENT = re.compile(r"(?P<key>(group\.)?[A-Za-z_]\w*)=(?P<value>\S+)")
"""`key=value`, where the value has no space in it"""


def is_class(optimizer: str) -> bool:
    """Return whether --optimizer names a class rather than an optimizer of the registry."""
    return CLASS.fullmatch(optimizer) is not None


@dataclass(frozen=True)
class Origin:
    """The place that a class comes from, and what stands for it in an identity."""

    name: str
    """name of the class"""
    identity: str
    """what stands for it in the identity of a run: package, version and place, or a digest of its files"""
    text: str
    """the same for people"""
    files: tuple[Path, ...] = ()
    """the file that holds it, the rest of its package, and what these import from beside it, if it was named by path"""
    module: str = ""
    """name under which it is imported; empty: a file that is in no package"""


@functools.cache
def origin_of(optimizer: str) -> Origin:
    """Return where a class came from when first asked, without importing it. Raises InputError if it is not there."""
    return _origin(optimizer)


def _origin(optimizer: str) -> Origin:
    found = CLASS.fullmatch(optimizer)
    assert found is not None
    where, name = found["where"], found["name"]
    if where.endswith(".py"):
        path = Path(where)
        require(path.is_file(), f"--optimizer {optimizer}: no such file: {path}")
        module, folder = _package_of(path.resolve())
        if folder != ROOT.parent or not module.startswith("ngpt."):
            files = tuple(_with_imports(path.resolve(), optimizer))
            digest = hashlib.sha256()
            for number, file in enumerate(files):  # by the names of the others they are imported
                place = file.relative_to(folder).as_posix() if number else ""
                digest.update(f"{place}\n{plain_code(_content(file))}\n".encode())
            text = f"{where}, SHA-256 {digest.hexdigest()[:16]}"
            return Origin(name, f"{name} {digest.hexdigest()}", text, files, module)
        where = module
    package, _, _ = where.partition(".")
    if package == "ngpt":  # like the optimizers of the registry: the code of the run is stated for all of them
        return Origin(name, f"{where}:{name}", f"{where}:{name}", module=where)
    version = _version(package)
    if version is None:
        there = package in sys.modules or importlib.util.find_spec(package) is not None
        require(there, f"--optimizer {optimizer}: no package {package} is installed")
        why = f"--optimizer {optimizer}: {package} is not an installed package with a version"
        raise InputError(f"{why}; name the file: path/file.py:{name}")
    return Origin(name, f"{where}:{name} {version}", f"{where}:{name} of {package} {version}", module=where)


def _package_of(file: Path) -> tuple[str, Path]:
    """Return a file's name as a module of the package it is in, empty if in none, and the folder that Python needs."""
    names, folder = [file.stem] * (file.stem != "__init__"), file.parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names, folder = [folder.name, *names], folder.parent
    return ".".join(names) if folder != file.parent else "", folder


def _version(package: str) -> str | None:
    """Return the version of the distribution that holds a top-level package.

    None if there is none, or if it is installed as editable: its code changes and its version does not.
    """
    try:
        found = [importlib.metadata.distribution(package)]
    except importlib.metadata.PackageNotFoundError:
        names = importlib.metadata.packages_distributions().get(package, [])
        found = [importlib.metadata.distribution(name) for name in sorted(set(names))]
    if any('"editable": true' in (one.read_text("direct_url.json") or "") for one in found):
        return None
    return " ".join(f"{one.metadata['Name']} {one.version}" for one in found) or None


_contents: dict[Path, bytes] = {}
"""Files as they were when first read"""


def _content(file: Path) -> bytes:
    if file not in _contents:
        _contents[file] = file.read_bytes()
    return _contents[file]


def _with_imports(file: Path, optimizer: str) -> list[Path]:
    """Return a file, and after it the rest of its package and what they import from beside it or the package."""
    module, folder = _package_of(file)
    package = sorted((folder / module.partition(".")[0]).rglob("*.py")) if module else []
    found = [file, *(one for one in package if one != file)]
    for one in found:
        try:
            tree = ast.parse(_content(one))
        except SyntaxError as error:
            raise InputError(f"--optimizer {optimizer}: {one}, line {error.lineno}: {error.msg}") from error
        except ValueError as error:  # a NUL byte
            raise InputError(f"--optimizer {optimizer}: {one}: {error}") from error
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in dict.fromkeys(name.partition(".")[0] for name in names if name):
                start = folder / top / "__init__.py"
                beside = sorted(start.parent.rglob("*.py")) if start.is_file() else [folder / f"{top}.py"]
                found += [path for path in beside if path.is_file() and path not in found]
    return [file, *sorted(found[1:])]


@functools.cache
def load_class(optimizer: str) -> type:
    """Import and return a class. Raises InputError, naming what is wrong, if it is not there or not an optimizer."""
    origin, found = origin_of(optimizer), CLASS.fullmatch(optimizer)
    assert found is not None
    try:
        module = _module_of(origin) if origin.files else importlib.import_module(origin.module)
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise InputError(f"--optimizer {optimizer}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's file does when it is imported
        place = _place_of(error, origin)
        raise InputError(f"--optimizer {optimizer}: {place}{type(error).__name__}: {error}") from error
    same = _origin(optimizer) == origin
    require(same, f"--optimizer {optimizer}: {origin.text} has changed since this process started: start it again")
    kind = getattr(module, found["name"], None)
    require(kind is not None, f"--optimizer {optimizer}: there is no {found['name']} in {found['where']}")
    import torch  # imported late: a wrong name need not wait for it

    sound = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    require(sound, f"--optimizer {optimizer}: {found['name']} is not a subclass of torch.optim.Optimizer")
    assert isinstance(kind, type)
    return kind


class _AsRead(importlib.abc.InspectLoader):
    """Imports a file as its bytes were when it was first read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(_content(self.path))

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(_content(self.path), str(self.path))


def _module_of(origin: Origin) -> ModuleType:
    """Return the module that the first file makes; what is read again to import it must not have changed."""
    path = origin.files[0]
    top = _package_of(path)[1]
    sys.path.insert(0, str(top))  # what it imports from there is that, and not a package of the same name
    if path.parent != top:
        sys.path.append(str(path.parent))  # last, for its modules may be called like Python's: they are not meant then
    try:
        module = importlib.import_module(origin.module) if origin.module else _alone(path)
    finally:
        sys.path.remove(str(top))
        if str(top) not in sys.path:
            sys.path.append(str(top))  # for what it imports later
    package = origin.module.partition(".")[0]
    same = not package or Path(module.__file__ or "").resolve() == path
    require(same, f"{path}: another package {package} is loaded already; give its folder another name")
    for file in origin.files if package else origin.files[1:]:
        require(file.read_bytes() == _content(file), f"{file} has changed since this process started: start it again")
        loaded = sys.modules.get(file.stem)
        own = loaded is None or file.parent != top or Path(loaded.__file__ or "").resolve() == file
        require(own, f"{file}: another module {file.stem} is loaded already; give the file another name")
    return module


def _alone(path: Path) -> ModuleType:
    """Return the module that the bytes of a file make which is in no package."""
    name = f"ngpt_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_AsRead(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def claims(optimizer: str, what: str) -> bool:
    """Return whether a class has an attribute that is true: `stays_on_sphere`, `keeps_norm` or `keeps_position`."""
    return bool(getattr(load_class(optimizer), what, False))


def explain(optimizer: str, error: BaseException) -> str:
    """Return in one line what the code of a class raised, with the line of the user's file."""
    message = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}").strip()[:300]
    return _place_of(error, origin_of(optimizer)) + message


def failure(optimizer: str, what: str, error: BaseException) -> InputError:
    """Return the error to raise where the code of a class fails in a run."""
    return InputError(f"--optimizer {optimizer}: {what}: {explain(optimizer, error)}")


def _place_of(error: BaseException, origin: Origin) -> str:
    """Return the last line of the user's files in a traceback, as `file, line N: `."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) in origin.files]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""


def arguments_of(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parse `key=value group.key=value` into arguments of the class and entries of its parameter groups.

    A value that is no Python literal is a string.

    >>> arguments_of("betas=(0.9,0.95) mode=fast group.use_muon=True")
    ({'betas': (0.9, 0.95), 'mode': 'fast'}, {'use_muon': True})
    """
    found = _parsed(text)
    of_groups = {key.removeprefix("group."): value for key, value in found.items() if key.startswith("group.")}
    return {key: value for key, value in found.items() if not key.startswith("group.")}, of_groups


def _parsed(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in text.split():
        pair = ARGUMENT.fullmatch(word)
        if pair is None:
            raise InputError(f"--optimizer-args takes key=value, without spaces around = or in the value: {word}")
        require(pair["key"] not in found, f"--optimizer-args gives {pair['key']} twice")
        why = {"lr": "the rate is given by --lr", "params": "the matrices are the model's"}
        reserved = pair["key"].removeprefix("group.")
        require(reserved not in why, f"--optimizer-args {word}: {why.get(reserved)}")
        try:
            value = read_literal(pair["value"])
        except (ValueError, SyntaxError):
            value = pair["value"]
        require(not isinstance(value, set), f"--optimizer-args {word}: a set has no order; give a list or a tuple")
        found[pair["key"]] = value
    return found


def canonical(text: str) -> str:
    """Return arguments in one spelling, sorted, so that what means the same is the same run.

    >>> canonical("eps=1e-08  betas=(.9,0.95)")
    'betas=(0.9,0.95) eps=1e-08'
    """
    arguments = _parsed(text)
    shown = {}
    for key, value in arguments.items():
        word = value if isinstance(value, str) else repr(value).replace(" ", "")
        shown[key] = word if _parsed(f"{key}={word}")[key] == value else repr(value)  # '1' is text, 1 a number
    return " ".join(f"{key}={shown[key]}" for key in sorted(shown))
