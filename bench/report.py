"""One page, report.md, and its pictures from what the other parts have written.

With --against it also says what has changed since an older set of results, and ends with status 1 where a step or an
operator has become slower or needs more memory.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from . import compare, plots, stored, style, tables
from .stored import Parts

TITLES = {
    "roofline": "What the device can do",
    "micro": "Operators",
    "step": "Training steps",
    "memory": "Peak memory",
    "cuts": "Where to cut",
    "gradients": "Agreement with the gradient of Algorithm 1",
    "compiled": "Compiled modules",
    "loader": "Batches of image files",
}
# Beside the table that each part has in tables.TABLES.
MORE_TABLES = {"micro": tables.blocks, "memory": tables.memory_of_modules}


class Picture(NamedTuple):
    title: str
    draw: Callable[[Parts], dict[str, Figure]]
    caption: str  # what to see, beneath every one
    note: str = ""  # once, below all of them
    needs: tuple[str, ...] = ()  # parts beside its own


PICTURES: dict[str, list[Picture]] = {
    "micro": [
        Picture(
            "Speed-up",
            plots.speed_ups,
            "Above the dotted line ours is the faster one. Ratios of medians.",
            "A star in the table: of the two, one is timed as a CUDA graph and the other, which cannot be captured, "
            "with the launches of its kernels.",
        ),
        Picture(
            "Roofline",
            plots.roofline,
            "Our kernels under what the device reaches in a large copy and in its best product (black). On a CPU small "
            "operands stay in the cache, above the limit of the memory. float32: solid lines, full markers; bfloat16: "
            "dashed, hollow; float16: dotted, half full; float64: dash-dotted.",
            needs=("roofline",),
        ),
        Picture(
            "Time by the size of a sample",
            plots.scaling_with_size,
            "Medians, with the 20th and 80th percentile. Dotted: proportional to the size. n is the number of elements "
            "of a sample, for linear layers that of the weight.",
        ),
        Picture(
            "Time by the batch",
            plots.scaling_with_batch,
            "Medians, with the 20th and 80th percentile. Dotted: proportional to the batch.",
        ),
    ],
    "step": [
        Picture(
            "Time and memory",
            plots.time_and_memory,
            "One step by every method over one step of back-propagation, without what an optimizer adds: left is "
            "faster, down is smaller. Grey: the frontier, than which nothing is faster and smaller. Ringed: exact "
            "back-propagation. Hollow: with checkpointing; half full: other variants. Bars: 20th to 80th percentile.",
        ),
        Picture(
            "Time by the number of modules", plots.scaling_with_modules, "Medians, with the 20th and 80th percentile."
        ),
    ],
    "memory": [
        Picture(
            "Memory by the number of modules", plots.memory_by_count, "Lower is better. Stars: Table 5 of the paper."
        )
    ],
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR", help="where the files PART-DEVICE.json are")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", required=True, help="for report.md and its pictures")
    parser.add_argument("--against", type=pathlib.Path, metavar="OLD", help="folder of older results to compare with")


def run(args: argparse.Namespace) -> int:
    try:
        devices = stored.read(args.folder)
        changes = compare.compare(stored.read(args.against), devices) if args.against else None
    except stored.BadResult as error:
        print(f"sgr-bench report: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    page = ["# Benchmarks of sgr-kernels"]
    if unread := stored.others(args.folder):
        page.append(f"Not results of sgr-bench, and not read: {', '.join(unread)}.")
    if changes:
        page += [f"## Against {args.against}", compare.text(changes)]
    for device, parts in devices.items():
        page += _device(device, parts, args.out)
    path = args.out / "report.md"
    path.write_text("\n\n".join(page) + "\n")
    print(path)
    for change in changes.regressions if changes else []:
        print(f"{change.verdict}: {change.what}, {change.quantity}: {change.old:.4g} -> {change.new:.4g}")
    return 1 if changes and changes.regressions else 0


def _device(device: str, parts: Parts, folder: pathlib.Path) -> list[str]:
    page = [f"## {device.upper()}", _origins(parts), _commands(parts)]
    if missing := [part for part in TITLES if part not in parts]:
        page.append(f"**Missing:** no results of {', '.join(missing)} on this device.")
    failures = [f"* {part}: {each['failure']}" for part in parts for each in parts[part].get("failures", [])]
    if failures:
        page += ["**Wrong, or failed, and not measured:**", "\n".join(failures)]
    undefined = [f"* {part}: {each['undefined']}" for part in parts for each in parts[part].get("undefined", [])]
    if undefined:
        page += ["Not defined, so that there is nothing to measure:", "\n".join(undefined)]
    for part in TITLES:
        if part in parts:
            page += [f"### {TITLES[part]}"]
            for picture in PICTURES.get(part, []):
                page += _picture(picture, device, parts, folder)
            page += [table(parts[part]) for table in _tables(part)]
    return page


def _tables(part: str) -> list[Callable[[dict[str, Any]], str]]:
    return [tables.TABLES[part], *([MORE_TABLES[part]] if part in MORE_TABLES else [])]


def _picture(picture: Picture, device: str, parts: Parts, folder: pathlib.Path) -> list[str]:
    if missing := [part for part in picture.needs if part not in parts]:
        return [f"*{picture.title}:* not drawn for want of the part {', '.join(missing)}."]
    figures = picture.draw(parts)
    if not figures:
        return [f"*{picture.title}:* not drawn, the results have nothing to compare."]
    page = []
    for name, figure in figures.items():
        file = f"{name}-{device}.png"
        style.save(figure, folder / file)
        page.append(f"![{picture.title}. {picture.caption}]({file})")
    return [*page, picture.note] if picture.note else page


def _origins(parts: Parts) -> str:
    """Where the numbers come from: one line for all rows of one part, day and machine."""
    lines = [
        (part, row["date"], *(str(row["machine"][name]) for name in stored.MACHINE))
        for part, result in parts.items()
        for row in result["rows"]
    ]
    return tables.markdown([["part", "date", *stored.MACHINE], *map(list, dict.fromkeys(lines))])


def _commands(parts: Parts) -> str:
    commands = dict.fromkeys(result["command"] for result in parts.values())
    return "```sh\n" + "\n".join(commands) + "\n```"
