"""On the PYTHONPATH of a worker: some texts kill whichever process encodes them, as broken native code would.

A text with KILL in it ends the process by SIGKILL, one with CRASH by a segmentation fault, one with HANG takes for
ever. Each death is a line in the file CHAOS_DEATHS. It holds in every process that the worker starts, however it does.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import signal
import sys
import time
from types import ModuleType
from typing import Any

_MODULE = "knnex.encoders.text"
_DEADLY = re.compile(r"(KILL|CRASH|HANG)(\d+)")


def _die_of(texts: list[str]) -> None:
    found = next((match for text in texts if (match := _DEADLY.search(text))), None)
    if not found:
        return
    file = os.open(os.environ["CHAOS_DEATHS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{found[0]} {time.time()} {os.getpid()}\n".encode())
    os.close(file)
    if found[1] == "HANG":
        time.sleep(3600)
    os.kill(os.getpid(), signal.SIGKILL if found[1] == "KILL" else signal.SIGSEGV)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        self.real = importlib.util.find_spec(name)
        return importlib.util.spec_from_loader(name, self, origin=self.real.origin) if self.real else None

    def create_module(self, _: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self.real.loader.exec_module(module)
        encode = module.TextEncoder.encode_documents

        def encode_documents(encoder: Any, texts: list[str]) -> Any:
            _die_of(texts)
            return encode(encoder, texts)

        module.TextEncoder.encode_documents = encode_documents


sys.meta_path.insert(0, _Finder())
