"""Recipes that run in a child of this process, which saves their start, and meet a kill or a full disk at a moment."""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}
_LARGEST = 64  # bytes of any file after the moment


def start(run, errors=None):
    """A child that calls a function and ends with the status that it returns; its process id.

    Args:
        run: called in the child, whose output is dropped
        errors: descriptor for its standard error; None to drop it
    """
    child = os.fork()
    if child == 0:
        status = 70
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            for number, name, place in ((1, "stdout", null), (2, "stderr", null if errors is None else errors)):
                os.dup2(place, number)
                setattr(sys, name, os.fdopen(number, "w", closefd=False))  # in place of a file of pytest
            status = run()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def killed_when(run, moment, timeout_s=120):
    """Kill a child once ``moment()`` is true; False if it has ended before, without an error."""
    child, end = start(run), time.monotonic() + timeout_s
    while not moment():
        assert time.monotonic() < end
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def killed_at_change(run, folder, number, *, in_file=False):
    """Kill a child before its change of this number, from 0, of what is in a folder; False if it has fewer.

    Args:
        run: called in the child
        folder: where files are created, written, renamed and removed
        number: of the change
        in_file: whether it is killed in the middle of the next file that it writes
    """

    def end():
        if not in_file:
            os.kill(os.getpid(), signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # so that the system kills it, in any library
        _limit_files()

    _, status = os.waitpid(start(lambda: _watched(run, folder, number, end)), 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXFSZ)
        return True
    assert status == 0
    return False


def full_disk_at_change(run, folder, number):
    """No file of a child grows further from its change of this number on; its status, and lines of standard error."""
    read, write = os.pipe()
    child = start(lambda: _watched(run, folder, number, _limit_files), write)
    os.close(write)
    with os.fdopen(read) as pipe:
        errors = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), errors.splitlines()


def changes_of(run, folder):
    """Names of the changes of a child that ends without an error, such as ``open run.json``."""
    read, write = os.pipe()

    def listed():
        found = []
        status = _watched(run, folder, -1, None, found)
        with os.fdopen(write, "w") as pipe:
            json.dump(found, pipe)
        return status

    child = start(listed)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(text)


def _limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _watched(run, folder, number, happens, found=None):
    """Run; before the change of this number, ``happens`` is called. ``found`` receives the names of all changes."""
    import safetensors.torch
    import torch

    folder, found, busy = folder.resolve(), [] if found is None else found, []

    def see(event, name, descriptor=-1):
        if busy or not isinstance(name, str | os.PathLike):
            return
        busy.append(event)
        place = Path(f"/proc/self/fd/{descriptor}").readlink() / name if descriptor != -1 else Path(name).absolute()
        if place.is_relative_to(folder):
            if len(found) == number:
                happens()
            found.append(f"{event} {place.relative_to(folder)}")
        busy.pop()

    def audit(event, arguments):
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            see(event, arguments[0])
        elif event in _CHANGES:
            see(event, arguments[0], arguments[1] if event in ("os.remove", "os.rmdir") else -1)

    def seen_before(function):
        def write(content, place, *arguments, **options):
            see("write", place)
            return function(content, place, *arguments, **options)

        return write

    sys.addaudithook(audit)
    torch.save = seen_before(torch.save)  # its file and that of safetensors are not opened by Python
    safetensors.torch.serialize_file = seen_before(safetensors.torch.serialize_file)
    return run()
