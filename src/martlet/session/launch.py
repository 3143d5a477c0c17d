"""The birth of a session in its place, and its planned end.

What its first process gets (environment, command) is decided in pure functions; the rest runs runc and waits.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
from collections.abc import Mapping

import anyio

from martlet.errors import MartletError, ToolFailed
from martlet.kernel import proc, runc
from martlet.kernel.runc import Container
from martlet.model import Reason, SessionSpec
from martlet.session import place as places
from martlet.session.place import Place

DESKTOP = "/usr/lib/martlet/desktop"
RFB_PORT = 5901
DISPLAY_DEADLINE_S = 30.0
SETTLE_S = 0.05
STOP_GRACE_S = 5.0
OPEN_FILES = 65536
LOGGED = 'exec /usr/bin/tini -g -- "$@" >>/run/martlet/log 2>&1 </dev/null'

BROWSERS = {
    "LIBGL_ALWAYS_SOFTWARE": "1",
    "NO_AT_BRIDGE": "1",
    "MOZ_DISABLE_CONTENT_SANDBOX": "1",
    "MOZ_DISABLE_GMP_SANDBOX": "1",
    "MOZ_DISABLE_SOCKET_PROCESS_SANDBOX": "1",
    "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1",
    "QTWEBENGINE_CHROMIUM_FLAGS": "--no-sandbox --no-zygote",
}
"""Sandboxes are nested namespaces, which cannot be dumped; the session itself is the sandbox."""


def environment(spec: SessionSpec) -> dict[str, str]:
    """What a session's first process finds in its environment."""
    runtime = f"/run/user/{spec.uid}"
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games",
        "HOME": spec.home,
        "USER": spec.user,
        "LOGNAME": spec.user,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": runtime,
        "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={runtime}/no-system-bus",
        "MARTLET_SESSION": spec.id,
        **({"DISPLAY": spec.display} if spec.display else {}),
        **BROWSERS,
    }


def command(spec: SessionSpec) -> tuple[str, ...]:
    """The session's pid 1 (tini reaps orphans), and below it what the user asked for, its output in the log.

    The shell only opens the standard streams inside the session, for files from outside could not move, and is gone.
    """
    wanted = spec.argv or (DESKTOP,)
    return ("/bin/sh", "-c", LOGGED, "sh", *wanted)


def container(place: Place, env: Mapping[str, str]) -> Container:
    spec = place.spec
    return Container(
        id=spec.id,
        root=place.root,
        dev=place.root / "dev",
        binds=place.binds,
        net=place.net,
        cgroup=place.group.name,
        hostname=spec.id,
        uid=spec.uid,
        gid=spec.gid,
        argv=command(spec),
        env=env,
        cwd=spec.home,
        open_files=min(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
    )


async def start(place: Place) -> None:
    """Start the session in its built place, and return when it runs; for a desktop, when its display answers.

    Raises:
        ToolFailed: runc said no.
        MartletError: it ended at once, or its display never answered; says what its log says.
    """
    box = container(place, environment(place.spec))
    bundle, state = place.folder / "bundle", place.folder / "runc"
    await anyio.to_thread.run_sync(places.fill_private, place)
    runc.write_bundle(box, bundle)
    pid = await runc.create(box, bundle=bundle, state=state)
    place.group.attach(pid)
    await anyio.to_thread.run_sync(places.open_port, place)
    await anyio.to_thread.run_sync(places.announce, place)
    await runc.release(box, state=state)
    for folder in (bundle, state):
        await anyio.to_thread.run_sync(shutil.rmtree, folder)
    await anyio.sleep(SETTLE_S)
    if place.spec.is_desktop:
        await _display(place)
    if proc.read(pid) is None:
        raise _ended(place)


async def stop(place: Place) -> None:
    """Ask the session's processes to end, make them after a grace, and take its place away.

    Raises:
        ToolFailed: something could not be taken away; calling again continues.
    """
    init = place.init_pid()
    if init is not None:
        os.kill(init, signal.SIGTERM)
        with anyio.move_on_after(STOP_GRACE_S):
            while place.group.processes():
                await anyio.sleep(0.02)
    await anyio.to_thread.run_sync(places.destroy, place)


async def _display(place: Place) -> None:
    """Wait until the desktop's display speaks RFB (RFC 6143, section 7.1.1)."""
    with anyio.move_on_after(DISPLAY_DEADLINE_S):
        while place.group.processes():
            try:
                async with asyncio.timeout(2.0):
                    reader, writer = await asyncio.open_connection(place.spec.address, RFB_PORT)
                    greeting = await reader.read(4)
                    writer.close()
                if greeting.startswith(b"RFB"):
                    return
            except (OSError, TimeoutError):
                await anyio.sleep(0.05)
    raise _ended(place)


def _ended(place: Place) -> MartletError:
    try:
        tail = place.log.read_text(errors="replace")[-2000:].strip()
    except OSError:
        tail = ""
    what = f"the session {place.spec.id} ended while it started, or its display did not answer"
    reason = Reason(
        code="ended_at_start",
        text=f"its log ends with: {tail}" if tail else "its log is empty",
        hint="check the command, and that the image has it",
    )
    return ToolFailed(what, tail=tail, reasons=[reason])
