"""Becomes the server process, or watches it, so that it dies with its parent.

Run by path as a script, with nothing but the standard library:

    python -I -S _launch.py exec PARENT_PID server ...
    python -I -S _launch.py watch PIPE_FD,LOCK_FD,... server ...

``exec`` (Linux) asks the kernel for SIGTERM when the parent dies and becomes the
server. ``watch`` (elsewhere) runs the server as a child and prints its pid as the first
line. Only the parent holds the other end of the pipe; when the pipe closes, the
launcher ends the server.

Python ignores SIGXFSZ, and an ignored signal stays ignored in the server. So a write
above a file size limit fails, as on a full disk, and the server lives.

The launcher gets a few variables of the application's environment; see
`_server_process.py`.
"""

from __future__ import annotations

import os
import select
import signal
import sys

_TERMINATE_SECONDS = 5.0
_NOT_RUN = 127  # the shell's code for a command that could not be run


def _exec(parent: int, command: list[str]) -> None:
    import ctypes  # noqa: PLC0415 - only here: it is the slow half of the start

    pr_set_pdeathsig = 1
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(pr_set_pdeathsig, int(signal.SIGTERM), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have died before prctl; then the signal never comes.
    if os.getppid() == parent:
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def _watch(pipe: int, locks: list[int], command: list[str]) -> int:
    # A signal handler alone would race with select(); the wakeup pipe cannot.
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    # These signals only wake the select below. SIGHUP goes to the whole group when the
    # parent dies while the server is stopped: the launcher must outlive the server.
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    os.set_inheritable(pipe, False)  # noqa: FBT003 - positional only
    # posix_spawn and not fork: a forked child has these handlers for a moment, and
    # would lose a SIGTERM to them.
    environment = os.environ  # noqa: TID251 - handed on as it is
    server = os.posix_spawn(command[0], command, environment)
    for lock in locks:  # the server's end releases it, not the end of this launcher
        os.close(lock)
    _say(str(server))
    watched, timeout = [pipe, wake_read], None
    while True:
        ready, _, _ = select.select(watched, [], [], timeout)
        pid, status = os.waitpid(server, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if wake_read in ready:
            os.read(wake_read, 4096)
        if pipe in ready:
            os.kill(server, signal.SIGTERM)
            os.kill(server, signal.SIGCONT)  # a stopped one could not act on SIGTERM
            watched, timeout = [wake_read], _TERMINATE_SECONDS
        elif not ready:
            os.kill(server, signal.SIGKILL)
            timeout = None


def _end_like(code: int) -> None:
    if code < 0:
        import resource  # noqa: PLC0415 - rarely needed

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def main() -> None:
    """Run the command line described above."""
    mode, numbers, *command = sys.argv[1:]
    number, *locks = (int(text) for text in numbers.split(","))
    # Its own process group: Ctrl-C in a terminal reaches the application alone, which
    # then ends the server in order. When the parent dies, the group is orphaned, and
    # the kernel wakes a stopped server, which then acts on its SIGTERM.
    os.setpgid(0, 0)
    # Its files are its user's alone, whatever the application's umask is.
    os.umask(0o077)
    try:
        if mode == "watch":
            _end_like(_watch(number, locks, command))
        _exec(number, command)
    except OSError as error:
        _say(f"cannot run {command[0]}: {error.strerror}")
        sys.exit(_NOT_RUN)


if __name__ == "__main__":
    main()
