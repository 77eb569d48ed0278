#!/usr/bin/env bash
# Trains rows of Table 6 at the paper's full length on a machine with a GPU and without a network, in pieces of at most
# nine minutes that go on where the last one ended:
#
#   bash bench/gpu_results.sh OUT [ROW ...] [OPTION ...]
#
# Rows are those of the study table6, k3-sgr and k3-layerwise unless others are named; every row has three seeds, which
# run side by side on the one GPU. Options are those of `python -m sgr_bench.training run`, such as --jobs 6, --seeds 0,
# --data cifar10, --minutes 4 or --set epochs=20. Images are looked for in OUT/cifar10.npz and data/cifar10.npz (the
# MedMNIST layout). Whole steps are captured in CUDA graphs; --set cuda_graph=false does without.
#
# The first call on a machine installs this checkout. OUT/results/table6.json has what is finished, OUT/results.md shows
# it beside the paper's numbers, and OUT/work what the next piece goes on from: keep it. Exit status: 0 everything is
# done, 1 a run failed, 2 a wrong command, 3 something is left, which the same command goes on with.
#
# --device cpu is for trying this script.
set -euo pipefail

budget=520 # seconds, of which a run takes some to end
unset SGR_BACKEND

wrong() {
  printf 'gpu_results.sh: %s\n' "$1" >&2
  exit 2
}

if [[ " $* " == *" --help "* ]]; then
  sed '1d; /^set /,$d; s/^# \{0,1\}//' "${BASH_SOURCE[0]}"
  exit
fi
[[ $# -gt 0 && $1 != -* ]] || wrong 'usage: bash bench/gpu_results.sh OUT [ROW ...] [OPTION ...]'
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
rows=()
while (($#)) && [[ $1 != -* ]]; do
  rows+=("$1")
  shift
done
if ((${#rows[@]} == 0)); then rows=(k3-sgr k3-layerwise); fi

options=(--device cuda --set cuda_graph=true)
if [[ " $* " =~ ' --device cpu '|' --device=cpu ' ]]; then options=(); fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for file in data/cifar10.npz "$out/cifar10.npz"; do
  if [[ -e $file ]]; then options+=(--data "npz:$file"); fi
done
if ! python3 -c 'import sgr_bench.training' 2>/dev/null; then
  bash bench/gpu.sh "$out/build" build || wrong "the build failed; see $out/build"
fi

minutes=$(((budget - SECONDS) / 60))
status=0
python3 -m sgr_bench.training run table6 "${rows[@]}" --work "$out/work" --out "$out/results" --jobs 3 \
  --minutes "$minutes" "${options[@]}" "$@" || status=$?
if [[ -e $out/results/table6.json ]]; then python3 -m sgr_bench.training page "$out/results" --out "$out"; fi
exit "$status"
