#!/usr/bin/env bash
# shellcheck disable=SC2329 # functions are called by name
#
# Builds, tests and measures on a machine with a GPU, in at most nine minutes and without a network:
#
#   bash bench/gpu.sh OUT [--device cpu] [PART ...]
#
# The parts, ordered by worth, and the seconds that are kept for each; those with a + run side by side with the ones
# before, but for the build, and timings alone. Without any named, all but the last two:
#
#   build      75  installs this checkout into the Python at hand, for its GPU; logs what ptxas says of every kernel
#   kernels   185  every operator in every mode that selects another kernel, against float64
#   test      185+ the tests, those of CUDA and Triton first; failures.txt names each that fails, as it happens
#   memcheck  185+ what kernels does, under compute-sanitizer
#   racecheck 185+ the same for the races of CUDA kernels, a process for each dtype
#   step       95  whole steps as users take them, eager and as CUDA graphs
#   micro      75  every operator: what the goals name, then the rest
#   gradients  25  agreement with Algorithm 1 in every precision
#   profile    30  which kernels steps are made of, and ncu on those that the goals name
#   forced     25  whole steps with the CUDA kernels, and those of Triton, forced
#   report     10
#   roofline   25
#   memory     25
#
# A part may take all that is left but for what is kept for those after it. It leaves OUT/PART.log, its results, and a
# line in OUT/summary.txt: its name, exit status (124 or 137: out of time) and seconds. The end of the output has what
# matters: failing tests, wrong rows, the steps over back-propagation, and every goal with what was measured of it
# (OUT/end.txt). OUT/all.tar.gz holds everything, also when the script is stopped. Exit status 1: a part has failed; 2:
# a wrong command. --device cpu is for trying this script: without a GPU, and with less of everything.
set -euo pipefail
set -o allexport # every part runs in a shell of its own, under its time limit

export PYTHONUNBUFFERED=1 # a part that is stopped has said what it has done
unset SGR_BACKEND         # what users have is measured, and what is forced says so

budget=520 # seconds; a part that does not end when asked to gets five more
order=(build kernels test memcheck racecheck step micro gradients profile forced report roofline memory)
optional=2 # at the end of the order
declare -A kept=([build]=75 [kernels]=185 [test]=185 [memcheck]=185 [racecheck]=185 [step]=95 [micro]=75
  [gradients]=25 [profile]=30 [forced]=25 [report]=10 [roofline]=25 [memory]=25)
declare -A beside=([test]=1 [memcheck]=1 [racecheck]=1)

part_build() {
  if [[ $device == cuda ]]; then
    TORCH_CUDA_ARCH_LIST=$(python3 -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
    export TORCH_CUDA_ARCH_LIST SGR_BUILD_CUDA=1
  fi
  SGR_BUILD_CPP=1 python3 -m pip install -v --no-index --no-deps --no-build-isolation -e .
  python3 -c 'import sgr_kernels; print(sgr_kernels.backends())'
}

part_kernels() {
  local dtype jobs=()
  for dtype in float32 bfloat16 float16 float64; do # together: most of the time, one core compiles for Triton
    OMP_NUM_THREADS=1 python3 -m sgr_bench.every_kernel --device "$device" --dtypes "$dtype" &
    jobs+=($!)
  done
  all_succeed "${jobs[@]}"
}

# In the order of worth: time may be up before the end. The Triton cases themselves: the test that runs them keeps to
# one process a file. What installs and packs the project is for machines with a network.
part_test() {
  local what options # files that are named are not ignored, so they are left out here
  mapfile -t what < <(find tests -maxdepth 1 -name 'test_*.py' | grep -vE '/test_(readme|packaging)\.py$' | sort)
  what+=(tests/triton/*_cases.py tests/triton/test_*.py tests/cuda tests/bench tests/train)
  options=(-n 8 --dist load -o 'python_files=test_*.py *_cases.py'
    --deselect 'tests/triton/test_triton_interpreter.py::test_kernels[gpu')
  if [[ $device == cpu ]]; then what=(tests/test_errors.py) options=(-n 2); fi
  OMP_NUM_THREADS=1 python3 -m pytest -q -p no:cacheprovider -p sgr_bench.failures_now \
    --failures-now="$out/failures.txt" --junitxml="$out/test.xml" "${options[@]}" "${what[@]}"
}

part_memcheck() {
  only_on_a_gpu || return 0
  sanitized memcheck cuda bfloat16 float32 &
  local jobs=($!)
  sanitized memcheck triton bfloat16 float32 &
  jobs+=($!)
  all_succeed "${jobs[@]}"
}

part_racecheck() {
  only_on_a_gpu || return 0
  local dtype jobs=()
  for dtype in float32 bfloat16; do # float16 runs what bfloat16 does
    sanitized racecheck cuda "$dtype" &
    jobs+=($!)
  done
  all_succeed "${jobs[@]}"
}

# Without torch's cache every tensor is an allocation of its own, and what is written beside it is noticed. Failed calls
# of the CUDA API are no news: ours raise, and torch has some that only ask what the driver can do.
sanitized() { # TOOL BACKEND DTYPE ...
  local log=$out/sanitize-$1-$2-$3.log status=0
  OMP_NUM_THREADS=1 PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --padding 64 --report-api-errors no \
    --target-processes application-only --error-exitcode 1 \
    python3 -m sgr_bench.every_kernel --sanitized --device "$device" --backend "$2" --dtypes "${@:3}" \
    >"$log" 2>&1 || status=$?
  echo "$1 $2 ${*:3}: exit status $status, $(tail -n 1 "$log")"
  return "$status"
}

# The budget is the time of one comparison in seconds: a GPU is steadier than a CPU.
part_step() {
  measure "$out" step --whole --budget 3 --networks resnet50 resnet32 vit_s_16 swin_t \
    --methods BP 'BP + checkpointing' 'plain local' directional 'directional, every 4th' 'directional, overlapping' autograd 'Algorithm 1'
}

part_forced() {
  only_on_a_gpu || return 0
  local backend
  for backend in cuda triton; do
    SGR_BACKEND=$backend measure "$out/$backend" step --whole --budget 1 --networks resnet50 --methods BP directional
  done
}

part_micro() { measure "$out" micro; }
part_roofline() { measure "$out" roofline; }
part_memory() { measure "$out" memory; }
part_report() { python3 -m sgr_bench report "$out" --out "$out"; }

# Numbers round alike whatever the images are: without CIFAR-10 at hand they are noise.
part_gradients() {
  local data=data/cifar10.npz
  if [[ ! -e $data ]]; then
    data=$out/noise.npz
    python3 -c 'import sys, numpy as np
draw = np.random.default_rng(0).integers
images, labels = draw(256, size=(512, 32, 32, 3)), draw(10, size=512)
np.savez(sys.argv[1], train_images=images.astype("uint8"), train_labels=labels)' "$data"
  fi
  measure "$out" gradients --data "$data"
}

measure() { # FOLDER PART OPTION ...
  python3 -m sgr_bench "${@:2}" --device "$device" --out "$1" ${quick:+"$quick"}
}

# The sizes that the goals name: a row that a cluster of processors keeps on chip, one that nothing keeps, one of which
# the launch is most of the time; and what surrounds the products of a linear layer.
part_profile() {
  python3 -m sgr_bench.breakdown --device "$device" --methods directional autograd ${quick:+"$quick"}
  only_on_a_gpu || return 0
  local names backend
  names=$(grep -hoE '\w+_kernel\b' csrc/*/*.cuh sgr_kernels/operators/*/triton*.py | sort -u | paste -sd '|')
  for backend in cuda triton; do
    profiled --providers "$backend" --ops sgr_residual sgr_loss --shapes 256x200704 256x802816 128x4096 --dtypes float32
    profiled --providers "$backend" --ops linear_relu_step --shapes 4096x4096x4096 --dtypes bfloat16
  done
}

profiled() { # OPTION ...
  ncu --clock-control none --set basic --section MemoryWorkloadAnalysis --kernel-name "regex:^($names)$" \
    --filter-mode per-launch-config --launch-count 1 \
    python3 -m sgr_bench micro --quick --device "$device" "$@"
}

only_on_a_gpu() {
  [[ $device == cuda ]] || { echo 'not on a CPU' && return 1; }
}

all_succeed() { # JOB ...
  local job status=0
  for job; do wait "$job" || status=1; done
  return "$status"
}

run_part() { # PART SECONDS, in a process of its own
  local start=$SECONDS status=0 stopped='' job
  timeout --signal=INT --kill-after=5 "$2" bash -euo pipefail -c "part_$1" >"$out/$1.log" 2>&1 &
  job=$!
  trap 'stopped=yes; kill "$job" || true' TERM
  wait "$job" || status=$?
  if [[ $stopped ]]; then wait "$job" || status=$?; fi
  printf '%-9s %3d %4d s\n' "$1" "$status" $((SECONDS - start)) | tee -a "$out/summary.txt"
  return "$status"
}

run_together() { # SECONDS PART ...
  local part
  running=()
  for part in "${@:2}"; do
    run_part "$part" "$1" &
    running+=($!)
  done
  wait_for_all || failed=1
  if [[ $stopped ]]; then wait_for_all || failed=1; fi # the signal has ended the first wait
}

wait_for_all() {
  local job status=0
  for job in "${running[@]}"; do wait "$job" || status=1; done
  return "$status"
}

stop() {
  stopped=yes
  kill "${running[@]}" 2>/dev/null || true # some may have just ended
}

# From files that the parts have written line by line, so that it is there however they ended. What matters most comes
# last, and all of it fits into what is kept of an output where only the end is kept.
conclude() {
  set +e
  trap '' INT TERM
  {
    for part in gradients forced; do
      if [[ -e $out/$part.log ]]; then end_of "$part" 10; fi
    done
    while read -r part status _; do
      if ((status)) && [[ ! $part =~ ^(test|step|micro|gradients|forced)$ ]]; then end_of "$part" 5; fi # told elsewhere
    done <"$out/summary.txt"
    if [[ -e $out/failures.txt ]]; then
      echo "--- $(grep -c '^[^ ]' "$out/failures.txt") tests failed; $(tail -n 1 "$out/test.log" | cut -c1-150)"
      head -n 30 "$out/failures.txt" | cut -c1-130
      sed 's/^/under way when the tests ended: /' "$out/failures.txt.running" | head -n 12
    fi
    echo '--- results'
    python3 -m sgr_bench.goals "$out" --device "$device"
    echo '--- a line a part: name, exit status (124, 137: out of time), seconds'
    cat "$out/summary.txt"
  } 2>&1 | tee "$out/end.txt" | tail -c 11500
  cd "$out" && tar -czf all.tar.gz --exclude=all.tar.gz -- *
}

end_of() { # PART LINES
  echo "--- the end of $1.log:"
  tail -n "$2" "$out/$1.log" | cut -c1-150
}

wrong() {
  printf 'gpu.sh: %s\n' "$1" >&2
  exit 2
}

if [[ " $* " == *" --help "* ]]; then
  sed '1,3d; /^set /,$d; s/^# \{0,1\}//' "${BASH_SOURCE[0]}"
  exit
fi
[[ $# -gt 0 ]] || wrong 'usage: bash bench/gpu.sh OUT [--device cpu] [PART ...]'
mkdir -p "$1"
out=$(cd "$1" && pwd)
device=cuda
shift
parts=()
while (($#)); do
  if [[ $1 == --device ]]; then
    shift
    device=${1-}
    [[ $device =~ ^(cpu|cuda)$ ]] || wrong '--device must be cpu or cuda'
  else
    [[ -v kept[$1] ]] || wrong "no part $1; there are ${order[*]}"
    parts+=("$1")
  fi
  shift
done
if ((${#parts[@]} == 0)); then parts=("${order[@]:0:${#order[@]}-optional}"); fi
quick=''
if [[ $device == cpu ]]; then CUDA_VISIBLE_DEVICES='' quick=--quick; fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
: >"$out/summary.txt"
trap conclude EXIT
trap stop INT TERM
stopped='' failed=0 running=()
while ((${#parts[@]})); do
  together=("${parts[0]}")
  parts=("${parts[@]:1}")
  while ((${#parts[@]})) && [[ ${together[0]} != build && -v beside[${parts[0]}] ]]; do # nothing runs before it is built
    together+=("${parts[0]}")
    parts=("${parts[@]:1}")
  done
  left=$((budget - SECONDS))
  for part in "${parts[@]}"; do [[ -v beside[$part] ]] || left=$((left - kept[$part])); done
  run_together "$((left > 1 ? left : 1))" "${together[@]}"
  if [[ $stopped ]]; then exit 1; fi
done
exit "$failed"
