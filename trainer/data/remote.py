"""Files behind ://, of which only what is asked for is read, by fsspec: an extra that local paths do not need.

Only the protocols of NEEDS are taken, and one at a time. A chain such as simplecache::s3://, and what else fsspec would
make of a path, is refused before fsspec sees it.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from trainer.errors import ConfigError, FileError, TrainerError, shown

NEEDS = {"s3": "s3fs", "gs": "gcsfs", "https": "aiohttp", "http": "aiohttp", "memory": ""}
WEB = {"client_kwargs": {"headers": {"Accept-Encoding": "identity"}, "trust_env": True}}  # not packed; by a proxy
PIECE = 1 << 26  # bytes that are asked for together at most
BUFFER = 1 << 23  # of what is read from its beginning to its end
WHOLE = 1 << 29  # of a file whose server gives no parts


def is_remote(path: str) -> bool:
    """Whether a path is an address."""
    return "://" in path


def lasting(path: str) -> str:
    """A path that is right in any working folder."""
    return path if is_remote(path) else os.path.abspath(path)


def is_web(path: str) -> bool:
    """Whether it is one of http, which knows of no folders."""
    return path.lower().startswith(("http://", "https://"))


def system(path: str) -> Any:
    """The file system of fsspec's that an address is in."""
    protocol = path.partition("://")[0].lower()
    if protocol not in NEEDS:
        known = ", ".join(f"{name}://" for name in NEEDS)
        raise ConfigError(f"{shown(path)} begins with {ascii(protocol)[1:-1]}://, and of addresses {known} are read.")
    try:
        return import_module("fsspec").filesystem(protocol, **(WEB if is_web(path) else {}))
    except ImportError as error:
        more = "" if NEEDS[protocol] in ("", "aiohttp") else f" {NEEDS[protocol]}"
        needed = " and ".join(["fsspec", *([NEEDS[protocol]] if NEEDS[protocol] else [])])
        way = f"install what it needs by pip install 'softmax-trainer[remote]'{more}, or copy the file here"
        raise ConfigError(f"{shown(path)} needs {needed}; {way}.") from error


@contextmanager
def reached(path: str) -> Iterator[None]:
    """Makes one FileError of whatever stands in the way of an address, without its text, which may hold a password."""
    try:
        yield
    except TrainerError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        status = getattr(cause, "status", None)
        if status in (401, 403) or isinstance(error, PermissionError):
            why = "access is denied"
            why += "; run.json keeps an address without password and what stands behind ?" if is_web(path) else ""
        elif isinstance(cause, FileNotFoundError) or status == 404:
            why = "there is no such file"
            why += "; a server has no folders and patterns, so name files" if is_web(path) and path[-1] in "*/" else ""
        elif status:
            why = f"the server answers {status}"
        else:
            why = f"{type(cause).__name__}; is the server there, and the account known?"
        raise FileError(f"{shown(path)} cannot be read: {why}.") from None


def info(path: str) -> dict[str, Any]:
    """What is known of a file, its size at least."""
    with reached(path):
        found: dict[str, Any] = system(path).info(path)
        if found.get("type") == "directory":
            raise FileError(f"{shown(path)} cannot be read: it is a folder, not a file.")
        size = found.get("size")
        if size is None:
            raise FileError(f"{shown(path)} cannot be read: its server does not say how large it is; copy it here.")
        if is_web(path) and size > WHOLE and not found.get("partial"):
            way = f"it has {size:,} bytes, and its server gives no parts of files; copy it here"
            raise FileError(f"{shown(path)} cannot be read: {way}.")
        return found


def tag(path: str) -> str:
    """What a server says that a file's content goes by, or nothing."""
    found = info(path)
    return str(next((found[key] for key in ("ETag", "etag", "LastModified", "mtime") if found.get(key)), ""))


class Ranges(io.RawIOBase):
    """The bytes of a file as a stream that can be sought in; nothing is fetched before it is read."""

    def __init__(self, path: str, size: int | None = None) -> None:
        super().__init__()
        self.path, self.size = path, info(path)["size"] if size is None else size
        self._at = 0
        self._whole: bytes | None = None  # of a server that gives all where a part was asked for

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + min(len(buffer), PIECE), self.size)
        data = self._fetched(self._at, stop) if stop > self._at else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _fetched(self, start: int, stop: int) -> bytes:
        if self._whole is None:
            with reached(self.path):
                data: bytes = system(self.path).cat_file(self.path, start=start, end=stop)
            if len(data) <= stop - start:
                return data
            self._whole = data
        return self._whole[start:stop]


def opened(path: str, size: int | None = None, ahead: int = BUFFER) -> io.BufferedReader:
    """A file to be read; of one behind an address the size may be known, and so many bytes are fetched at least."""
    return io.BufferedReader(Ranges(path, size), ahead) if is_remote(path) else open(path, "rb")


def below(path: str) -> list[str]:
    """The files of a folder and of all in it."""
    with reached(path):
        return _addresses(path, system(path).find(path))


def matching(path: str) -> list[str]:
    """The files that a pattern finds, and all in the folders that it does; or the one of just this name."""
    with reached(path):
        place = system(path)
        if place.exists(path):
            return [path]
        found = place.glob(path, detail=True)
        folders = [name for name, about in found.items() if about["type"] == "directory"]
        files = [name for name in found if name not in folders]
        return _addresses(path, files + [name for folder in folders for name in place.find(folder)])


def is_folder(path: str) -> bool:
    """Whether an address is that of a folder."""
    if is_web(path):
        return False
    with reached(path):
        return bool(system(path).isdir(path))


def _addresses(path: str, names: list[str]) -> list[str]:
    """Names of fsspec's, which have no protocol, as addresses."""
    protocol = path.partition("://")[0]
    return [f"{protocol}://{name.lstrip('/')}" for name in names if not name.endswith("/")]  # a folder's own mark
