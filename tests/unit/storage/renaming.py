"""A real file system with HDFS's rule: a rename never replaces a file. HDFS itself needs Java."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs as pafs


class RenamesOntoNothing(pafs.FileSystemHandler):
    """Files below a folder, by pyarrow's own local file system; only `move` differs."""

    def __init__(self, folder: Path) -> None:
        self.files = pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem())
        self.folder = folder

    def move(self, src: str, dest: str) -> None:
        """Rename, in one step, unless the new name is taken."""
        os.link(self.folder / src, self.folder / dest)
        os.unlink(self.folder / src)

    def get_type_name(self) -> str:
        return "renames onto nothing"

    def get_file_info(self, paths: list[str]) -> Any:
        return self.files.get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> Any:
        return self.files.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self.files.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self.files.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:
        self.files.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        self.files.delete_file(path)

    def copy_file(self, src: str, dest: str) -> None:
        self.files.copy_file(src, dest)

    def open_input_stream(self, path: str) -> Any:
        return self.files.open_input_stream(path, compression=None)

    def open_input_file(self, path: str) -> Any:
        return self.files.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return self.files.open_output_stream(path, compression=None)

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise NotImplementedError

    def normalize_path(self, path: str) -> str:
        return path


def use_for_hdfs(monkeypatch: pytest.MonkeyPatch, handler: RenamesOntoNothing) -> None:
    """Let hdfs://host/path be the path on a file system of this process."""
    from storage import remote

    def opened(uri: str) -> tuple[pafs.FileSystem, str]:
        return pafs.PyFileSystem(handler), uri.split("/", 3)[3].rstrip("/")

    monkeypatch.setattr(remote, "open_remote", opened)
