#!/usr/bin/env bash
# Quantize a float ONNX classifier and prove what it costs. Installs nothing.
# Exit codes: 0 goal met, 2 bad input, 3 not met or too slow, 4 undecided, 130/143 interrupted.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2
# shellcheck source=scripts/find_python.sh
. "$here/find_python.sh"

usage() {
    cat >&2 <<'EOF'
usage: run_tuning.sh --input_model=MODEL --config=YAML --output_model=MODEL
                     [--dataset_location=DIR] [--label_path=FILE] [--quant_format=default|QDQ|QOperator]
                     [--fresh] [--dry_run] [--budget=20m] [--set=KEY=VALUE]...
  Flags take their value as --flag=value or --flag value. --dataset_location, --label_path and
  --quant_format override the YAML; with --dataset_location, --config may be left out.
EOF
    exit 2
}

input_model='' output_model='' config='' dataset=''
args=()
while [ $# -gt 0 ]; do
    [[ $1 =~ ^[[:space:]]*$ ]] && { shift; continue; } # a blank, from a pasted line continuation
    flag=${1%%=*}
    case $flag in
        --fresh) [ "$1" = --fresh ] || usage; args+=(--fresh); shift; continue ;;
        --dry_run) [ "$1" = --dry_run ] || usage; args+=(--dry-run); shift; continue ;;
        --input_model | --output_model | --config | --dataset_location | --label_path) ;;
        --quant_format | --budget | --set) ;;
        -h | --help) usage ;;
        *) echo "run_tuning.sh: unknown argument: $1" >&2; usage ;;
    esac
    case $1 in
        *=*) value=${1#*=}; shift ;;
        *) [ $# -ge 2 ] || { echo "run_tuning.sh: $flag needs a value" >&2; usage; }
           value=$2; shift 2 ;;
    esac
    case $value in
        '' | --*) echo "run_tuning.sh: $flag needs a value" >&2; usage ;;
    esac
    case $flag in
        --input_model) input_model=$value ;;
        --output_model) output_model=$value ;;
        --config) config=$value ;;
        --dataset_location) dataset=$value; args+=("--dataset-location=$value") ;;
        --label_path) args+=("--label-path=$value") ;;
        --quant_format) args+=("--quant-format=$value") ;;
        --budget) args+=("--budget=$value") ;;
        --set) args+=("--set=$value") ;;
    esac
done

[ -n "$config" ] || [ -z "$dataset" ] || config=$here/../configs/resnet50_v1_5.yaml
missing=''
[ -n "$input_model" ] || missing="$missing --input_model"
[ -n "$config" ] || missing="$missing --config"
[ -n "$output_model" ] || missing="$missing --output_model"
[ -z "$missing" ] || { echo "run_tuning.sh: missing:$missing" >&2; usage; }

find_python
exec "$python" -P -m quantize tune "--config=$config" "--output=$output_model" \
    ${args[@]+"${args[@]}"} -- "$input_model"
