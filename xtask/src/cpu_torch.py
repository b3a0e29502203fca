"""Makes an unpacked PyTorch, built for CUDA, importable where none of CUDA's libraries is.

Its Python half is linked against libtorch_cuda.so and NVIDIA's libraries, though nothing of them runs on the CPU. This puts
an empty library in the place of each one that is missing, and in libtorch_cuda.so's a small one that has every symbol asked of it: functions
that do nothing, type information that names a class. Whoever called into CUDA would get nonsense: nobody does, as
torch.cuda.is_available() is false.
"""

import os
import subprocess
import sys

# The one constructor that importing torch.distributed runs: its object has to have a class.
OPTIONS = "_ZN4c10d16ProcessGroupNCCL7OptionsC1Eb"
CLASS_INFO = "_ZTVN10__cxxabiv117__class_type_infoE"
READERS = ["libtorch_python.so", "libc10_cuda.so", "libshm.so"]
CPU = ["libtorch_cpu.so", "libc10.so", "libshm.so", "libtorch_python.so", "libc10_cuda.so", "libgomp.so.1"]
SYSTEM = ["libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1",
          "ld-linux-x86-64.so.2"]


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def symbols(path, kind):
    return {line.split()[-1].split("@")[0]: line.split()[-2] for line in run("nm", "-D", kind, path).splitlines()}


def needed(path):
    lines = run("readelf", "-d", path).splitlines()
    return {line.split("[")[1].rstrip("]") for line in lines if "(NEEDED)" in line}


def source(missing):
    info = [name for name in missing if name.startswith("_ZTI")]
    data = [name for name in missing if name.startswith(("_ZTV", "_ZTS"))]
    code = [name for name in missing if name not in info and name not in data and name != OPTIONS]
    lines = [".data", ".balign 64"]
    for number, name in enumerate(info):
        lines += [f'.globl "{name}"', f'"{name}": .quad {CLASS_INFO} + 16, name{number}',
                  f'name{number}: .asciz "{name[4:]}"', ".balign 64"]
    for name in data:
        lines += [f'.globl "{name}"', f'"{name}": .zero 1024']
    lines += [".balign 64", f"info: .quad {CLASS_INFO} + 16, info_name", 'info_name: .asciz "OfNothing"', ".balign 64",
              "table: .quad 0, info"] + [".quad nothing"] * 16
    lines += [".bss", ".balign 64", "blank: .zero 65536", ".text"]
    for name in code:
        lines += [f'.globl "{name}"', f'.type "{name}", @function', f'"{name}":']
    lines += ["leaq blank(%rip), %rax", "ret", f".globl {OPTIONS}", f".type {OPTIONS}, @function", f"{OPTIONS}:",
              "leaq table + 16(%rip), %rax", "movq %rax, (%rdi)", "nothing: ret",
              '.section .note.GNU-stack, "", @progbits']
    return "\n".join(lines) + "\n"


def library(path, text, *more):
    # What was unpacked there may be half a gigabyte.
    if os.path.exists(path):
        os.remove(path)
    command = ["cc", "-shared", "-nostdlib", f"-Wl,-soname,{os.path.basename(path)}", "-x", "assembler", "-", "-o", path]
    subprocess.run(command + ["-x", "none", *more], check=True, input=text, text=True)


def main(folder):
    torch, nvidia = os.path.join(folder, "torch/lib"), os.path.join(folder, "nvidia/cu13/lib")
    paths = {name: os.path.join(torch, name) for name in CPU}
    defined = set()
    for path in [*paths.values(), *(os.path.join(nvidia, name) for name in os.listdir(nvidia) if ".so" in name),
                 *(run("cc", f"-print-file-name={name}").strip() for name in SYSTEM[:4])]:
        defined |= symbols(path, "--defined-only").keys()
    missing = set()
    for name in READERS:
        asked = symbols(paths[name], "--undefined-only")
        missing |= {symbol for symbol, kind in asked.items() if kind == "U" and not symbol.startswith(("Py", "_Py"))}
    library(os.path.join(torch, "libtorch_cuda.so"), source(sorted(missing - defined)), "-lstdc++")
    for name in ["libtorch_cuda_linalg.so", "libtorch_nvshmem.so"]:
        os.remove(os.path.join(torch, name))
    wanted = set().union(*(needed(path) for path in paths.values())) - set(SYSTEM)
    there = set(os.listdir(torch)) | set(os.listdir(nvidia))
    for name in sorted(wanted - there):
        library(os.path.join(nvidia, name), ".section .note.GNU-stack, \"\", @progbits\n")


main(sys.argv[1])
