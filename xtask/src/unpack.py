"""Unpacks what a CPU build needs from the wheels named on the command line into the folder named first."""
import sys
import zipfile

NEEDED = (
    "torch/include/",
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libc10.so",
    "torch/lib/libgomp.so.1",
    "nvidia/cu13/lib/libcudart.so.13",
    "nvidia/cu13/lib/libcupti.so.13",
)

folder, *wheels = sys.argv[1:]
for path in wheels:
    with zipfile.ZipFile(path) as wheel:
        for name in wheel.namelist():
            if name.startswith(NEEDED) or ".dist-info/licenses/" in name:
                wheel.extract(name, folder)
