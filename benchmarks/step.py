"""One training step beside its peers: uint8 to inputs, forward, backward, norm of the gradient and
AdamW; equal weights, equal masks.

    python benchmarks/step.py [--rounds 5] [--steps 2] [--threads 1,2] [--only mae16,videomae]
    python benchmarks/step.py --compiled     # compiled contenders too (minutes to compile)
    python benchmarks/step.py --gpu          # ViT-B, ViT-L and clips in bf16, where a GPU is

Each contender lives in a process of its own; they take turns, never two at a time. A round's figure
is the median over its steps, a ratio is the median over rounds of pairs within a round. Before any
timing the losses of all must agree. What a contender needs before its first timed step (start,
weights, compilation) is told apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.step_contenders import COMPILED, Case, Step, make_step, step_flops
from training.flops import measured_peak

PEERS = ("headrace", "eager", "transformers")
TINY = {
    "width": 192, "depth": 12, "heads": 3, "decoder_width": 96, "decoder_depth": 4,
    "decoder_heads": 3,
}  # fmt: skip
IMAGE_DECODER = {"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16}
BASE = {"width": 768, "depth": 12, "heads": 12, **IMAGE_DECODER}
LARGE = {"width": 1024, "depth": 24, "heads": 16, **IMAGE_DECODER}
CLIP_BASE = {**BASE, "decoder_width": 384, "decoder_depth": 4, "decoder_heads": 6}
CASES = {
    **{
        f"mae{batch}": Case("MAE, ViT-Tiny, 75 % hidden", "mae", TINY, batch, PEERS)
        for batch in (16, 32, 64)
    },
    "videomae": Case("VideoMAE, ViT-Tiny, 90 % hidden", "videomae", TINY, 4, PEERS),
}
ON_GPU = tuple(name for peer in (PEERS[0], PEERS[2]) for name in (peer + COMPILED, peer))
GPU_CASES = {
    "base": Case("MAE, ViT-B/16, 224", "mae", BASE, 256, ON_GPU, "cuda", "bf16"),
    "large": Case("MAE, ViT-L/16, 224", "mae", LARGE, 256, ON_GPU, "cuda", "bf16"),
    "clips": Case("VideoMAE, ViT-B, 16x224", "videomae", CLIP_BASE, 32, ON_GPU, "cuda", "bf16"),
}
AGREE = {"fp32": 1e-4, "bf16": 1e-2}
"relative difference of losses"


@dataclass(frozen=True, slots=True)
class Turn:
    """The medians of one turn."""

    cpu: float
    "CPU seconds a step, all threads"
    wall: float
    "seconds a step"
    memory: int
    "peak bytes on the device; 0 on a CPU"


def serve(pipe: Connection, case: Case, name: str, threads: int) -> None:
    """Be a contender: send the first two losses and the seconds they took, then a `Turn` for each
    number of steps received, until killed.
    """
    torch.set_num_threads(threads)
    began = time.perf_counter()
    step = make_step(case, name)
    losses = [step() for _ in range(2)]
    pipe.send((losses, time.perf_counter() - began))
    while True:
        pipe.send(take_turn(step, pipe.recv(), case.device))


def take_turn(step: Step, steps: int, device: str) -> Turn:
    """Return the medians of so many steps; a step ends when its loss is read."""
    cpu, wall = [], []
    for _ in range(steps):
        began, before = time.perf_counter(), time.process_time()
        step()
        cpu.append(time.process_time() - before)
        wall.append(time.perf_counter() - began)
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return Turn(statistics.median(cpu), statistics.median(wall), memory)


def compare(case: Case, rounds: int, steps: int, threads: int) -> str:
    """Return the table of one comparison.

    Raises:
        SystemExit: the losses differ, so that the work is not the same; or a contender died.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    first: dict[str, tuple[list[float], float]] = {}
    try:
        for name in case.contenders:
            pipes[name], theirs = context.Pipe()
            arguments = (theirs, case, name, threads)
            processes.append(context.Process(target=serve, args=arguments, daemon=True))
            processes[-1].start()
            theirs.close()
            first[name] = pipes[name].recv()
        for losses in zip(*(found for found, _ in first.values()), strict=True):
            if max(losses) - min(losses) > AGREE[case.precision] * min(losses):
                raise SystemExit(f"{case.title}: losses differ: {losses}")
        turns = [{name: ask(pipe, steps) for name, pipe in pipes.items()} for _ in range(rounds)]
    except EOFError:
        raise SystemExit(f"{case.title}: a contender died; its error is above.") from None
    finally:
        for process in processes:
            process.kill()
            process.join()
    began = {name: seconds for name, (_, seconds) in first.items()}
    loss = f"loss of the first step {first[case.contenders[0]][0][0]:.6f}"
    about = f"{case.title}, batch {case.batch}, {case.precision}, {threads} threads; {loss}"
    make = gpu_table if case.device == "cuda" else cpu_table
    return f"{about}\n\n{make(case, turns, began)}"


def ask(pipe: Connection, steps: int) -> Turn:
    """Have a contender take its turn."""
    pipe.send(steps)
    turn: Turn = pipe.recv()
    return turn


def cpu_table(case: Case, turns: list[dict[str, Turn]], began: dict[str, float]) -> str:
    """Return a row for each contender, with the ratio of its times to ours."""
    lines = [
        "| contender | samples/CPU-s | min-max | samples/s | headrace to it, CPU | wall | ready |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    ours = case.contenders[0]
    for name in case.contenders:
        speeds = [case.batch / turn[name].cpu for turn in turns]
        wall = statistics.median(case.batch / turn[name].wall for turn in turns)
        cpu_ratio = statistics.median(turn[name].cpu / turn[ours].cpu for turn in turns)
        wall_ratio = statistics.median(turn[name].wall / turn[ours].wall for turn in turns)
        lines.append(
            f"| {name} | {statistics.median(speeds):.1f} | {min(speeds):.1f}-{max(speeds):.1f} | "
            f"{wall:.1f} | {cpu_ratio:.2f}x | {wall_ratio:.2f}x | {began[name]:.0f} s |"
        )
    return "\n".join(lines) + "\n"


def gpu_table(case: Case, turns: list[dict[str, Turn]], began: dict[str, float]) -> str:
    """Return a row for each contender; MFU is of the FLOPs that our model needs and of the peak
    that a large product reaches.
    """
    lines = [
        "| contender | samples/s | min-max | MFU | peak memory | headrace to it | ready |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    ours, flops = case.contenders[0], step_flops(case)
    peak = measured_peak(torch.device(case.device), case.precision)
    for name in case.contenders:
        speeds = [case.batch / turn[name].wall for turn in turns]
        ratio = statistics.median(turn[name].wall / turn[ours].wall for turn in turns)
        used = flops * statistics.median(speeds) / case.batch / peak
        lines.append(
            f"| {name} | {statistics.median(speeds):.0f} | {min(speeds):.0f}-{max(speeds):.0f} | "
            f"{used:.1%} | {turns[-1][name].memory / 2**30:.1f} GiB | {ratio:.2f}x | "
            f"{began[name]:.0f} s |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", default="1,2", help="numbers of threads, one table each")
    parser.add_argument("--only", default="", help="names of comparisons; all by default")
    parser.add_argument("--compiled", action="store_true", help="compiled contenders too")
    parser.add_argument("--gpu", action="store_true", help="the comparisons for a GPU instead")
    given = parser.parse_args()
    if given.gpu and not torch.cuda.is_available():
        print("skipped: --gpu needs a CUDA device, and torch sees none.")
        return
    cases = GPU_CASES if given.gpu else CASES
    threads = [torch.get_num_threads()] if given.gpu else [int(n) for n in given.threads.split(",")]
    for name in given.only.split(",") if given.only else cases:
        case = cases[name]
        if given.compiled and not given.gpu:
            both = tuple(each + end for each in PEERS for end in (COMPILED, ""))
            case = replace(case, contenders=both)
        for count in threads:
            print(compare(case, given.rounds, given.steps, count), flush=True)
    import transformers

    print(
        f"{given.rounds} interleaved rounds of {given.steps} steps, {os.cpu_count()} cores; torch "
        f"{torch.__version__}, transformers {transformers.__version__}"
    )


if __name__ == "__main__":
    main()
