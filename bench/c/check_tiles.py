"""Check that no micro-kernel keeps its accumulators on the stack: ``check_tiles.py OBJECT...``

What it is: disassembles object files of csrc/kernels/isa_*.c (with objdump), finds in each function
tile_<rows>_... and row_<gates>_... the loop with the most multiply-adds; fails if anything in it
touches the stack. A compiler that does not unroll the loops over rows and vectors, or a tile
with more accumulators than registers, stores them at every step: it halves the speed and changes no
result.
What it is not: a benchmark, and not meant for isa_portable.c, whose tiles need more registers than
there are.

    make -C csrc && python bench/c/check_tiles.py csrc/build/plain/kernels/isa_avx2.o

A foreign object needs the objdump of its architecture: OBJDUMP=aarch64-linux-gnu-objdump.
"""

import argparse
import os
import re
import subprocess
import sys

TILE = re.compile(r"(?:tile|row)_(\d+)_(?:to_)?(full|half|quarter|three_quarters)_(f32|f64)")
FUNCTION = re.compile(r"^[0-9a-f]+ <(\w+)(?:\.\w+)*>:$")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*?)\s*$")
MULTIPLY_ADD = re.compile(r"vfn?m(?:add|sub)|fml[as]|fn?m(?:add|sub)")
JUMP = re.compile(r"j\w+|b(?:\.\w+)?|cbn?z|tbn?z")
STACK = re.compile(r"\(%rsp|-0x[0-9a-f]{2,}\(%rbp\)(?!\{)|\[sp\b")  # %rbp: of an aligned frame


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        epilog="Example: python bench/c/check_tiles.py csrc/build/plain/kernels/isa_avx2.o",
    )
    parser.add_argument("objects", nargs="+", metavar="OBJECT")
    parser.add_argument("-q", "--quiet", action="store_true", help="only what is wrong")
    options = parser.parse_args()
    bad = sum(check(path, options.quiet) for path in options.objects)
    sys.exit(f"{bad} tiles keep something on the stack" if bad else 0)


def check(path, quiet):
    """Print a line for each tile of an object file; return how many are wrong."""
    tiles = {name: body for name, body in functions(path) if TILE.fullmatch(name)}
    if not tiles:
        sys.exit(f"{path}: no function tile_... or row_... in it")
    bad = 0
    for name, body in sorted(tiles.items()):
        loop = busiest_loop(body)
        count = multiply_adds(loop)
        if not count:
            sys.exit(f"{path}: {name} has no loop with multiply-adds; was it optimised?")
        touching = [
            f"{operation} {operands}" for _, operation, operands in loop if STACK.search(operands)
        ]
        bad += bool(touching)
        if touching or not quiet:
            verdict = f"STACK: {'; '.join(touching)}" if touching else "registers only"
            print(f"{path}: {name}: {count} multiply-adds of {len(loop)} instructions, {verdict}")
    return bad


def functions(path):
    """Yield (name, [(address, operation, operands)]) for each function of an object file."""
    command = [os.environ.get("OBJDUMP", "objdump"), "-d", "--no-show-raw-insn", path]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    name, body = None, []
    for line in listing.splitlines():
        if start := FUNCTION.match(line):
            if name:
                yield name, body
            name, body = start[1], []
        elif found := INSTRUCTION.match(line):
            body.append((int(found[1], 16), found[2], found[3]))
    if name:
        yield name, body


def busiest_loop(body):
    """Of the stretches between a backward jump and its target, the one with the densest work.

    An outer loop contains the inner one and all its multiply-adds; the inner one is the shorter."""
    loops = [[]]
    for address, operation, operands in body:
        if not JUMP.fullmatch(operation):
            continue
        target = re.search(r"\b([0-9a-f]+) <", operands)
        if target and int(target[1], 16) <= address:
            loops.append([one for one in body if int(target[1], 16) <= one[0] <= address])
    return max(loops, key=lambda loop: (multiply_adds(loop), -len(loop)))


def multiply_adds(loop):
    return sum(bool(MULTIPLY_ADD.match(operation)) for _, operation, _ in loop)


if __name__ == "__main__":
    main()
