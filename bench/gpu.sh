#!/usr/bin/env bash
# shellcheck disable=SC2329 # functions are called by name
#
# Builds, tests and measures on a machine with a GPU, in at most nine minutes and without a network:
#
#   bash bench/gpu.sh OUT [--device cpu] [PART ...]
#
# The parts (without any named: all but the last), and the seconds that are kept for each:
#
#   build     60  installs this checkout into the Python at hand, for its GPU; logs what ptxas says of every kernel
#   kernels   45  every operator in every mode that selects another kernel, against float64
#   test     140  the tests, those of CUDA and Triton among them
#   sanitize  60  what kernels does, under compute-sanitizer: memcheck, and racecheck for CUDA
#   roofline  25  this one and the next: the parts of sgr-bench
#   micro     80
#   step      80
#   memory    25
#   report    15
#   profile   60  ncu on our kernels
#
# A part may take all that is left but for what is kept for those after it. It leaves OUT/PART.log, its results, and a
# line in OUT/summary.txt: its name, exit status (124 or 137: out of time) and seconds. OUT/all.tar.gz holds everything,
# also when the script is stopped. Exit status 1: a part has failed; 2: a wrong command.
# --device cpu is for trying this script: without a GPU, and with sgr-bench --quick.
set -euo pipefail
set -o allexport # every part runs in a shell of its own, under its time limit

export PYTHONUNBUFFERED=1 # a part that is stopped has said what it has done

budget=530 # seconds; a part that does not end when asked to gets ten more
order=(build kernels test sanitize roofline micro step memory report profile)
declare -A kept=([build]=60 [kernels]=45 [test]=140 [sanitize]=60 [roofline]=25 [micro]=80 [step]=80 [memory]=25
  [report]=15 [profile]=60)

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
  for dtype in float64 float32 bfloat16 float16; do # together: most of the time, one core compiles for Triton
    python3 -m sgr_bench.every_kernel --device "$device" --dtypes "$dtype" &
    jobs+=($!)
  done
  all_succeed "${jobs[@]}"
}

part_test() {
  local gpu=()
  if [[ $device == cuda ]]; then # the Triton cases themselves: the test that runs them keeps to one process a file
    gpu=(-o 'python_files=test_*.py *_cases.py' --deselect 'tests/triton/test_triton_interpreter.py::test_kernels[gpu')
  fi
  OMP_NUM_THREADS=1 python3 -m pytest -n 8 --dist worksteal --junitxml="$out/test.xml" tests "${gpu[@]}"
}

part_sanitize() {
  local jobs=() status=0
  sanitized memcheck cuda &
  jobs+=($!)
  sanitized memcheck triton &
  jobs+=($!)
  sanitized racecheck cuda &
  jobs+=($!)
  all_succeed "${jobs[@]}" || status=1
  tail -n 5 "$out"/sanitize-*.log
  return "$status"
}

# Without torch's cache every tensor is an allocation of its own, and what is written beside it is noticed. Failed calls
# of the CUDA API are no news: ours raise, and torch has some that only ask what the driver can do.
sanitized() { # TOOL BACKEND
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --padding 64 --report-api-errors no \
    --target-processes application-only --error-exitcode 1 \
    python3 -m sgr_bench.every_kernel --device "$device" --backend "$2" >"$out/sanitize-$1-$2.log" 2>&1
}

part_roofline() { measure roofline; }
part_micro() { measure micro; }
part_step() { measure step --budget 5; } # seconds for one comparison: a GPU is steadier than a CPU
part_memory() { measure memory; }
part_report() { python3 -m sgr_bench report "$out" --out "$out"; }

measure() {
  local quick=()
  if [[ $device == cpu ]]; then quick=(--quick); fi
  python3 -m sgr_bench "$@" --device "$device" --out "$out" "${quick[@]}"
}

part_profile() {
  local names backend
  names=$(grep -hoE '\w+_kernel\b' csrc/*/*.cuh sgr_kernels/operators/*/triton*.py | sort -u | paste -sd '|')
  for backend in cuda triton; do
    ncu --clock-control none --set basic --section MemoryWorkloadAnalysis --kernel-name "regex:^($names)$" \
      --filter-mode per-launch-config --launch-count 1 \
      python3 -m sgr_bench micro --quick --device "$device" --providers "$backend"
  done
}

all_succeed() { # JOB ...
  local job status=0
  for job; do wait "$job" || status=1; done
  return "$status"
}

run_part() { # PART SECONDS
  local start=$SECONDS status=0
  timeout --signal=INT --kill-after=10 "$2" bash -euo pipefail -c "part_$1" >"$out/$1.log" 2>&1 &
  job=$!
  wait "$job" || status=$?
  if [[ $stopped ]]; then wait "$job" || status=$?; fi
  if ((status)); then
    echo "--- the end of $1.log:"
    tail -n 20 "$out/$1.log"
  fi
  printf '%-9s %3d %4d s\n' "$1" "$status" $((SECONDS - start)) | tee -a "$out/summary.txt"
  return "$status"
}

stop() {
  stopped=yes
  kill "$job" || true # it may have just ended
}

pack() {
  cd "$out"
  tar -czf all.tar.gz --exclude=all.tar.gz -- *
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
if ((${#parts[@]} == 0)); then parts=("${order[@]:0:${#order[@]}-1}"); fi
if [[ $device == cpu ]]; then export CUDA_VISIBLE_DEVICES=; fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
: >"$out/summary.txt"
trap pack EXIT
trap stop INT TERM
stopped='' failed=0
for index in "${!parts[@]}"; do
  if [[ $stopped ]]; then exit 1; fi
  left=$((budget - SECONDS))
  for later in "${parts[@]:index+1}"; do left=$((left - kept[$later])); done
  run_part "${parts[index]}" "$left" || failed=1
done
exit "$failed"
