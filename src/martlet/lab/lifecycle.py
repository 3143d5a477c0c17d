"""Brings labs up and takes them down. What a lab consists of is decided in `plan` and `files`.

A lab's record is written first and its folders are removed last; `clean` is the one way to end a lab, be it up, half
made or dead, and does no harm twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from martlet import authority, process
from martlet.bus import names, server
from martlet.errors import MartletError, NotFound, Refused, ToolFailed
from martlet.image import store
from martlet.kernel import namespace
from martlet.kernel.cgroup import Limits
from martlet.kernel.link import links, mac_of
from martlet.kernel.namespace import Namespace
from martlet.lab import files, machine, ready, registry, settings
from martlet.lab.machine import SYSTEM, Build
from martlet.lab.plan import HOST_ADDRESS, PREFIX, Machine, Plan, Role, Service
from martlet.lab.registry import LabState, Record, State
from martlet.model import Reason

Report = Callable[[str], None]
CHECKOUT = Path(__file__).resolve().parents[3]
UNITS = CHECKOUT / "packaging" / "systemd"
NODE_IMAGE, SESSION_IMAGE = "node", "base"
START_DEADLINE_S = 30.0
REAP_DEADLINE_S = 3.0


def up(plan: Plan, *, report: Report, images: Path = store.HOST_ROOT, await_cluster: bool = True) -> LabState:
    """Bring `plan` up and return when the cluster takes sessions (or, without `await_cluster`, when machines run).

    Raises:
        Refused: it is up already, or something it needs is missing; all reasons at once, nothing changed.
        MartletError: a step failed. Machines that already run are left for a look at their logs; `clean` ends them.
    """
    with registry.alone(plan.name):
        _check(plan, images)
        if plan.name in registry.traces():
            report("cleaning up what an earlier lab of this name left")
            _clean(plan.name)
        registry.write(Record(plan=plan, state=State.STARTING))
        try:
            settings.make(_settings_record())
            report("making the network, keys and folders")
            _prepare(plan, images)
            report(f"starting {len(plan.machines)} machines")
            pids = asyncio.run(_start_machines(plan, images))
        except BaseException:
            _clean(plan.name)
            raise
        state = LabState(plan=plan, state=State.UP, pids=pids)
        registry.write(Record(plan=plan, state=State.STARTING, pids=pids))
        if await_cluster:
            ready.wait(state, report=report)
        registry.write(Record(plan=plan, state=State.UP, pids=pids))
        return state


def down(name: str, *, report: Report) -> None:
    """End the lab `name` and remove all of it. A lab that is not there is fine.

    Raises:
        Refused: another command is starting or ending it.
        ToolFailed: processes did not die, or a cgroup stayed busy; says which.
    """
    with registry.alone(name):
        report(f"ending the lab '{name}'")
        _clean(name)


def _clean(name: str) -> None:
    state, top = registry.read(name), registry.group(name)
    top.kill()
    _await_reaped(state.pids.values() if state else ())
    top.remove()
    for place in (registry.folder(name), registry.bulk(name)):
        namespace.unmount_below(place)
        if place.exists():
            shutil.rmtree(place)
    with contextlib.suppress(OSError):
        registry.BULK.rmdir()
    settings.put_back(_settings_record(), still_needed=lambda: bool(registry.traces()))


def _await_reaped(pids: Iterable[int]) -> None:
    """Wait until the host's init has taken dead machines from the list of processes; one that never does is left."""
    until = time.monotonic() + REAP_DEADLINE_S
    while any(_is_zombie(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _check(plan: Plan, images: Path) -> None:
    """Raise Refused with everything that stands against bringing `plan` up."""
    reasons = []
    if os.geteuid() != 0:
        reasons.append(Reason(code="not_root", text="a lab needs root for its namespaces", hint="run it with sudo"))
    state = registry.read(plan.name)
    if state is not None and state.state is State.UP:
        hint = f"end it with 'martlet lab down --name {plan.name}', or give another --name"
        reasons.append(Reason(code="lab_up", text=f"the lab '{plan.name}' is up already", hint=hint))
    for name in (NODE_IMAGE, SESSION_IMAGE):
        try:
            store.current(images, name)
        except NotFound as error:
            reasons += error.reasons
    if reasons:
        raise Refused(f"the lab '{plan.name}' cannot be brought up", reasons=reasons)


def _prepare(plan: Plan, images: Path) -> None:
    """Everything of the lab that needs no machine yet."""
    state = LabState(plan=plan, state=State.STARTING, pids={})
    _make_lan(state.lan_netns)
    _make_homes(registry.bulk(plan.name) / "homes")
    signer = authority.Authority.create(plan.name)
    admin = state.admin_config.parent
    authority.write(admin / "tls", signer.issue(names.identity(names.Role.ADMIN)))
    state.admin_config.write_text(files.admin_config(plan, tls=admin / "tls"))
    base = _base(store.current(images, NODE_IMAGE).rootfs)
    nats = server.render(
        listen=files.nats_listen(plan),
        store_dir=Path(files.NATS_STORE),
        ca=Path(files.NATS_TLS) / "ca.pem",
        cert=Path(files.NATS_TLS) / "cert.pem",
        key=Path(files.NATS_TLS) / "key.pem",
        identities=plan.identities,
    )
    for item in plan.machines:
        _make_machine(item, plan, base=base, nats=nats, signer=signer)


def _make_machine(item: Machine, plan: Plan, *, base: files.Base, nats: str, signer: authority.Authority) -> None:
    """Folders, files, keys and control groups of one machine."""
    place = _place(plan, item)
    for name in ("upper", "work", "root"):
        (place / name).mkdir(parents=True)
        (place / name).chmod(0o755)
    for path, file in files.render(item, plan, base=base, nats=nats).items():
        _write(place / "upper" / path.lstrip("/"), file)
    tls = place / "upper" / files.TLS.lstrip("/")
    for identity in item.identities:
        authority.write(tls, signer.issue(identity, names=[item.name], addresses=[item.address]))
    if Service.NATS in item.services:
        tls = place / "upper" / files.NATS_TLS.lstrip("/")
        authority.write(tls, signer.issue(names.SERVER_IDENTITY, names=[item.name], addresses=[item.address]))
    group = registry.group(plan.name).child(item.name)
    group.child(SYSTEM).create()
    if item.role is Role.NODE:
        group.child("martlet").create(Limits(cpus=plan.cpus_per_node))


async def _start_machines(plan: Plan, images: Path) -> dict[str, int]:
    """Start all at once; the pid of each machine's first process."""
    started = await asyncio.gather(*(_start(item, plan, images) for item in plan.machines))
    return {item.name: pid for item, pid in zip(plan.machines, started, strict=True)}


async def _start(item: Machine, plan: Plan, images: Path) -> int:
    place = _place(plan, item)
    build = Build(
        machine=item,
        group=registry.group(plan.name).child(item.name).name,
        lan_netns=registry.folder(plan.name) / "lan.netns",
        image=store.current(images, NODE_IMAGE).rootfs,
        work=place,
        images=images,
        homes=registry.bulk(plan.name) / "homes",
        source=CHECKOUT / "src",
        log=place / "console.log",
        link_mbit=plan.link_mbit,
    )
    try:
        done = await process.run(
            sys.executable, "-m", machine.__name__, input=msgspec.json.encode(build, enc_hook=str),
            env={"PYTHONPATH": str(CHECKOUT / "src")}, deadline_s=START_DEADLINE_S,
        )  # fmt: skip
    except ToolFailed as error:
        raise MartletError(f"the machine {item.name} did not start: {error.tail.strip() or error}") from error
    return int(done.stdout)


def _make_lan(handle: Path) -> None:
    def furnish() -> None:
        with links() as lan:
            lan.up("lo")
            lan.add_bridge("lan0", mac=mac_of(HOST_ADDRESS))
            lan.add_address("lan0", HOST_ADDRESS, prefix=PREFIX)

    namespace.make_net(handle)
    namespace.within(Namespace.NET, handle, furnish)


def _make_homes(folder: Path) -> None:
    folder.mkdir(parents=True)
    for student in files.students():
        home = folder / student.name
        home.mkdir(mode=0o750)
        os.chown(home, student.uid, student.uid)


def _base(image: Path) -> files.Base:
    units = {service: (UNITS / f"martlet-{service}.service").read_text() for service in Service}
    return files.Base(passwd=(image / "etc/passwd").read_text(), group=(image / "etc/group").read_text(), units=units)


def _write(path: Path, file: files.Text) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file.text)
    path.chmod(file.mode)


def _place(plan: Plan, item: Machine) -> Path:
    return registry.bulk(plan.name) / item.name


def _settings_record() -> Path:
    return registry.RUN / "settings.json"
