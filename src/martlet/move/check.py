"""Would this node take that session? All reasons against it at once: pure.

The target asks this in *prepare*, and the mother through it when she chooses a target.
"""

from __future__ import annotations

from dataclasses import dataclass

from martlet.model import MoveMode, NodeFacts, NodeState, Reason, SessionSpec

CRIU_FOR_NEW_KERNELS = (4, 2)
NEW_KERNEL = (6, 16)
SUPPORTED = frozenset({MoveMode.STOP_COPY})
MARGIN_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What would come: the session, what it needs, and the facts of the node it comes from."""

    spec: SessionSpec
    source: NodeFacts
    memory_bytes: int
    private_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What this node has: `uid` and `home` are what it knows of the user, None when it does not know them."""

    facts: NodeFacts
    state: NodeState
    free_bytes: int
    has_image: bool
    has_session: bool
    has_criu: bool
    uid: int | None
    has_home: bool


def objections(wanted: Wanted, host: Host) -> list[Reason]:
    """Every reason why `host` cannot take the session; empty when it can."""
    name, spec = host.facts.node, wanted.spec
    reasons = faults_now(host.facts, has_criu=host.has_criu)
    if host.state is not NodeState.UP:
        hint = f"'martlet node return {name}' lets it take sessions again"
        reasons.append(Reason(code="node_not_up", text=f"{name} is {host.state}", hint=hint))
    if host.has_session:
        reasons.append(Reason(code="already_there", text=f"{name} has a session {spec.id} already"))
    if not host.has_image:
        text = f"{name} has not the image {spec.image.name} {spec.image.digest[:19]}"
        reasons.append(Reason(code="image_missing", text=text, hint="copy the image there; digests must be the same"))
    reasons += _room(wanted, host) + _user(spec, host) + _machine(wanted.source, host.facts)
    return reasons


def _room(wanted: Wanted, host: Host) -> list[Reason]:
    # In stop-copy the images and the restored memory stand side by side for a moment.
    needed = 2 * wanted.memory_bytes + wanted.private_bytes + MARGIN_BYTES
    if needed <= host.free_bytes:
        return []
    text = f"{host.facts.node} has {host.free_bytes >> 20} MiB of memory free, the move needs {needed >> 20} MiB"
    return [Reason(code="no_memory", text=text, hint="choose another node, or move something away from it first")]


def _user(spec: SessionSpec, host: Host) -> list[Reason]:
    name = host.facts.node
    if host.uid is None:
        return [Reason(code="no_user", text=f"{name} does not know the user {spec.user}", hint="check its directory")]
    if host.uid != spec.uid:
        text = f"{spec.user} is uid {host.uid} on {name} and {spec.uid} in the session"
        return [Reason(code="other_uid", text=text, hint="give users the same uid on every node")]
    if not host.has_home:
        hint = "mount the shared homes there"
        return [Reason(code="no_home", text=f"{spec.home} is not there on {name}", hint=hint)]
    return []


def _machine(source: NodeFacts, target: NodeFacts) -> list[Reason]:
    reasons: list[Reason] = []
    missing = sorted(set(source.cpu_flags) - set(target.cpu_flags))
    if missing:
        text = f"the processor of {target.node} lacks {', '.join(missing[:8])}"
        reasons.append(
            Reason(code="cpu_features", text=text, hint="programs may be using them; move to a like machine")
        )
    if source.criu and target.criu and version_of(source.criu)[:2] > version_of(target.criu)[:2]:
        text = f"criu {target.criu} on {target.node} is older than {source.criu} on {source.node}"
        reasons.append(Reason(code="criu_older", text=text, hint="upgrade criu there"))
    return reasons


def faults_of(*, criu: str, kernel: str, node: str) -> list[Reason]:
    """What makes a node unfit for any move: criu missing, or too old for its kernel."""
    if not criu:
        return [_criu_missing(node)]
    if version_of(kernel)[:2] >= NEW_KERNEL and version_of(criu)[:2] < CRIU_FOR_NEW_KERNELS:
        text = f"criu {criu} on {node} cannot save sockets on kernel {kernel}"
        return [Reason(code="criu_too_old", text=text, hint="install criu 4.2 or later")]
    return []


def faults_now(facts: NodeFacts, *, has_criu: bool) -> list[Reason]:
    """The faults that a node's agent found at its start, and that criu is gone since, if it is."""
    gone = [] if has_criu or not facts.criu else [_criu_missing(facts.node)]
    return [*facts.faults, *gone]


def _criu_missing(node: str) -> Reason:
    hint = "install the package 'criu' there and restart the agent"
    return Reason(code="criu_missing", text=f"criu is not installed on {node}", hint=hint)


def version_of(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: `6.18.44-fc` is (6, 18, 44)."""
    parts: list[int] = []
    for part in text.split("-")[0].split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)
