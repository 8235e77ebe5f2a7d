"""What `make compare` says of its figures, in plain words."""

from __future__ import annotations

from typing import Any

NAMES = ("oddswire", "redis-py", "valkey-glide")


def render(found: dict[str, Any]) -> str:
    """Return the text for a terminal of 80 columns."""
    machine = found["machine"]
    where = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}, "
        f"Python {machine['python']}, {machine['server']}."
    )
    lines = [
        where,
        "Each client was measured in turn on one server of this machine.",
        "",
        f"{'':<26}{''.join(f'{name:>14}' for name in NAMES)}",
    ]
    for row in found["rows"]:
        cells = "".join(f"{row['figures'][name]:>14,.0f}" for name in NAMES)
        lines.append(f"{row['what']:<26}{cells}")
    lines += ["", *map(_faster, found["rows"]), ""]
    lines += [
        "100 tasks: a get takes this many times what asyncio itself needs to",
        f"switch a task and resolve a future: {_each(found['against_asyncio'])}.",
    ]
    if alone := found["against_bare"]:
        lines += [
            "One task on one core: a get takes this many times what a bare protocol",
            f"needs, which only writes and reads: {_each(alone)}.",
        ]
    else:
        lines.append("One task on one core: not measured, this system cannot pin one.")
    lines += [
        "",
        f"redis-py ran with {found['pool']}, the fastest pool of those tried.",
    ]
    if not found["quiet"]:
        lines.append(
            f"The machine was busy (load {machine['load']}): expect other figures "
            "on a quiet one."
        )
    lines.append(f"{found['seconds']:.0f} seconds.")
    return "\n".join(lines)


def _faster(row: dict[str, Any]) -> str:
    subject = row["what"].partition(",")[0]
    ratios = row["ratios"]
    return (
        f"{subject}: {ratios['redis-py']:.1f} times as fast as redis-py, "
        f"{ratios['valkey-glide']:.1f} times as fast as valkey-glide."
    )


def _each(ratios: dict[str, float]) -> str:
    return ", ".join(f"{name} {ratios[name]:.1f}" for name in NAMES)
