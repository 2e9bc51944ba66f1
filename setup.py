"""Builds fastrnn._core: the Cython boundary and the C core in one extension module.

Everything else about the package is in pyproject.toml. What differs from a stock extension:

- The list of C files and flags is csrc/sources.mk, shared with csrc/Makefile.
- Each csrc/kernels/isa_*.c is compiled with its own instruction-set flags, all other files for the
  baseline; setuptools knows only one set of flags an extension.
- Objects are kept in build/ and compiled again only when they are older than what they include.
"""

import hashlib
import os
import platform
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
INCLUDE_DIRS = [str(CSRC / "include"), str(CSRC), numpy.get_include()]
CORE = dict(re.findall(r"^(\w+)\s*:=\s*(.*)$", (CSRC / "sources.mk").read_text(), re.MULTILINE))
UNITS = {CSRC / name for key in CORE if key.startswith("SOURCES") for name in CORE[key].split()}
INCLUDED = {*CSRC.glob("*.[ch]"), *CSRC.glob("include/*.h"), *CSRC.glob("kernels/*.h")} - UNITS

ARCHITECTURES = {"arm64": "aarch64", "amd64": "x86_64"}
if sys.platform == "darwin":  # a universal build would need both lists of kernels at once
    os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}")
    ARCHITECTURES["universal2"] = ARCHITECTURES.get(platform.machine(), platform.machine())

# Built with NumPy 2 headers, runs on every NumPy that pyproject.toml allows.
MACROS = [
    ("NPY_NO_DEPRECATED_API", "NPY_1_23_API_VERSION"),
    ("NPY_TARGET_VERSION", "NPY_1_23_API_VERSION"),
]

# Python makes signed overflow defined, by one of these flags. The core must not need that (the
# sanitizers see to it), and loses by it what the compiler may infer about loop counters.
UNDO = {"-fwrapv": "-fno-wrapv", "-fno-strict-overflow": "-fstrict-overflow"}
# What Cython generates is not ours to tidy: its unused helpers and parameters stay silent.
CYTHON_CFLAGS = ["-Wno-unused-parameter", "-Wno-unused-function", "-Wno-missing-field-initializers"]


class BuildCore(build_ext):
    """Compiles every source with its own flags, then lets setuptools link the objects."""

    def build_extension(self, ext):
        (generated,) = cythonize([ext], build_dir="build/cython", language_level=3, quiet=True)
        sources = [*self._core_sources(), *generated.sources]
        flags = {path: self._flags(path) for path in reversed(sources)}  # the longest come first
        with ThreadPoolExecutor(self.parallel or 2) as pool:
            objects = list(pool.map(self._object, flags, flags.values()))
        # Linking is cheap, and a changed compiler may bring objects older than the last module.
        ext.sources, ext.extra_objects, self.force = [], objects, True
        super().build_extension(ext)

    def _core_sources(self):
        names = CORE["SOURCES"].split()
        if self.compiler.compiler_type != "msvc":  # its vector code would need other flags
            arch = self.plat_name.split("-")[-1]
            names += CORE.get(f"SOURCES_{ARCHITECTURES.get(arch, arch)}", "").split()
        return [str(CSRC / name) for name in names]

    def _flags(self, source):
        if self.compiler.compiler_type == "msvc":
            return ["/O2", "/std:c11"]
        own = CORE.get(f"CFLAGS_{Path(source).stem}", "").split()
        if Path(source).is_relative_to(CSRC):
            own += [undo for flag, undo in UNDO.items() if flag in self.compiler.compiler_so]
        else:
            own += CYTHON_CFLAGS
        return [*CORE["CFLAGS_all"].split(), "-g0", *own]

    def _object(self, source, flags):
        """Path of the object made from `source`, compiled now unless a fresh one is there."""
        compiler = getattr(self.compiler, "compiler_so", self.compiler.compiler_type)
        command = repr((compiler, flags, sys.version, numpy.__version__))
        digest = hashlib.sha256(command.encode()).hexdigest()[:8]
        out = Path("build", f"core.{self.plat_name}", digest)
        (obj,) = self.compiler.object_filenames([source], output_dir=str(out))
        newest = max(os.path.getmtime(path) for path in [source, __file__, *INCLUDED])
        if not os.path.exists(obj) or os.path.getmtime(obj) < newest:
            self.compiler.compile(
                [source], str(out), MACROS, INCLUDE_DIRS, extra_postargs=flags, debug=False
            )
        return obj


setup(
    ext_modules=[
        Extension(
            "fastrnn._core",
            ["src/fastrnn/_core.pyx"],
            include_dirs=INCLUDE_DIRS,
            extra_link_args=[] if os.name == "nt" else ["-pthread", "-lm"],
        )
    ],
    cmdclass={"build_ext": BuildCore},
)
