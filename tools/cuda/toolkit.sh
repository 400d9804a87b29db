#!/bin/sh
# Builds anneal's CUDA feature on a machine that has no GPU, no driver and no CUDA toolkit: a login node, a CI runner.
#
#   tools/cuda/toolkit.sh cargo build --release --features cuda      # makes the toolkit, then runs the command in it
#   tools/cuda/toolkit.sh                                            # makes it and prints the environment to `eval`
#
# Options, before the command:
#   --into DIR      where to put it (default: target/cuda-toolkit in this repository; about 2 GB)
#   --toolkit DIR   use the toolkit in DIR (CUDA 12 or 13, with bin/nvcc and include/cuda.h) instead of Python wheels
#
# What it makes: a Python environment with NVIDIA's compiler, headers and libraries (release 13.0: machine code of a
# newer one does not load on a 13.0 driver), and a folder that looks like an installed toolkit. Three things in it are
# stand-ins. `lib*.a` are empty archives: the program defines the libraries' functions itself and opens the real ones
# when it first calls them (stages/ops/src/cuda/libraries.rs), so the linker only has to find the names. `nvidia-smi`
# answers the one question that dfdx's build script asks. CUDA_COMPUTE_CAP=80 makes dfdx's own kernels load on every
# GPU that anneal runs on; anneal's kernels are compiled for each GPU by stages/ops/build.rs (ANNEAL_CUDA_ARCHS).
#
# Needs: python3 with venv and pip, a C++ compiler that nvcc accepts (g++), a package index that pip reaches.
set -eu

here=$(cd "$(dirname "$0")/../.." && pwd)
into=$here/target/cuda-toolkit
toolkit=
while [ $# -gt 0 ]; do
    case $1 in
        --into) into=${2:?--into needs a folder}; shift 2 ;;
        --toolkit) toolkit=${2:?--toolkit needs a folder}; shift 2 ;;
        --) shift; break ;;
        -*) echo "toolkit.sh: unknown option $1 (there are --into DIR and --toolkit DIR)" >&2; exit 2 ;;
        *) break ;;
    esac
done
mkdir -p "$into"
into=$(cd "$into" && pwd)

if [ -z "$toolkit" ]; then
    toolkit=$into/wheels
    if [ ! -e "$into/complete" ]; then
        echo "toolkit.sh: installing the CUDA compiler and headers into $into" >&2
        rm -rf "$into/venv"
        python3 -m venv "$into/venv"
        # pip's own words go to stderr: stdout is for `eval`.
        "$into/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' \
            'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-cublas==13.0.*' >&2
        found=$("$into/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/nvidia/cu13
        rm -f "$toolkit"
        ln -s "$found" "$toolkit"
        touch "$into/complete"
    fi
fi
toolkit=$(cd "$toolkit" && pwd -P)
for file in bin/nvcc include/cuda.h; do
    if [ ! -e "$toolkit/$file" ]; then
        echo "toolkit.sh: $toolkit has no $file: give --toolkit a CUDA toolkit, or remove $into and run again" >&2
        exit 1
    fi
done

root=$into/root
rm -rf "$root"
mkdir -p "$root/bin" "$root/lib64"
ln -s "$toolkit/include" "$root/include"
for library in cuda cublas cublasLt nvrtc; do
    printf '!<arch>\n' > "$root/lib64/lib$library.a"
done
printf '#!/bin/sh\necho compute_cap\necho 8.0\n' > "$root/bin/nvidia-smi"
chmod +x "$root/bin/nvidia-smi"

cat > "$into/env.sh" <<END
export CUDA_PATH='$root' CUDA_ROOT='$root' NVCC='$toolkit/bin/nvcc' CUDA_COMPUTE_CAP=80
export PATH='$root/bin:$toolkit/bin':"\$PATH"
END
if [ $# -eq 0 ]; then
    cat "$into/env.sh"
    exit 0
fi
. "$into/env.sh"
exec "$@"
