#!/usr/bin/env bash
# Latency or accuracy of one model. Installs nothing. Exit codes: 0 done, 2 bad input.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2
# shellcheck source=scripts/find_python.sh
. "$here/find_python.sh"

usage() {
    cat >&2 <<'EOF'
usage: run_benchmark.sh --input_model=MODEL --config=YAML [--mode=performance|accuracy]
                        [--dataset_location=DIR] [--label_path=FILE]
  Flags take their value as --flag=value or --flag value. The mode is performance unless given.
EOF
    exit 2
}

input_model='' config='' mode=performance dataset=''
args=()
while [ $# -gt 0 ]; do
    [[ $1 =~ ^[[:space:]]*$ ]] && { shift; continue; } # a blank, from a pasted line continuation
    flag=${1%%=*}
    case $flag in
        --input_model | --config | --mode | --dataset_location | --label_path) ;;
        -h | --help) usage ;;
        *) echo "run_benchmark.sh: unknown argument: $1" >&2; usage ;;
    esac
    case $1 in
        *=*) value=${1#*=}; shift ;;
        *) [ $# -ge 2 ] || { echo "run_benchmark.sh: $flag needs a value" >&2; usage; }
           value=$2; shift 2 ;;
    esac
    case $value in
        '' | --*) echo "run_benchmark.sh: $flag needs a value" >&2; usage ;;
    esac
    case $flag in
        --input_model) input_model=$value ;;
        --config) config=$value ;;
        --mode) mode=$value ;;
        --dataset_location) dataset=$value; args+=("--dataset-location=$value") ;;
        --label_path) args+=("--label-path=$value") ;;
    esac
done

[ -n "$config" ] || [ -z "$dataset" ] || config=$here/../configs/resnet50_v1_5.yaml
[ -n "$input_model" ] || { echo "run_benchmark.sh: missing: --input_model" >&2; usage; }
[ -n "$config" ] || { echo "run_benchmark.sh: missing: --config" >&2; usage; }
case $mode in
    performance) verb=benchmark ;;
    accuracy) verb=evaluate ;;
    *) echo "run_benchmark.sh: --mode is performance or accuracy, not $mode" >&2; usage ;;
esac

find_python
exec "$python" -P -m quantize "$verb" "--config=$config" ${args[@]+"${args[@]}"} -- "$input_model"
