#!/usr/bin/env bash
# Latency or accuracy of one model. Installs nothing. Exit codes: 0 done, 2 bad input.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2
# shellcheck source=scripts/find_python.sh
. "$here/find_python.sh"
# shellcheck source=scripts/flags.sh
. "$here/flags.sh"

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
valued='--input_model --config --mode --dataset_location --label_path'
switches=''
take() {
    case $1 in
        --input_model) input_model=$2 ;;
        --config) config=$2 ;;
        --mode) mode=$2 ;;
        --dataset_location) dataset=$2; args+=("--dataset-location=$2") ;;
        --label_path) args+=("--label-path=$2") ;;
    esac
}
read_flags "$@"

[ -n "$config" ] || [ -z "$dataset" ] || config=$here/../configs/resnet50_v1_5.yaml
[ -n "$input_model" ] || refuse "missing: --input_model"
[ -n "$config" ] || refuse "missing: --config"
case $mode in
    performance) verb=benchmark ;;
    accuracy) verb=evaluate ;;
    *) refuse "--mode is performance or accuracy, not $mode" ;;
esac

find_python
exec "$python" -P -m quantize "$verb" "--config=$config" ${args[@]+"${args[@]}"} -- "$input_model"
